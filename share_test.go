package wechatmedia

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
)

// memStorage is a storage in memory that can fail, hang, and be behind a gateway
// whose clock is wrong.
type memStorage struct {
	certmagic.Storage // nil: nothing else is used
	*memStore
	skew time.Duration // of this gateway's clock
}

type memStore struct {
	mu     sync.Mutex
	values map[string][]byte
	locks  map[string]bool
	err    error
	hang   bool // for ever, whatever the context says
	stores int
}

func newMemStorage() *memStorage {
	return &memStorage{memStore: &memStore{values: map[string][]byte{}, locks: map[string]bool{}}}
}

func (s *memStorage) withClock(skew time.Duration) *memStorage {
	return &memStorage{memStore: s.memStore, skew: skew}
}

// trouble is called with the lock.
func (s *memStore) trouble() error {
	if s.hang {
		s.mu.Unlock()
		time.Sleep(time.Hour)
		s.mu.Lock()
	}
	return s.err
}

// shift moves the times in a record.
func shift(raw []byte, by time.Duration) []byte {
	var r sharedRecord
	if by == 0 || json.Unmarshal(raw, &r) != nil {
		return raw
	}
	r.IssuedAt += by.Milliseconds()
	r.SpentAt += by.Milliseconds()
	raw, _ = json.Marshal(r)
	return raw
}

func (s *memStorage) Load(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.trouble(); err != nil {
		return nil, err
	}
	raw, ok := s.values[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return shift(raw, -s.skew), nil
}

func (s *memStorage) Store(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.trouble(); err != nil {
		return err
	}
	s.stores++
	s.values[key] = shift(value, s.skew)
	return nil
}

func (s *memStorage) Lock(ctx context.Context, key string) error {
	for {
		s.mu.Lock()
		if err := s.trouble(); err != nil {
			s.mu.Unlock()
			return err
		}
		if !s.locks[key] {
			s.locks[key] = true
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-time.After(time.Second): // as certmagic's file storage
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *memStorage) Unlock(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.locks, key)
	return nil
}

func (s *memStore) breakWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// classicWechat is /cgi-bin/token and whatever takes its tokens: each call ends
// the token before within five minutes.
type classicWechat struct {
	mu     sync.Mutex
	life   time.Duration
	took   time.Duration
	calls  []fetchCall
	tokens map[string]time.Time // when each ends
	last   string
	err    error
	poison bool // accept no token
}

func newClassicWechat() *classicWechat {
	return &classicWechat{life: 2 * time.Hour, took: 50 * time.Millisecond, tokens: map[string]time.Time{}}
}

func (w *classicWechat) FetchToken(ctx context.Context, req TokenRequest) (TokenReply, error) {
	select {
	case <-time.After(w.took):
	case <-ctx.Done():
		return TokenReply{}, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.calls = append(w.calls, fetchCall{now, req.Rejected, req.ForceRefresh})
	if w.err != nil {
		return TokenReply{}, w.err
	}
	if end := now.Add(5 * time.Minute); w.last != "" && end.Before(w.tokens[w.last]) {
		w.tokens[w.last] = end
	}
	w.last = fmt.Sprintf("classic-%d", len(w.calls))
	w.tokens[w.last] = now.Add(w.life)
	return TokenReply{AccessToken: w.last, ExpiresIn: w.life}, nil
}

func (w *classicWechat) accepts(t *token) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.poison && time.Now().Before(w.tokens[t.value()])
}

func (w *classicWechat) revoke() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.tokens)
}

func (w *classicWechat) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.calls)
}

// member is a gateway of a fleet.
type member struct {
	*tokenManager
	wechat     *classicWechat
	rejections int
}

func newMember(t *testing.T, w *classicWechat, storage certmagic.Storage, opts tokenOptions) *member {
	t.Helper()
	m := &member{tokenManager: newTokenManager(opts), wechat: w}
	source := newSharedSource(w, storage, "classic", nil)
	m.attach(&tokenBackend{fetch: func(ctx context.Context, rejected string, force bool) (TokenReply, error) {
		return fetchToken(ctx, source, TokenRequest{AppID: "wxapp", Rejected: rejected, ForceRefresh: force})
	}})
	return m
}

// request is one caller's: its token may be rejected once.
func (m *member) request(ctx context.Context) error {
	tok, err := m.token(ctx)
	if err != nil || m.wechat.accepts(tok) {
		return err
	}
	m.rejections++
	if tok, err = m.reject(ctx, tok, 40001); err != nil || m.wechat.accepts(tok) {
		return err
	}
	return errors.New("rejected twice")
}

// In a day a fleet makes one call for each rotation, and no request fails or sees
// a rejected token, however wrong the clocks are.
func TestShareFleetForADay(t *testing.T) {
	for name, skews := range map[string][]time.Duration{
		"clocks agree":          {0, 0, 0},
		"minutes apart":         {0, 5 * time.Minute, -5 * time.Minute},
		"one is hours off":      {0, 3 * time.Hour, 0},
		"one is a year in 1970": {0, 0, -50 * 365 * 24 * time.Hour},
	} {
		for _, life := range []time.Duration{2 * time.Hour, 5 * time.Minute} {
			t.Run(fmt.Sprint(name, ", life ", life), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, storage := newClassicWechat(), newMemStorage()
					w.life = life
					var fleet []*member
					for _, skew := range skews {
						m := newMember(t, w, storage.withClock(skew), tokenOptions{})
						defer m.Destruct()
						fleet = append(fleet, m)
						m.start()
						time.Sleep(time.Second)
					}
					if n := w.count(); n != 1 && !(n == 2 && strings.Contains(name, "hours")) {
						t.Errorf("%d calls at the start", n)
					}
					start := time.Now()
					for time.Since(start) < 24*time.Hour {
						for i, m := range fleet {
							before := time.Now()
							if err := m.request(t.Context()); err != nil {
								t.Fatalf("gateway %d after %v: %v", i, time.Since(start), err)
							}
							if m.rejections != 0 || !time.Now().Equal(before) {
								t.Fatalf("gateway %d after %v: %d rejections, waited %v", i, time.Since(start), m.rejections, time.Since(before))
							}
						}
						time.Sleep(5 * time.Second)
					}
					rotations := float64(24*time.Hour) / float64(life)
					if n := float64(w.count()); n < rotations || n > 2.1*rotations {
						t.Errorf("%v calls for %v lives", n, rotations)
					}
				})
			})
		}
	}
}

// All start at once: one call if nothing is stored, none if a token is, and none
// has to wait for its turn at the lock.
func TestShareFleetStartsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, storage := newClassicWechat(), newMemStorage()
		for round, want := range []int{1, 1, 1} {
			var wg sync.WaitGroup
			start := time.Now()
			for range 50 {
				m := newMember(t, w, storage, tokenOptions{})
				defer m.Destruct()
				m.start()
				wg.Go(func() {
					if err := m.request(t.Context()); err != nil || time.Since(start) > time.Second {
						t.Errorf("round %d: %v after %v", round, err, time.Since(start))
					}
				})
			}
			wg.Wait()
			if w.count() != want {
				t.Errorf("round %d: %d calls, want %d", round, w.count(), want)
			}
			time.Sleep(time.Minute)
		}
	})
}

// One call replaces a revoked token for the whole fleet.
func TestShareRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, storage := newClassicWechat(), newMemStorage()
		var fleet []*member
		for range 20 {
			m := newMember(t, w, storage, tokenOptions{})
			defer m.Destruct()
			if err := m.request(t.Context()); err != nil {
				t.Fatal(err)
			}
			fleet = append(fleet, m)
		}
		for range 5 {
			calls := w.count()
			w.revoke()
			var wg sync.WaitGroup
			for _, m := range fleet {
				wg.Go(func() {
					if err := m.request(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := w.count() - calls; n != 1 {
				t.Errorf("%d calls", n)
			}
			time.Sleep(10 * time.Second)
		}
	})
}

// The holder of the lock was killed in the middle of a fetch. certmagic's file
// storage takes its lock for stale after 10 seconds.
func TestShareLockHolderDies(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, storage := newClassicWechat(), &certmagic.FileStorage{Path: dir}
		key := newSharedSource(w, storage, "classic", nil).(*sharedSource).storageKey(TokenRequest{AppID: "wxapp"})
		lock := filepath.Join(dir, "locks", certmagic.StorageKeys.Safe(key)+".lock")
		kill := func() {
			now, _ := time.Now().MarshalJSON()
			_ = os.MkdirAll(filepath.Dir(lock), 0o700)
			if err := os.WriteFile(lock, fmt.Appendf(nil, `{"created":%s,"updated":%s}`, now, now), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		kill()
		a, b := newMember(t, w, storage, tokenOptions{}), newMember(t, w, storage, tokenOptions{})
		defer a.Destruct()
		defer b.Destruct()
		for round := range 3 { // at the start, and when all tokens are revoked
			start := time.Now()
			var wg sync.WaitGroup
			for _, m := range []*member{a, b} {
				wg.Go(func() {
					if err := m.request(t.Context()); err != nil || time.Since(start) > 8*time.Second {
						t.Errorf("round %d: %v after %v", round, err, time.Since(start))
					}
				})
			}
			wg.Wait()
			time.Sleep(time.Minute)
			w.revoke()
			kill()
		}
		if n := w.count(); n > 6 {
			t.Errorf("%d calls", n)
		}
		if info, err := os.Stat(filepath.Join(dir, key)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the record: %v, %v", info, err)
		}
		time.Sleep(time.Minute) // file storage keeps a goroutine for each lock
	})
}

func TestShareBadRecords(t *testing.T) {
	hour := time.Hour.Milliseconds()
	for name, tc := range map[string]struct {
		record func(now int64) string
		used   bool
	}{
		"good": {func(now int64) string {
			return fmt.Sprintf(`{"version":1,"access_token":"stored","edition":"e","issued_at":%d,"expires_in":%d}`, now-hour, 2*hour)
		}, true},
		"from the future": {func(now int64) string {
			return fmt.Sprintf(`{"version":1,"access_token":"stored","edition":"e","issued_at":%d,"expires_in":%d}`, now+hour, 2*hour)
		}, true},
		"stale": {func(now int64) string {
			return fmt.Sprintf(`{"version":1,"access_token":"stored","edition":"e","issued_at":%d,"expires_in":%d}`, now-3*hour, 2*hour)
		}, false},
		"torn":  {func(int64) string { return `{"version":1,"access_token":"stored","edi` }, false},
		"zeros": {func(int64) string { return string(make([]byte, 200)) }, false},
		"empty": {func(int64) string { return "" }, false},
		"no token": {func(now int64) string {
			return fmt.Sprintf(`{"version":1,"edition":"e","issued_at":%d,"expires_in":%d}`, now, hour)
		}, false},
		"no edition": {func(now int64) string {
			return fmt.Sprintf(`{"version":1,"access_token":"stored","issued_at":%d,"expires_in":%d}`, now, hour)
		}, false},
		"negative": {func(now int64) string {
			return fmt.Sprintf(`{"version":1,"access_token":"stored","edition":"e","issued_at":%d,"expires_in":-5}`, now)
		}, false},
		"lives for ever": {func(now int64) string {
			return fmt.Sprintf(`{"version":1,"access_token":"stored","edition":"e","issued_at":%d,"expires_in":9000000000000000000}`, now)
		}, false},
		"bad token": {func(now int64) string {
			return fmt.Sprintf(`{"version":1,"access_token":"a b\n","edition":"e","issued_at":%d,"expires_in":%d}`, now, hour)
		}, false},
		"another version": {func(now int64) string {
			return fmt.Sprintf(`{"version":2,"access_token":"stored","edition":"e","issued_at":%d,"expires_in":%d}`, now, hour)
		}, false},
		"books that are full": {func(now int64) string {
			return fmt.Sprintf(`{"version":1,"spent":100,"spent_at":%d}`, now-2*time.Minute.Milliseconds())
		}, false},
		"books from the future": {func(now int64) string {
			return fmt.Sprintf(`{"version":1,"spent":100,"spent_at":%d}`, now+100*365*24*hour)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, storage := newClassicWechat(), newMemStorage()
				source := newSharedSource(w, storage, "classic", nil).(*sharedSource)
				key := source.storageKey(TokenRequest{AppID: "wxapp"})
				storage.values[key] = []byte(tc.record(time.Now().UnixMilli()))
				reply, err := source.FetchToken(t.Context(), TokenRequest{AppID: "wxapp"})
				if err != nil || (reply.AccessToken == "stored") != tc.used || (w.count() == 0) != tc.used {
					t.Errorf("got %q, %v, %d calls", reply.AccessToken, err, w.count())
				}
			})
		})
	}
}

// By a clock that may be wrong the stored token is at its end: it is used for a
// little, and replaced before long.
func TestShareDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, storage := newClassicWechat(), newMemStorage()
		first := newSharedSource(w, storage, "classic", nil)
		if _, err := first.FetchToken(t.Context(), TokenRequest{AppID: "wxapp"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Hour - 30*time.Second)
		source := newSharedSource(w, storage, "classic", nil)
		reply, err := source.FetchToken(t.Context(), TokenRequest{AppID: "wxapp"})
		if err != nil || reply.AccessToken != "classic-1" || reply.ExpiresIn > 3*time.Minute || reply.RefreshIn > 90*time.Second {
			t.Fatalf("got %+v, %v", reply, err)
		}
		time.Sleep(90 * time.Second)
		if reply, err = source.FetchToken(t.Context(), TokenRequest{AppID: "wxapp"}); err != nil || reply.AccessToken != "classic-2" {
			t.Fatalf("got %+v, %v", reply, err)
		}
	})
}

func TestShareStorageFails(t *testing.T) {
	for name, brake := range map[string]func(*memStore){
		"error": func(s *memStore) {
			s.breakWith(errors.New("connection to redis://user:SENTINELSENTINELSENTINELSENTINEL@h lost"))
		},
		"hangs": func(s *memStore) { s.mu.Lock(); s.hang = true; s.mu.Unlock() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, storage := newClassicWechat(), newMemStorage()
				m := newMember(t, w, storage, tokenOptions{})
				defer m.Destruct()
				m.start()
				if err := m.request(t.Context()); err != nil {
					t.Fatal(err)
				}
				brake(storage.memStore)
				start := time.Now()
				for time.Since(start) < 6*time.Hour {
					before := time.Now()
					if err := m.request(t.Context()); err != nil {
						t.Fatalf("after %v: %v", time.Since(start), err)
					}
					if d := time.Since(before); d != 0 {
						t.Fatalf("after %v: waited %v", time.Since(start), d)
					}
					if s := m.status(); strings.Contains(s.Error, "SENTINEL") {
						t.Fatal(s.Error)
					}
					time.Sleep(time.Second)
				}
				if n := w.count(); n > 6 {
					t.Errorf("%d calls in six hours", n)
				}
				// a cold start does without, too
				cold := newMember(t, w, storage, tokenOptions{})
				defer cold.Destruct()
				if err := cold.request(t.Context()); err != nil {
					t.Error(err)
				}
				_, _ = m.Destruct(), cold.Destruct()
				time.Sleep(2 * time.Hour) // what hangs
			})
		})
	}
}

// The whole fleet together keeps within 2,000 calls a day when every token is
// rejected, and when every call fails.
func TestShareBudget(t *testing.T) {
	for name, break_ := range map[string]func(*classicWechat){
		"every token is rejected": func(w *classicWechat) { w.poison = true },
		"every call fails":        func(w *classicWechat) { w.err = &ErrcodeError{-1, "system error"} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, storage := newClassicWechat(), newMemStorage()
				break_(w)
				var wg sync.WaitGroup
				for i := range 10 {
					m := newMember(t, w, storage.withClock(time.Duration(i-5)*time.Minute), tokenOptions{})
					defer m.Destruct()
					wg.Go(func() {
						for start := time.Now(); time.Since(start) < 24*time.Hour; time.Sleep(10 * time.Second) {
							_ = m.request(t.Context())
						}
					})
				}
				wg.Wait()
				if n := w.count(); n > 1560 || n < 500 {
					t.Errorf("%d calls in a day", n)
				}
			})
		})
	}
}

// force_refresh is WeChat's allowance to an app, not to a gateway.
func TestShareForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, storage := newIssuer(), newMemStorage()
		src.answer = sameAgain(src)
		var wg sync.WaitGroup
		for i := range 5 {
			m := newTokenManager(tokenOptions{forceRefresh: true})
			defer m.Destruct()
			source := newSharedSource(sourceFunc(func(ctx context.Context, req TokenRequest) (TokenReply, error) {
				return src.fetch(ctx, req.Rejected, req.ForceRefresh)
			}), storage, "stable", nil)
			m.attach(&tokenBackend{fetch: func(ctx context.Context, rejected string, force bool) (TokenReply, error) {
				return source.FetchToken(ctx, TokenRequest{AppID: "wxapp", Rejected: rejected, ForceRefresh: force})
			}})
			wg.Go(func() {
				end := time.Now().Add(23 * time.Hour)
				time.Sleep(time.Duration(i) * time.Hour)
				for ; time.Now().Before(end); time.Sleep(7 * time.Second) {
					if tok, err := m.token(t.Context()); err == nil {
						_, _ = m.reject(t.Context(), tok, 40001)
					}
				}
			})
		}
		wg.Wait()
		var forced []time.Time
		for _, c := range src.calls {
			if c.force {
				if n := len(forced); n > 0 && c.at.Sub(forced[n-1]) < 29*time.Second {
					t.Errorf("two forced calls %v apart", c.at.Sub(forced[n-1]))
				}
				forced = append(forced, c.at)
			}
		}
		if len(forced) != forcedPerDay {
			t.Errorf("%d forced calls", len(forced))
		}
	})
}

type sourceFunc func(context.Context, TokenRequest) (TokenReply, error)

func (f sourceFunc) FetchToken(ctx context.Context, req TokenRequest) (TokenReply, error) {
	return f(ctx, req)
}

// The caller's deadline holds although the storage's lock does not come.
func TestShareKeepsItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, storage := newClassicWechat(), newMemStorage()
		w.took = time.Hour
		source := newSharedSource(w, storage, "classic", nil).(*sharedSource)
		storage.locks[source.storageKey(TokenRequest{AppID: "wxapp"})] = true
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := source.FetchToken(ctx, TokenRequest{AppID: "wxapp"}); classify(err).kind != failureTimeout || time.Since(start) > 10*time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestShareKey(t *testing.T) {
	key := func(kind string, req TokenRequest) string {
		return newSharedSource(nil, nil, kind, nil).(*sharedSource).storageKey(req)
	}
	base := TokenRequest{AppID: "wxapp", AppSecret: "s1", BaseURLs: []string{"https://api.weixin.qq.com", "https://api2.weixin.qq.com"}}
	want := key("classic", base)
	if strings.Contains(want, "wxapp") || !strings.HasPrefix(want, "wechat/tokens/") {
		t.Errorf("the key is %s", want)
	}
	same := base
	same.AppSecret, same.BaseURLs = "s2", []string{"https://sh.api.weixin.qq.com"}
	if key("classic", same) != want {
		t.Error("another secret or another of WeChat's hosts makes another key")
	}
	for _, other := range []string{"http://127.0.0.1:9000", "https://evilweixin.qq.com"} {
		sandbox := base
		sandbox.BaseURLs = []string{other}
		if key("classic", sandbox) == want {
			t.Errorf("%s has WeChat's key", other)
		}
	}
	app := base
	app.AppID = "wxother"
	if key("classic", app) == want || key("stable", base) == want {
		t.Error("another app or source has the same key")
	}
}

func TestShareToken(t *testing.T) {
	if _, err := shareToken(new(FileTokenSource), newMemStorage(), "file", nil, nil); err == nil {
		t.Error("a file can be shared")
	}
	kinds := map[string]bool{}
	for name, source := range map[string]TokenSource{
		"stable": new(StableTokenSource), "classic": new(ClassicTokenSource),
		"server": &ServerTokenSource{url: "http://a"}, "other": sourceFunc(nil),
	} {
		shared, err := shareToken(source, newMemStorage(), name, []byte(`{}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		kinds[shared.(*sharedSource).kind] = true
	}
	if len(kinds) != 4 {
		t.Errorf("kinds are %v", kinds)
	}
}
