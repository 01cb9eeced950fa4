package token

// Access to somebody else's store, which may hang, panic, or lock when nobody waits
// for it any more.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"
)

const (
	// storeTimeout bounds one access to the store, and so how long a request waits
	// because it fails: clients of databases try for longer by themselves.
	storeTimeout = time.Second

	// After an access that took too long the store is left alone for slowPause. If
	// it does not even return, it is for probePause, and when mostProbes have not
	// returned, until one does.
	slowPause  = 5 * time.Second
	probePause = 30 * time.Second
	mostProbes = 3

	// Unlocking that fails is tried again after unlockPause, then twice as long each
	// time and every unlockMost in the end: for 11 minutes, all in all.
	unlockPause = time.Second
	unlockMost  = time.Minute
	unlockTries = 16
)

var errStoreHangs = errors.New("earlier accesses to the store still hang")

// shelf is the place of one token in a store.
type shelf struct {
	store Store
	key   string // without the last part

	hangs atomic.Int32              // accesses that were given up and have not returned
	locks atomic.Int32              // likewise, waits for the lock
	slow  atomic.Pointer[time.Time] // when the last access was given up; nil: none was
}

func newShelf(store Store, digest string) *shelf {
	return &shelf{store: store, key: keyPrefix + digest + "/"}
}

// open reports whether the store may be accessed.
func (s *shelf) open() bool {
	hangs, slow, pause := s.hangs.Load(), s.slow.Load(), slowPause
	if hangs > 0 {
		pause = probePause
	}
	return hangs < mostProbes && (slow == nil || time.Since(*slow) >= pause)
}

// access goes to the store, which may not keep to its context, and whose errors may have
// a secret of its own in them, as in the URL of a Redis.
func (s *shelf) access(do func(context.Context) ([]byte, error)) ([]byte, error) {
	if !s.open() {
		return nil, errStoreHangs
	}
	start := time.Now()
	raw, err := guarded(context.Background(), storeTimeout, &s.hangs, "the store", do)
	if now := time.Now(); now.Sub(start) >= storeTimeout {
		s.slow.Store(&now)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return raw, err
	}
	return nil, errors.New(Redact(err.Error()))
}

// load reads a value; found is false if there is nothing.
func (s *shelf) load(name string) (raw []byte, found bool, err error) {
	raw, err = s.access(func(ctx context.Context) ([]byte, error) { return s.store.Load(ctx, s.key+name) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("loading from the store: %w", err)
	}
	return raw, true, nil
}

// save writes a value.
func (s *shelf) save(name string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = s.access(func(ctx context.Context) ([]byte, error) { return nil, s.store.Store(ctx, s.key+name, raw) })
	if err != nil {
		return fmt.Errorf("storing: %w", err)
	}
	return nil
}

// lock is the store's lock, which is waited for, maybe for longer than anybody cares.
type lock struct {
	s    *shelf
	end  context.CancelFunc // some stores hold a lock for as long as its context lasts
	done chan struct{}      // closed when err says whether the lock is held
	err  error
}

// lock begins to wait for the lock.
func (s *shelf) lock() *lock {
	ctx, cancel := context.WithCancel(context.Background())
	l := &lock{s: s, end: cancel, done: make(chan struct{})}
	if s.locks.Load() >= mostProbes || !s.open() {
		l.err = errStoreHangs
		close(l.done)
		return l
	}
	go func() {
		defer close(l.done)
		defer func() {
			if recover() != nil {
				l.err = errors.New("the store panicked")
			}
		}()
		l.err = s.store.Lock(ctx, s.key+"lock")
	}()
	return l
}

// release gives the lock back, now or when it comes, and takes its time.
func (l *lock) release() {
	defer l.end()
	select {
	case <-l.done:
	default: // too late for whoever wanted it
		l.s.locks.Add(1)
		l.end()
		<-l.done
		l.s.locks.Add(-1)
	}
	pause := unlockPause
	for i := 0; l.err == nil && i < unlockTries; i++ {
		_, err := l.s.access(func(ctx context.Context) ([]byte, error) { return nil, l.s.store.Unlock(ctx, l.s.key+"lock") })
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(pause)
		pause = min(2*pause, unlockMost)
	}
}
