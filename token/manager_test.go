package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// issuer is a token endpoint that does what a test says. Its fetch takes a
// moment, so that callers meet while one is going on.
type issuer struct {
	mu     sync.Mutex
	calls  []fetchCall
	took   time.Duration
	serial int
	life   time.Duration
	err    error
	answer func(call fetchCall) (Reply, error) // nil: a new token each time
	traits Traits
}

type fetchCall struct {
	at       time.Time
	rejected string
	force    bool
	secret   string
}

// testIdentity is whose tokens tests are about.
var testIdentity = Identity{AppID: "wxapp", Issuer: "weixin.qq.com", Source: "test"}

func (s *issuer) Traits() Traits { return s.traits }

func newIssuer() *issuer { return &issuer{took: 50 * time.Millisecond, life: 2 * time.Hour} }

func (s *issuer) Fetch(ctx context.Context, req Request) (Reply, error) {
	s.mu.Lock()
	call := fetchCall{time.Now(), req.Rejected, req.Force, req.AppSecret}
	s.calls = append(s.calls, call)
	took := s.took
	s.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return Reply{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return Reply{}, s.err
	}
	if s.answer != nil {
		return s.answer(call)
	}
	s.serial++
	return Reply{AccessToken: fmt.Sprintf("token-%d", s.serial), ExpiresIn: s.life}, nil
}

func (s *issuer) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *issuer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func (s *issuer) since(start time.Time) []fetchCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range s.calls {
		if !c.at.Before(start) {
			return append([]fetchCall(nil), s.calls[i:]...)
		}
	}
	return nil
}

// pass lets virtual time go by, until all has come to rest that it brings.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// inBubble runs a test in virtual time, with a day in the end for what hangs.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		defer pass(25 * time.Hour)
		test(t)
	})
}

// inTime runs a test in virtual time with a manager that gets its tokens from src.
func inTime(t *testing.T, src *issuer, test func(t *testing.T, m *Manager, a *Attachment)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(testIdentity, src.traits)
		defer m.Close()
		a := m.Attach(Binding{Source: src})
		defer a.Detach()
		test(t, m, a)
	})
}

// begin is inTime with the binding started, whose first fetch is under way.
func begin(t *testing.T, src *issuer, test func(t *testing.T, m *Manager)) {
	t.Helper()
	inTime(t, src, func(t *testing.T, m *Manager, a *Attachment) {
		a.Start()
		test(t, m)
	})
}

func mustToken(t *testing.T, m *Manager) *Token {
	t.Helper()
	tok, err := m.Token(t.Context())
	if err != nil {
		t.Fatalf("getting token: %v", err)
	}
	return tok
}

// mustFailAtOnce makes sure that a caller is turned away without waiting.
func mustFailAtOnce(t *testing.T, m *Manager) *UnavailableError {
	t.Helper()
	start := time.Now()
	_, err := m.Token(t.Context())
	var unavailable *UnavailableError
	if !errors.As(err, &unavailable) {
		t.Fatalf("got %v, want a UnavailableError", err)
	}
	if waited := time.Since(start); waited > 0 {
		t.Errorf("the caller waited %v for a call that had failed", waited)
	}
	if unavailable.RetryAfter < time.Second {
		t.Errorf("Retry-After is %v", unavailable.RetryAfter)
	}
	return unavailable
}

func TestTokenColdStartCostsOneFetch(t *testing.T) {
	src := newIssuer()
	begin(t, src, func(t *testing.T, m *Manager) {
		var failed atomic.Int32
		var wg sync.WaitGroup
		for range 10_000 {
			wg.Go(func() {
				if _, err := m.Token(t.Context()); err != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		if failed.Load() != 0 || src.count() != 1 {
			t.Errorf("%d of 10000 failed, %d fetches", failed.Load(), src.count())
		}
	})
}

func TestTokenWaitsOnTheCallersContext(t *testing.T) {
	src := newIssuer()
	src.took = 5 * time.Second
	begin(t, src, func(t *testing.T, m *Manager) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := m.Token(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		mustToken(t, m) // the fetch went on
		if src.count() != 1 {
			t.Errorf("%d fetches", src.count())
		}
	})
}

func TestTokenRefreshInOfTheSource(t *testing.T) {
	src := newIssuer()
	src.answer = func(fetchCall) (Reply, error) {
		return Reply{AccessToken: "t", ExpiresIn: time.Hour, RefreshIn: time.Minute}, nil
	}
	begin(t, src, func(t *testing.T, m *Manager) {
		pass(10*time.Minute + time.Second)
		if n := src.count(); n < 11 || n > 12 {
			t.Errorf("%d fetches in 10 minutes, want one a minute", n)
		}
	})
}

// WeChat's stable_token hands out the same token, with what remains of its life,
// until its last five minutes.
func stableIssuer(start time.Time, life time.Duration) func(fetchCall) (Reply, error) {
	return func(fetchCall) (Reply, error) {
		age := time.Since(start)
		n := age / (life - 5*time.Minute)
		return Reply{AccessToken: fmt.Sprintf("stable-%d", n), ExpiresIn: life - age%(life-5*time.Minute)}, nil
	}
}

func TestTokenStableForADay(t *testing.T) {
	src := newIssuer()
	inTime(t, src, func(t *testing.T, m *Manager, a *Attachment) {
		src.answer = stableIssuer(time.Now(), 2*time.Hour)
		a.Start()
		pass(time.Second)
		for range 24 * 60 * 4 {
			before := time.Now()
			mustToken(t, m)
			if !time.Now().Equal(before) {
				t.Fatal("a request waited for a fetch")
			}
			pass(15 * time.Second)
		}
		if n := src.count(); n < 12 || n > 14 {
			t.Errorf("%d fetches in a day", n)
		}
	})
}

func TestTokenRotatesUnderLoad(t *testing.T) {
	src := newIssuer()
	src.life = 5 * time.Second
	begin(t, src, func(t *testing.T, m *Manager) {
		mustToken(t, m)
		var wg sync.WaitGroup
		end := time.Now().Add(10 * time.Minute)
		for range 20 {
			wg.Go(func() {
				for time.Now().Before(end) {
					before := time.Now()
					if _, err := m.Token(t.Context()); err != nil || !time.Now().Equal(before) {
						t.Errorf("err %v, waited %v", err, time.Since(before))
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		if n := src.count(); n < 120 || n > 260 {
			t.Errorf("%d fetches in 10 minutes", n)
		}
	})
}

func TestTokenEndpointDownWhileValid(t *testing.T) {
	src := newIssuer()
	begin(t, src, func(t *testing.T, m *Manager) {
		mustToken(t, m)
		pass(80 * time.Minute)
		src.fail(&Failure{Kind: KindNetwork, Err: errors.New("connection refused")})
		down := time.Now()
		for time.Since(down) < 30*time.Minute {
			before := time.Now()
			mustToken(t, m)
			if !time.Now().Equal(before) {
				t.Fatal("a request noticed")
			}
			pass(time.Second)
		}
	})
}

// Down past expiry: callers are turned away at once, the endpoint is called 6
// times in the first minute and 75 times an hour after that, and its return is
// noticed within a minute.
func TestTokenEndpointDownPastExpiry(t *testing.T) {
	for name, hang := range map[string]bool{"refused": false, "hanging": true} {
		t.Run(name, func(t *testing.T) {
			src := newIssuer()
			if hang {
				src.took = time.Hour
			} else {
				src.fail(&Failure{Kind: KindNetwork, Err: errors.New("connection refused")})
			}
			begin(t, src, func(t *testing.T, m *Manager) {
				down := time.Now()
				if _, err := m.Token(t.Context()); err == nil {
					t.Fatal("there is a token")
				}
				for time.Since(down) < 3*time.Hour {
					mustFailAtOnce(t, m)
					pass(250 * time.Millisecond)
					if n := src.count(); n > 6 && time.Since(down) < time.Minute {
						t.Fatalf("%d calls in the first minute", n)
					}
				}
				if n := src.count(); n > 6+3*75 {
					t.Errorf("%d calls in three hours", n)
				}
				src.mu.Lock()
				src.err, src.took = nil, 50*time.Millisecond
				src.mu.Unlock()
				back := time.Now()
				for {
					if _, err := m.Token(t.Context()); err == nil {
						break
					}
					pass(100 * time.Millisecond)
				}
				if d := time.Since(back); d > time.Minute+10*time.Second {
					t.Errorf("its return was noticed after %v", d)
				}
			})
		})
	}
}

// The token's end is its end, refreshing or not.
func TestTokenExpires(t *testing.T) {
	src := newIssuer()
	begin(t, src, func(t *testing.T, m *Manager) {
		start := time.Now()
		mustToken(t, m)
		src.fail(&ErrcodeError{-1, "system error"})
		pass(2*time.Hour - time.Millisecond - time.Since(start))
		mustToken(t, m)
		pass(time.Millisecond)
		mustFailAtOnce(t, m)
	})
}

func TestTokenWrongSecret(t *testing.T) {
	src := newIssuer()
	src.fail(&ErrcodeError{40125, "invalid appsecret"})
	begin(t, src, func(t *testing.T, m *Manager) {
		start := time.Now()
		for range 1000 {
			go func() { _, _ = m.Token(t.Context()) }()
			pass(60 * time.Millisecond)
		}
		pass(59*time.Second - time.Since(start))
		if n := src.count(); n > 3 {
			t.Errorf("%d calls in the first minute", n)
		}
		unavailable := mustFailAtOnce(t, m)
		var f *Failure
		if !errors.As(unavailable, &f) || f.Kind != KindSecret {
			t.Errorf("the cause is %v", unavailable.Cause)
		}
		pass(time.Hour)
		if n := src.count(); n > 17 {
			t.Errorf("%d calls in an hour", n)
		}
	})
}

func TestTokenLivesNoTime(t *testing.T) {
	src := newIssuer()
	src.life = time.Second
	begin(t, src, func(t *testing.T, m *Manager) {
		for start := time.Now(); time.Since(start) < 2*time.Hour; pass(500 * time.Millisecond) {
			_, _ = m.Token(t.Context())
		}
		if n := src.count(); n > 60+3_600 {
			t.Errorf("%d calls in two hours", n)
		}
		if s := m.Status(); s.Failure != KindBudget && s.Failures != 0 {
			t.Errorf("status is %+v", s)
		}
	})
}

func TestTokenPrintsAsNothing(t *testing.T) {
	tok := &Token{secret: "SENTINEL"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if s := fmt.Sprintf(verb, tok); s != redactedToken {
			t.Errorf("%s prints %q", verb, s)
		}
	}
	if raw, err := json.Marshal(tok); err != nil || strings.Contains(string(raw), "SENTINEL") {
		t.Errorf("JSON is %s, %v", raw, err)
	}
}

func TestTokenCurrentCostsNothing(t *testing.T) {
	m := NewManager(testIdentity, Traits{})
	defer m.Close()
	src := newIssuer()
	src.took = 0
	m.Attach(Binding{Source: src}).Start()
	mustToken(t, m)
	m.mu.Lock() // a reader that locked would hang
	defer m.mu.Unlock()
	if n := testing.AllocsPerRun(100, func() { _, _ = m.Token(t.Context()) }); n != 0 || !m.Usable() {
		t.Errorf("%v allocations, usable %v", n, m.Usable())
	}
}

// The moment of a refresh fits the token's life, whatever that is.
func TestTokenRefreshMoment(t *testing.T) {
	for _, tc := range []struct{ life, earliest, latest time.Duration }{
		{7200 * time.Second, 6930 * time.Second, 7080 * time.Second},
		{600 * time.Second, 330 * time.Second, 480 * time.Second},
		{320 * time.Second, 160 * time.Second, 224 * time.Second},
		{300 * time.Second, 150 * time.Second, 210 * time.Second},
		{10 * time.Second, 5 * time.Second, 7 * time.Second},
		{time.Second, 500 * time.Millisecond, 700 * time.Millisecond},
		{time.Millisecond, minRefresh, minRefresh},
	} {
		for _, jitter := range []float64{0, 0.999} {
			m := NewManager(testIdentity, Traits{})
			m.jitter = func() float64 { return jitter }
			got := m.refreshIn(Reply{ExpiresIn: tc.life})
			if got < tc.earliest || got > tc.latest {
				t.Errorf("life %v, jitter %v: refreshed after %v, want from %v to %v", tc.life, jitter, got, tc.earliest, tc.latest)
			}
			m.Close()
		}
	}
}

func TestTokenRenew(t *testing.T) {
	src := newIssuer()
	begin(t, src, func(t *testing.T, m *Manager) {
		mustToken(t, m)
		var early *TooEarlyError
		if _, err := m.Renew(t.Context()); !errors.As(err, &early) || early.RetryAfter <= 0 || early.RetryAfter > wakeGap {
			t.Errorf("renewed at once: %v", err)
		}
		pass(wakeGap)
		if tok, err := m.Renew(t.Context()); err != nil || tok.Secret() != "token-2" {
			t.Errorf("got %v", err)
		}
	})
}

// What costs nothing to ask may be asked every two seconds.
func TestTokenPolls(t *testing.T) {
	src := newIssuer()
	src.traits.Polls = true
	src.answer = func(fetchCall) (Reply, error) {
		return Reply{AccessToken: "t", ExpiresIn: time.Hour, RefreshIn: 2 * time.Second}, nil
	}
	begin(t, src, func(t *testing.T, m *Manager) {
		for range 6 * 60 {
			pass(10 * time.Second)
			if s := m.Status(); s.FailuresInARow != 0 {
				t.Fatalf("status is %+v", s)
			}
		}
		if n := src.count(); n < 1800 {
			t.Errorf("%d calls in an hour", n)
		}
	})
}
