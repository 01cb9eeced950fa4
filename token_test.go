package wechatmedia

import (
	"context"
	"errors"
	"fmt"
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
	answer func(call fetchCall) (TokenReply, error) // nil: a new token each time
}

type fetchCall struct {
	at       time.Time
	rejected string
	force    bool
}

func newIssuer() *issuer { return &issuer{took: 50 * time.Millisecond, life: 2 * time.Hour} }

func (s *issuer) fetch(ctx context.Context, rejected string, force bool) (TokenReply, error) {
	s.mu.Lock()
	call := fetchCall{time.Now(), rejected, force}
	s.calls = append(s.calls, call)
	took := s.took
	s.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return TokenReply{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return TokenReply{}, s.err
	}
	if s.answer != nil {
		return s.answer(call)
	}
	s.serial++
	return TokenReply{AccessToken: fmt.Sprintf("token-%d", s.serial), ExpiresIn: s.life}, nil
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

// inTime runs a test in virtual time with a manager that gets its tokens from src.
func inTime(t *testing.T, src *issuer, opts tokenOptions, test func(t *testing.T, m *tokenManager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newTokenManager(opts)
		defer m.Destruct()
		defer m.attach(&tokenBackend{fetch: src.fetch})()
		test(t, m)
	})
}

func mustToken(t *testing.T, m *tokenManager) *token {
	t.Helper()
	tok, err := m.token(t.Context())
	if err != nil {
		t.Fatalf("getting token: %v", err)
	}
	return tok
}

// mustFailAtOnce makes sure that a caller is turned away without waiting.
func mustFailAtOnce(t *testing.T, m *tokenManager) *tokenUnavailableError {
	t.Helper()
	start := time.Now()
	_, err := m.token(t.Context())
	var unavailable *tokenUnavailableError
	if !errors.As(err, &unavailable) {
		t.Fatalf("got %v, want a tokenUnavailableError", err)
	}
	if waited := time.Since(start); waited > 0 {
		t.Errorf("the caller waited %v for a call that had failed", waited)
	}
	if unavailable.RetryAfter < time.Second {
		t.Errorf("Retry-After is %v", unavailable.RetryAfter)
	}
	return unavailable
}

func TestTokenPrintsAsNothing(t *testing.T) {
	tok := &token{secret: "SENTINEL"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if s := fmt.Sprintf(verb, tok); s != redactedToken {
			t.Errorf("%s prints %q", verb, s)
		}
	}
}

func TestTokenCurrentCostsNothing(t *testing.T) {
	m := newTokenManager(tokenOptions{})
	defer m.Destruct()
	m.attach(&tokenBackend{fetch: func(context.Context, string, bool) (TokenReply, error) {
		return TokenReply{AccessToken: "t", ExpiresIn: time.Hour}, nil
	}})
	mustToken(t, m)
	m.mu.Lock() // a reader that locked would hang
	defer m.mu.Unlock()
	if n := testing.AllocsPerRun(100, func() { _, _ = m.token(t.Context()) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTokenColdStartCostsOneFetch(t *testing.T) {
	src := newIssuer()
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		var failed atomic.Int32
		var wg sync.WaitGroup
		for range 10_000 {
			wg.Go(func() {
				if _, err := m.token(t.Context()); err != nil {
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

func TestTokenAttachAloneFetchesNothing(t *testing.T) {
	src := newIssuer()
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		time.Sleep(time.Hour)
		if src.count() != 0 {
			t.Fatal("fetched although nothing has started")
		}
		m.start()
		m.start()
		time.Sleep(time.Second)
		if src.count() != 1 {
			t.Errorf("%d fetches after start", src.count())
		}
	})
}

func TestTokenWaitsOnTheCallersContext(t *testing.T) {
	src := newIssuer()
	src.took = 5 * time.Second
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := m.token(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		mustToken(t, m) // the fetch went on
		if src.count() != 1 {
			t.Errorf("%d fetches", src.count())
		}
	})
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
			m := newTokenManager(tokenOptions{jitter: func() float64 { return jitter }})
			got := m.refreshIn(TokenReply{ExpiresIn: tc.life})
			if got < tc.earliest || got > tc.latest {
				t.Errorf("life %v, jitter %v: refreshed after %v, want from %v to %v", tc.life, jitter, got, tc.earliest, tc.latest)
			}
			_ = m.Destruct()
		}
	}
}

func TestTokenRefreshInOfTheSource(t *testing.T) {
	src := newIssuer()
	src.answer = func(fetchCall) (TokenReply, error) {
		return TokenReply{AccessToken: "t", ExpiresIn: time.Hour, RefreshIn: time.Minute}, nil
	}
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		m.start()
		time.Sleep(10*time.Minute + time.Second)
		if n := src.count(); n < 11 || n > 12 {
			t.Errorf("%d fetches in 10 minutes, want one a minute", n)
		}
	})
}

// WeChat's stable_token hands out the same token, with what remains of its life,
// until its last five minutes.
func stableIssuer(start time.Time, life time.Duration) func(fetchCall) (TokenReply, error) {
	return func(fetchCall) (TokenReply, error) {
		age := time.Since(start)
		n := age / (life - 5*time.Minute)
		return TokenReply{AccessToken: fmt.Sprintf("stable-%d", n), ExpiresIn: life - age%(life-5*time.Minute)}, nil
	}
}

func TestTokenStableForADay(t *testing.T) {
	src := newIssuer()
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		src.answer = stableIssuer(time.Now(), 2*time.Hour)
		m.start()
		time.Sleep(time.Second)
		for range 24 * 60 * 4 {
			before := time.Now()
			mustToken(t, m)
			if !time.Now().Equal(before) {
				t.Fatal("a request waited for a fetch")
			}
			time.Sleep(15 * time.Second)
		}
		if n := src.count(); n < 12 || n > 14 {
			t.Errorf("%d fetches in a day", n)
		}
	})
}

func TestTokenRotatesUnderLoad(t *testing.T) {
	src := newIssuer()
	src.life = 5 * time.Second
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		m.start()
		mustToken(t, m)
		var wg sync.WaitGroup
		end := time.Now().Add(10 * time.Minute)
		for range 20 {
			wg.Go(func() {
				for time.Now().Before(end) {
					before := time.Now()
					if _, err := m.token(t.Context()); err != nil || !time.Now().Equal(before) {
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

func TestTokenRejectedOnceForAll(t *testing.T) {
	src := newIssuer()
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		tok := mustToken(t, m)
		for i := range 1000 {
			go func() {
				time.Sleep(time.Duration(i) * 100 * time.Microsecond) // some come when all is over
				next, err := m.reject(t.Context(), tok, 40001)
				if err != nil || next.value() != "token-2" {
					t.Errorf("got %v", err)
				}
			}()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := src.count(); n != 2 {
			t.Errorf("%d fetches, want 2 with the first", n)
		}
		if got := src.calls[1].rejected; got != "token-1" {
			t.Errorf("the source was told that %q was rejected", got)
		}
		// late: the token has a successor
		if next, err := m.reject(t.Context(), tok, 40001); err != nil || next.value() != "token-2" || src.count() != 2 {
			t.Errorf("a late rejection cost its successor: %v, %d fetches", err, src.count())
		}
		m.invalidate(tok, 40001)
		time.Sleep(time.Second)
		if src.count() != 2 || mustToken(t, m).value() != "token-2" {
			t.Error("a late invalidation cost its successor")
		}
	})
}

func TestTokenInvalidateDoesNotWait(t *testing.T) {
	src := newIssuer()
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		tok := mustToken(t, m)
		start := time.Now()
		m.invalidate(tok, 42001)
		if time.Since(start) != 0 {
			t.Error("it waited")
		}
		time.Sleep(time.Second)
		if src.count() != 2 {
			t.Errorf("%d fetches", src.count())
		}
	})
}

// A refresh that was on its way when its token was rejected may bring it back
// from somebody's store.
func TestTokenRejectedDuringRefresh(t *testing.T) {
	src := newIssuer()
	src.answer = func(c fetchCall) (TokenReply, error) {
		if c.rejected == "old" {
			return TokenReply{AccessToken: "new", ExpiresIn: time.Hour}, nil
		}
		return TokenReply{AccessToken: "old", ExpiresIn: time.Hour, RefreshIn: time.Minute}, nil
	}
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		m.start()
		tok := mustToken(t, m)
		time.Sleep(time.Until(m.status().NextTry))
		time.Sleep(30 * time.Millisecond) // a refresh is on its way
		if next, err := m.reject(t.Context(), tok, 40001); err != nil || next.value() != "new" {
			t.Errorf("got %v", err)
		}
		if src.count() != 3 {
			t.Errorf("%d fetches", src.count())
		}
	})
}

// sameAgain hands out one token for ever, except by force.
func sameAgain(s *issuer) func(fetchCall) (TokenReply, error) {
	return func(c fetchCall) (TokenReply, error) {
		if c.force {
			s.serial++
		}
		return TokenReply{AccessToken: fmt.Sprintf("same-%d", s.serial), ExpiresIn: 2 * time.Hour}, nil
	}
}

// A token that is rejected and yet handed out again: it is tried once more, and
// the source is asked again ever more seldom.
func TestTokenRejectedForEver(t *testing.T) {
	for _, tc := range []struct {
		name             string
		same             bool
		firstMin, perDay int
	}{
		{"the same token each time", true, 6, 1 + 295},
		{"a new token each time", false, 1 + 31, 1 + 1470 + 13},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src := newIssuer()
			if tc.same {
				src.answer = sameAgain(src)
			}
			inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
				tok := mustToken(t, m)
				start := time.Now()
				for time.Since(start) < 24*time.Hour {
					next, err := m.reject(t.Context(), tok, 40001)
					if err != nil {
						t.Fatalf("got %v", err)
					}
					if tok = next; time.Since(start) < time.Minute && src.count() > tc.firstMin {
						t.Fatalf("%d calls in the first minute", src.count())
					}
					time.Sleep(200 * time.Millisecond)
				}
				if n := src.count(); n > tc.perDay || n < tc.perDay/2 {
					t.Errorf("%d calls in a day, want up to %d", n, tc.perDay)
				}
			})
		})
	}
}

func TestTokenForce(t *testing.T) {
	src := newIssuer()
	src.answer = sameAgain(src)
	inTime(t, src, tokenOptions{forceRefresh: true}, func(t *testing.T, m *tokenManager) {
		tok := mustToken(t, m)
		again, err := m.reject(t.Context(), tok, 40001)
		if err != nil || again.value() != tok.value() {
			t.Fatalf("got %v; want the same token once more, without force", err)
		}
		forced, err := m.reject(t.Context(), again, 40001)
		if err != nil || forced.value() == tok.value() {
			t.Fatalf("got %v; want another token, by force", err)
		}
		var last time.Time
		start, tok := time.Now(), forced
		for time.Since(start) < 24*time.Hour {
			if tok, err = m.reject(t.Context(), tok, 40001); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		var forcedCalls int
		for _, c := range src.calls {
			if c.force {
				if forcedCalls++; !last.IsZero() && c.at.Sub(last) < 30*time.Second {
					t.Errorf("two forced calls %v apart", c.at.Sub(last))
				}
				last = c.at
			}
		}
		if forcedCalls > 21 || forcedCalls < 20 { // the first is a day old by the end
			t.Errorf("%d forced calls in a day", forcedCalls)
		}
	})
}

func TestTokenForceThatFails(t *testing.T) {
	src := newIssuer()
	src.answer = func(c fetchCall) (TokenReply, error) {
		if c.force {
			return TokenReply{}, &ErrcodeError{45009, "reach max api daily quota limit"}
		}
		return TokenReply{AccessToken: "same", ExpiresIn: time.Hour}, nil
	}
	inTime(t, src, tokenOptions{forceRefresh: true}, func(t *testing.T, m *tokenManager) {
		tok, err := mustToken(t, m), error(nil)
		for range 2 {
			if tok, err = m.reject(t.Context(), tok, 40001); err != nil || tok.value() != "same" {
				t.Fatalf("got %v", err)
			}
		}
		mustToken(t, m)
	})
}

func TestTokenEndpointDownWhileValid(t *testing.T) {
	src := newIssuer()
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		m.start()
		mustToken(t, m)
		time.Sleep(80 * time.Minute)
		src.fail(&wireError{"connection refused", nil})
		down := time.Now()
		for time.Since(down) < 30*time.Minute {
			before := time.Now()
			mustToken(t, m)
			if !time.Now().Equal(before) {
				t.Fatal("a request noticed")
			}
			time.Sleep(time.Second)
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
			inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
				down := time.Now()
				if hang {
					src.took = time.Hour
				} else {
					src.fail(&wireError{"connection refused", nil})
				}
				if _, err := m.token(t.Context()); err == nil {
					t.Fatal("there is a token")
				}
				for time.Since(down) < 3*time.Hour {
					mustFailAtOnce(t, m)
					time.Sleep(250 * time.Millisecond)
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
					if _, err := m.token(t.Context()); err == nil {
						break
					}
					time.Sleep(100 * time.Millisecond)
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
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		start := time.Now()
		mustToken(t, m)
		src.fail(&ErrcodeError{-1, "system error"})
		time.Sleep(2*time.Hour - time.Millisecond - time.Since(start))
		mustToken(t, m)
		time.Sleep(time.Millisecond)
		mustFailAtOnce(t, m)
	})
}

func TestTokenWrongSecret(t *testing.T) {
	src := newIssuer()
	src.fail(&ErrcodeError{40125, "invalid appsecret"})
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		m.start()
		start := time.Now()
		for range 1000 {
			go func() { _, _ = m.token(t.Context()) }()
			time.Sleep(60 * time.Millisecond)
		}
		time.Sleep(59*time.Second - time.Since(start))
		if n := src.count(); n > 3 {
			t.Errorf("%d calls in the first minute", n)
		}
		unavailable := mustFailAtOnce(t, m)
		var f failure
		if !errors.As(unavailable, &f) || f.kind != failureSecret {
			t.Errorf("the cause is %v", unavailable.cause)
		}
		time.Sleep(time.Hour)
		if n := src.count(); n > 17 {
			t.Errorf("%d calls in an hour", n)
		}
	})
}

// A config that is loaded may mend what is wrong, and does not wait for it long.
func TestTokenStartWakes(t *testing.T) {
	src := newIssuer()
	src.fail(&ErrcodeError{40164, "invalid ip 203.0.113.9, not in whitelist"})
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		m.start()
		time.Sleep(time.Hour)
		calls := src.count()
		src.fail(nil)
		start := time.Now()
		for range 100 { // reloads
			m.attach(&tokenBackend{fetch: src.fetch})
			m.start()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if n := src.count() - calls; n != 1 {
			t.Errorf("%d calls", n)
		}
		mustToken(t, m)
		if at := src.since(start); len(at) != 1 || at[0].at.Sub(start) > wakeGap {
			t.Errorf("called late")
		}
	})
}

func TestTokenRejectedWhileEndpointIsDown(t *testing.T) {
	for _, errcode := range []int{40001, 42001} {
		src := newIssuer()
		inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
			tok := mustToken(t, m)
			src.fail(&ErrcodeError{-1, "system error"})
			for range 100 {
				_, err := m.reject(t.Context(), tok, errcode)
				var unavailable *tokenUnavailableError
				if !errors.As(err, &unavailable) {
					t.Fatalf("got %v", err)
				}
			}
			// the rejection may have been noise; that of an expired token is none
			if _, err := m.token(t.Context()); (err == nil) != (errcode == 40001) {
				t.Errorf("%d: token() gives %v", errcode, err)
			}
			if n := src.count(); n != 2 {
				t.Errorf("%d fetches", n)
			}
			src.fail(nil)
			time.Sleep(5 * time.Second)
			if got := mustToken(t, m); got.value() != "token-2" {
				t.Errorf("not replaced when the endpoint was back")
			}
		})
	}
}

func TestTokenDetach(t *testing.T) {
	src := newIssuer()
	src.took = time.Second
	synctest.Test(t, func(t *testing.T) {
		m := newTokenManager(tokenOptions{})
		defer m.Destruct()
		if mustFailAtOnce(t, m); src.count() != 0 {
			t.Error("fetched with no config")
		}

		// the last one leaves while somebody waits
		detach := m.attach(&tokenBackend{fetch: src.fetch})
		time.AfterFunc(500*time.Millisecond, detach)
		start := time.Now()
		if _, err := m.token(t.Context()); err == nil || time.Since(start) > 600*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		time.Sleep(24 * time.Hour)
		if src.count() != 1 {
			t.Error("fetched with no config")
		}

		// one leaves, with its network, while somebody waits; another is there
		broken := m.attach(&tokenBackend{fetch: func(ctx context.Context, _ string, _ bool) (TokenReply, error) {
			time.Sleep(time.Second)
			return TokenReply{}, &wireError{"closed", nil}
		}})
		time.AfterFunc(500*time.Millisecond, func() {
			m.attach(&tokenBackend{fetch: src.fetch})
			broken()
			broken() // harmless
		})
		mustToken(t, m)
	})
}

func TestTokenSourceThatHangsOrPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTokenManager(tokenOptions{})
		defer m.Destruct()
		release := make(chan struct{})
		var mode atomic.Int32
		m.attach(&tokenBackend{fetch: func(ctx context.Context, _ string, _ bool) (TokenReply, error) {
			switch mode.Load() {
			case 0:
				<-release // not on ctx
			case 1:
				panic("oops")
			}
			return TokenReply{AccessToken: "t", ExpiresIn: time.Hour}, nil
		}})
		start := time.Now()
		if _, err := m.token(t.Context()); err == nil || time.Since(start) > 11*time.Second {
			t.Fatalf("got %v after %v", err, time.Since(start))
		}
		time.Sleep(time.Hour)
		if n := m.hangs.Load(); n != mostHanging {
			t.Errorf("%d calls hang", n)
		}
		mode.Store(1)
		close(release)
		time.Sleep(2 * time.Minute)
		if s := m.status(); s.HasToken || s.Error != "the token source panicked: oops" {
			t.Errorf("status is %+v", s)
		}
		mode.Store(2)
		time.Sleep(2 * time.Minute)
		mustToken(t, m)
	})
}

func TestTokenLivesNoTime(t *testing.T) {
	src := newIssuer()
	src.life = time.Second
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		m.start()
		for start := time.Now(); time.Since(start) < 24*time.Hour; time.Sleep(500 * time.Millisecond) {
			_, _ = m.token(t.Context())
		}
		if n := src.count(); n > 60+43_200 {
			t.Errorf("%d calls in a day", n)
		}
		if s := m.status(); s.Failure != failureBudget && s.Failures != 0 {
			t.Errorf("status is %+v", s)
		}
	})
}

func TestTokenEventsAndStatus(t *testing.T) {
	src := newIssuer()
	synctest.Test(t, func(t *testing.T) {
		m := newTokenManager(tokenOptions{})
		defer m.Destruct()
		var mu sync.Mutex
		var events []tokenEvent
		m.attach(&tokenBackend{fetch: src.fetch, observe: func(ev tokenEvent) {
			m.status() // no lock is held
			mu.Lock()
			defer mu.Unlock()
			events = append(events, ev)
		}})
		tok := mustToken(t, m)
		synctest.Wait()
		src.fail(&ErrcodeError{40164, "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: 1"})
		_, _ = m.reject(t.Context(), tok, 40001)
		_, _ = m.reject(t.Context(), tok, 40001)
		synctest.Wait()
		kinds := ""
		for _, ev := range events {
			kinds += string(ev.Kind) + " "
		}
		if kinds != "refreshed rejected failed " {
			t.Fatalf("events: %s", kinds)
		}
		if ev := events[2]; ev.Failure != failureIP || ev.Errcode != 40164 || ev.Failures != 1 || ev.ExpiresAt.IsZero() ||
			ev.Hint != "add 203.0.113.9 to the IP whitelist in the WeChat admin" || time.Until(ev.NextTry) < time.Minute {
			t.Errorf("event is %+v", ev)
		}
		s := m.status()
		if !s.HasToken || s.Fetches != 2 || s.Failures != 1 || s.Rejections != 2 || s.Failure != failureIP || s.FailuresInARow != 1 {
			t.Errorf("status is %+v", s)
		}
	})
}

func TestTokenRenew(t *testing.T) {
	src := newIssuer()
	inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
		mustToken(t, m)
		if _, err := m.renew(t.Context()); err == nil {
			t.Error("renewed at once")
		}
		time.Sleep(wakeGap)
		if tok, err := m.renew(t.Context()); err != nil || tok.value() != "token-2" {
			t.Errorf("got %v", err)
		}
	})
}

func TestTokenDestructEndsEverything(t *testing.T) {
	src := newIssuer()
	src.took = time.Hour
	synctest.Test(t, func(t *testing.T) { // fails if a goroutine is left
		m := newTokenManager(tokenOptions{})
		m.attach(&tokenBackend{fetch: src.fetch})
		done := make(chan error)
		go func() {
			_, err := m.token(context.Background())
			done <- err
		}()
		time.Sleep(time.Second)
		_ = m.Destruct()
		if err := <-done; err == nil {
			t.Error("a waiter got a token")
		}
		if _, err := m.token(t.Context()); err == nil {
			t.Error("there is a token after the end")
		}
		m.start()
		time.Sleep(time.Hour)
	})
}
