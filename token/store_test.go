package token

// Stores for tests, with the habits of those that people use.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"
)

// habit is what sets a store apart.
type habit struct {
	lockEmpties bool          // a lock's name is a record, which locking empties and unlocking deletes (Consul)
	lockRefuses bool          // a lock that is held is refused at once (PostgreSQL)
	lockErrs    bool          // there are no locks, and that is an error
	lockNothing bool          // there are no locks, and nobody is told
	lockDeaf    bool          // waiting for a lock does not end with its context
	lockStale   time.Duration // a lock whose holder does not renew it is taken after this (file system)
	downIsGone  bool          // an outage is reported as fs.ErrNotExist (Redis)
	latency     time.Duration
}

var habits = map[string]habit{
	"plain":           {},
	"locks by name":   {lockEmpties: true},
	"refuses locks":   {lockRefuses: true},
	"fails locks":     {lockErrs: true},
	"has no locks":    {lockNothing: true},
	"deaf locks":      {lockDeaf: true},
	"file system":     {lockStale: 10 * time.Second},
	"says not found":  {downIsGone: true},
	"slow":            {latency: 40 * time.Millisecond},
	"slow, no locks":  {latency: 40 * time.Millisecond, lockNothing: true},
	"lock by context": {lockStale: 30 * time.Second, lockRefuses: true},
}

// memServer is what the clients of a store share.
type memServer struct {
	habit
	mu       sync.Mutex
	values   map[string][]byte
	before   map[string][]byte // what each was before the last write
	locks    map[string]heldLock
	down     error // what every access ends with, or nil
	readOnly bool
	paused   bool // for as long as that lasts, whatever the context says
	hang     bool // for a day, whatever the context says
	hanging  int  // accesses
	locking  int  // waits for locks
	stale    int  // so many reads give what was before the last write
	writes   []*record
}

type heldLock struct {
	by *memStore
	at time.Time // when its holder last renewed it
}

func newMemServer(h habit) *memServer {
	return &memServer{habit: h, values: map[string][]byte{}, before: map[string][]byte{}, locks: map[string]heldLock{}}
}

func (s *memServer) set(change func(*memServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// token returns the record that lies there, or nil.
func (s *memServer) token() *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, raw := range s.values {
		if strings.HasSuffix(key, "/token") {
			return parseRecord(raw)
		}
	}
	return nil
}

// memStore is a client of a memServer.
type memStore struct {
	*memServer
	skew   time.Duration // of this gateway's clock
	closed error         // what its accesses end with since it was closed
	dead   bool          // its process was killed: nothing that it does happens
}

func (s *memServer) client() *memStore { return &memStore{memServer: s} }

// begin waits, and tells what the access ends with, with the lock held.
func (s *memStore) begin(write bool) error {
	s.mu.Lock()
	latency := s.latency
	s.mu.Unlock()
	time.Sleep(latency)
	s.mu.Lock()
	for s.paused {
		s.mu.Unlock()
		time.Sleep(time.Second)
		s.mu.Lock()
	}
	if s.hang {
		s.hanging++
		s.mu.Unlock()
		time.Sleep(24 * time.Hour)
		s.mu.Lock()
		s.hanging--
	}
	switch {
	case s.dead:
		return errors.New("killed")
	case s.closed != nil:
		return s.closed
	case s.down != nil:
		return s.down
	case write && s.readOnly:
		return errors.New("READONLY You can't write against a read only replica.")
	}
	return nil
}

func (s *memStore) Load(_ context.Context, key string) ([]byte, error) {
	err := s.begin(false)
	defer s.mu.Unlock()
	if err != nil {
		if s.downIsGone {
			err = fs.ErrNotExist
		}
		return nil, err
	}
	from := s.values
	if s.stale > 0 && strings.HasSuffix(key, "/token") {
		s.stale--
		from = s.before
	}
	raw, ok := from[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return shift(raw, -s.skew), nil
}

func (s *memStore) Store(_ context.Context, key string, value []byte) error {
	err := s.begin(true)
	defer s.mu.Unlock()
	if err != nil {
		return err
	}
	value = shift(value, s.skew)
	if strings.HasSuffix(key, "/token") {
		s.writes = append(s.writes, parseRecord(value))
	}
	s.before[key], s.values[key] = s.values[key], value
	return nil
}

func (s *memStore) Lock(ctx context.Context, key string) error {
	s.set(func(s *memServer) { s.locking++ })
	defer s.set(func(s *memServer) { s.locking-- })
	for {
		err := s.begin(true)
		got := err == nil && s.tryLock(ctx, key)
		s.mu.Unlock()
		switch {
		case err != nil || got:
			return err
		case s.lockRefuses || s.lockErrs:
			return errors.New("no lock to be had")
		}
		if s.lockDeaf {
			time.Sleep(time.Second)
			continue
		}
		select {
		case <-time.After(time.Second): // as certmagic's file storage
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryLock is called with the lock.
func (s *memStore) tryLock(ctx context.Context, key string) bool {
	if s.lockErrs {
		return false
	}
	held, ok := s.locks[key]
	patience := 5 * time.Minute
	if s.lockStale > 0 {
		patience = s.lockStale
	}
	gone := ok && (held.by.dead || held.by.closed != nil) // nobody renews it
	if !gone {
		patience = time.Hour
	}
	if ok && !s.lockNothing && time.Since(held.at) < patience {
		return false
	}
	s.locks[key] = heldLock{s, time.Now()}
	if s.lockEmpties {
		s.values[key] = nil
	}
	if s.lockStale > 0 { // it holds as long as its context, as far as this process knows
		context.AfterFunc(ctx, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.locks[key].by == s && !s.dead {
				delete(s.locks, key)
			}
		})
	}
	return true
}

func (s *memStore) Unlock(_ context.Context, key string) error {
	err := s.begin(true)
	defer s.mu.Unlock()
	if err != nil {
		return err
	}
	if s.locks[key].by != s {
		return fs.ErrNotExist
	}
	delete(s.locks, key)
	if s.lockEmpties {
		delete(s.values, key)
	}
	return nil
}

// shift moves the times in a value, as a clock that is wrong does. Serials are times
// when they are written; they are not read as such.
func shift(raw []byte, by time.Duration) []byte {
	var fields map[string]any
	if by == 0 || !bytes.Contains(raw, []byte(`_at"`)) || json.Unmarshal(raw, &fields) != nil {
		return raw
	}
	for _, name := range []string{"issued_at", "spent_at"} {
		if at, ok := fields[name].(float64); ok {
			fields[name] = int64(at) + by.Milliseconds()
		}
	}
	raw, _ = json.Marshal(fields)
	return raw
}

// wechat is a token endpoint and whatever takes its tokens. A classic one ends the
// token before within five minutes at each call; a stable one hands out one token
// until its last five minutes, and another one when that was revoked.
type wechat struct {
	mu      sync.Mutex
	classic bool
	life    time.Duration
	took    time.Duration
	calls   []fetchCall
	tokens  map[string]time.Time // when each ends
	last    string
	err     error
	poison  bool // accept no token
}

func newWechat(classic bool) *wechat {
	return &wechat{classic: classic, life: 2 * time.Hour, took: 50 * time.Millisecond, tokens: map[string]time.Time{}}
}

func (w *wechat) Traits() Traits { return Traits{NeedsSharing: w.classic} }

func (w *wechat) Fetch(ctx context.Context, req Request) (Reply, error) {
	w.mu.Lock()
	w.calls = append(w.calls, fetchCall{time.Now(), req.Rejected, req.Force, req.AppSecret})
	took := w.took
	w.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return Reply{}, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.err != nil {
		return Reply{}, w.err
	}
	if left := w.tokens[w.last].Sub(now); w.classic || left <= 5*time.Minute {
		if left > 5*time.Minute {
			w.tokens[w.last] = now.Add(5 * time.Minute)
		}
		w.last = fmt.Sprintf("token-%d", len(w.tokens)+1)
		w.tokens[w.last] = now.Add(w.life)
	}
	return Reply{AccessToken: w.last, ExpiresIn: w.tokens[w.last].Sub(now)}, nil
}

func (w *wechat) accepts(t *Token) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.poison && time.Now().Before(w.tokens[t.Secret()])
}

func (w *wechat) revoke() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.tokens {
		w.tokens[t] = time.Time{}
	}
}

func (w *wechat) set(change func(*wechat)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

func (w *wechat) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.calls)
}

func (w *wechat) latest() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}
