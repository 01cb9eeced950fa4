package token

// Access to somebody else's store, which may hang, panic, or lock when nobody waits
// for it any more.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// storeTimeout bounds one access to the store.
	storeTimeout = 3 * time.Second

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

	mu    sync.Mutex
	hangs int       // accesses that were given up and have not returned
	locks int       // likewise, waits for the lock
	slow  time.Time // when the last access was given up; zero: none was
}

func newShelf(store Store, digest string) *shelf {
	return &shelf{store: store, key: keyPrefix + digest + "/"}
}

// open reports whether the store may be accessed.
func (s *shelf) open() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := slowPause
	if s.hangs > 0 {
		pause = probePause
	}
	return s.hangs < mostProbes && (s.slow.IsZero() || time.Since(s.slow) >= pause)
}

func (s *shelf) count(what *int, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*what += by
}

// within makes an access that may not keep to its context. It has a time limit of
// its own, which is not the caller's.
func within[T any](ctx context.Context, s *shelf, access func(context.Context) (T, error)) (T, error) {
	var none T
	if !s.open() {
		return none, errStoreHangs
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	var over atomic.Bool // for whoever comes first: it returned, or was given up
	ch := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("the store panicked: %v", p)
			}
			ch <- r
			if !over.CompareAndSwap(false, true) {
				s.count(&s.hangs, -1)
			}
		}()
		r.value, r.err = access(ctx)
	}()
	select {
	case r := <-ch:
		return r.value, plain(r.err)
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.slow = time.Now()
	s.mu.Unlock()
	select { // a store that keeps to its context says more
	case r := <-ch:
		return r.value, plain(r.err)
	case <-time.After(lateAnswer):
	}
	if over.CompareAndSwap(false, true) {
		s.count(&s.hangs, 1)
	}
	return none, fmt.Errorf("no answer within %v", storeTimeout)
}

// plain is what may be said of a store's error, which may have a secret of its own
// in it, as in the URL of a Redis.
func plain(err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.New(Redact(err.Error()))
}

// load reads a value; found is false if there is nothing.
func (s *shelf) load(ctx context.Context, name string) (raw []byte, found bool, err error) {
	raw, err = within(ctx, s, func(ctx context.Context) ([]byte, error) { return s.store.Load(ctx, s.key+name) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("loading from the store: %w", err)
	}
	return raw, true, nil
}

// save writes a value.
func (s *shelf) save(ctx context.Context, name string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = within(ctx, s, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.store.Store(ctx, s.key+name, raw) })
	if err != nil {
		return fmt.Errorf("storing: %w", err)
	}
	return nil
}

// lock is the store's lock, which is waited for, maybe for longer than anybody cares.
type lock struct {
	s    *shelf
	end  context.CancelFunc // some stores hold a lock for as long as its context lasts
	done chan error         // gets one value: whether the lock is held

	mu       sync.Mutex
	answered bool
	held     bool
	unwanted bool
}

// lock begins to wait for the lock.
func (s *shelf) lock(ctx context.Context) *lock {
	l := &lock{s: s, done: make(chan error, 1)}
	ctx, l.end = context.WithCancel(context.WithoutCancel(ctx))
	s.mu.Lock()
	hang := s.locks >= mostProbes
	s.mu.Unlock()
	if hang || !s.open() {
		l.answered = true
		l.done <- errStoreHangs
		return l
	}
	go func() {
		err := l.acquire(ctx)
		l.mu.Lock()
		l.answered, l.held = true, err == nil
		unwanted := l.unwanted
		l.done <- err
		l.mu.Unlock()
		if unwanted { // it comes too late
			s.count(&s.locks, -1)
			l.unlock()
		}
	}()
	return l
}

func (l *lock) acquire(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("the store panicked")
		}
	}()
	return l.s.store.Lock(ctx, l.s.key+"lock")
}

// release gives the lock back, now or when it comes. It may take its time if the
// lock is held.
func (l *lock) release() {
	l.mu.Lock()
	if !l.answered {
		l.unwanted = true
		l.s.count(&l.s.locks, 1)
		l.mu.Unlock()
		l.end()
		return
	}
	l.mu.Unlock()
	l.unlock()
}

// unlock gives back a lock that is held.
func (l *lock) unlock() {
	l.mu.Lock()
	held := l.held
	l.held = false
	l.mu.Unlock()
	pause := unlockPause
	for i := 0; held && i < unlockTries; i++ {
		_, err := within(context.Background(), l.s, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, l.s.store.Unlock(ctx, l.s.key+"lock")
		})
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			break
		}
		time.Sleep(pause)
		pause = min(2*pause, unlockMost)
	}
	l.end()
}
