package token

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestTokenRejectedOnceForAll(t *testing.T) {
	src := newIssuer()
	begin(t, src, func(t *testing.T, m *Manager) {
		tok := mustToken(t, m)
		for i := range 1000 {
			go func() {
				time.Sleep(time.Duration(i) * 100 * time.Microsecond) // some come when all is over
				next, err := m.Reject(t.Context(), tok, 40001)
				if err != nil || next.Secret() != "token-2" {
					t.Errorf("got %v", err)
				}
			}()
		}
		pass(time.Second)
		synctest.Wait()
		if n := src.count(); n != 2 {
			t.Errorf("%d fetches, want 2 with the first", n)
		}
		if got := src.calls[1].rejected; got != "token-1" {
			t.Errorf("the source was told that %q was rejected", got)
		}
		// late: the token has a successor
		if next, err := m.Reject(t.Context(), tok, 40001); err != nil || next.Secret() != "token-2" || src.count() != 2 {
			t.Errorf("a late rejection cost its successor: %v, %d fetches", err, src.count())
		}
		m.Invalidate(tok, 40001)
		pass(time.Second)
		if src.count() != 2 || mustToken(t, m).Secret() != "token-2" {
			t.Error("a late invalidation cost its successor")
		}
	})
}

func TestTokenInvalidateDoesNotWait(t *testing.T) {
	src := newIssuer()
	begin(t, src, func(t *testing.T, m *Manager) {
		tok := mustToken(t, m)
		start := time.Now()
		m.Invalidate(tok, 42001)
		if time.Since(start) != 0 {
			t.Error("it waited")
		}
		pass(time.Second)
		if src.count() != 2 {
			t.Errorf("%d fetches", src.count())
		}
	})
}

// A refresh that was on its way when its token was rejected may bring it back
// from somebody's store.
func TestTokenRejectedDuringRefresh(t *testing.T) {
	src := newIssuer()
	src.answer = func(c fetchCall) (Reply, error) {
		if c.rejected == "old" {
			return Reply{AccessToken: "new", ExpiresIn: time.Hour}, nil
		}
		return Reply{AccessToken: "old", ExpiresIn: time.Hour, RefreshIn: time.Minute}, nil
	}
	begin(t, src, func(t *testing.T, m *Manager) {
		tok := mustToken(t, m)
		pass(time.Until(m.Status().NextTry))
		pass(30 * time.Millisecond) // a refresh is on its way
		if next, err := m.Reject(t.Context(), tok, 40001); err != nil || next.Secret() != "new" {
			t.Errorf("got %v", err)
		}
		if src.count() != 3 {
			t.Errorf("%d fetches", src.count())
		}
	})
}

// sameAgain hands out one token for ever, except by force.
func sameAgain(s *issuer) func(fetchCall) (Reply, error) {
	return func(c fetchCall) (Reply, error) {
		if c.force {
			s.serial++
		}
		return Reply{AccessToken: fmt.Sprintf("same-%d", s.serial), ExpiresIn: 2 * time.Hour}, nil
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
			begin(t, src, func(t *testing.T, m *Manager) {
				tok := mustToken(t, m)
				start := time.Now()
				for time.Since(start) < 24*time.Hour {
					next, err := m.Reject(t.Context(), tok, 40001)
					if err != nil {
						t.Fatalf("got %v", err)
					}
					if tok = next; time.Since(start) < time.Minute && src.count() > tc.firstMin {
						t.Fatalf("%d calls in the first minute", src.count())
					}
					if time.Since(start) < time.Minute {
						pass(200 * time.Millisecond)
					} else {
						pass(2 * time.Second)
					}
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
	src.traits.MayForce = true
	begin(t, src, func(t *testing.T, m *Manager) {
		tok := mustToken(t, m)
		again, err := m.Reject(t.Context(), tok, 40001)
		if err != nil || again.Secret() != tok.Secret() {
			t.Fatalf("got %v; want the same token once more, without force", err)
		}
		forced, err := m.Reject(t.Context(), again, 40001)
		if err != nil || forced.Secret() == tok.Secret() {
			t.Fatalf("got %v; want another token, by force", err)
		}
		var last time.Time
		start, tok := time.Now(), forced
		for time.Since(start) < 24*time.Hour {
			if tok, err = m.Reject(t.Context(), tok, 40001); err != nil {
				t.Fatal(err)
			}
			pass(5 * time.Second)
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
	src.answer = func(c fetchCall) (Reply, error) {
		if c.force {
			return Reply{}, &ErrcodeError{45009, "reach max api daily quota limit"}
		}
		return Reply{AccessToken: "same", ExpiresIn: time.Hour}, nil
	}
	src.traits.MayForce = true
	begin(t, src, func(t *testing.T, m *Manager) {
		tok, err := mustToken(t, m), error(nil)
		for range 2 {
			if tok, err = m.Reject(t.Context(), tok, 40001); err != nil || tok.Secret() != "same" {
				t.Fatalf("got %v", err)
			}
		}
		mustToken(t, m)
	})
}

func TestTokenRejectedWhileEndpointIsDown(t *testing.T) {
	for _, errcode := range []int{40001, 42001} {
		src := newIssuer()
		begin(t, src, func(t *testing.T, m *Manager) {
			tok := mustToken(t, m)
			src.fail(&ErrcodeError{-1, "system error"})
			for range 100 {
				_, err := m.Reject(t.Context(), tok, errcode)
				var unavailable *UnavailableError
				if !errors.As(err, &unavailable) {
					t.Fatalf("got %v", err)
				}
			}
			// the rejection may have been noise; that of an expired token is none
			if _, err := m.Token(t.Context()); (err == nil) != (errcode == 40001) {
				t.Errorf("%d: token() gives %v", errcode, err)
			}
			if n := src.count(); n != 2 {
				t.Errorf("%d fetches", n)
			}
			src.fail(nil)
			pass(5 * time.Second)
			if got := mustToken(t, m); got.Secret() != "token-2" {
				t.Errorf("not replaced when the endpoint was back")
			}
		})
	}
}

// A token that was handed out again is not asked about while a failure to do so is
// remembered, though the time for it may have come.
func TestRepeatedTokenDuringBackOff(t *testing.T) {
	src := newIssuer()
	src.answer = sameAgain(src)
	begin(t, src, func(t *testing.T, m *Manager) {
		tok, err := m.Reject(t.Context(), mustToken(t, m), 40001)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(repeatFirst)
		src.fail(&ErrcodeError{45009, "reach max api daily quota limit"})
		if _, err := m.Reject(t.Context(), tok, 40001); err == nil {
			t.Fatal("the issuer was not asked")
		}
		calls := src.count()
		for range 50 {
			time.Sleep(time.Second)
			if again, err := m.Reject(t.Context(), tok, 40001); err != nil || again != tok {
				t.Fatalf("got %v", err)
			}
		}
		if n := src.count() - calls; n != 0 {
			t.Errorf("%d calls during the back-off", n)
		}
	})
}

// Who got a token before a refresh confirmed it, and has it rejected after that, does
// not get it again as if it were another one.
func TestRejectedTokenWasConfirmed(t *testing.T) {
	src := newIssuer()
	src.answer = func(c fetchCall) (Reply, error) {
		if c.rejected == "old" {
			return Reply{AccessToken: "new", ExpiresIn: time.Hour}, nil
		}
		return Reply{AccessToken: "old", ExpiresIn: time.Hour}, nil
	}
	begin(t, src, func(t *testing.T, m *Manager) {
		tok := mustToken(t, m)
		time.Sleep(wakeGap)
		if again, err := m.Renew(t.Context()); err != nil || again.Secret() != "old" {
			t.Fatalf("got %v", err)
		}
		if next, err := m.Reject(t.Context(), tok, 40001); err != nil || next.Secret() != "new" || src.count() != 3 {
			t.Errorf("got %v, %d calls", err, src.count())
		}
	})
}

// When the last config goes while a rejected token is asked about, that is left for
// those who are still there: the rejection may have been noise.
func TestRejectedTokenWhenConfigsAreGone(t *testing.T) {
	src := newIssuer()
	inTime(t, src, func(t *testing.T, m *Manager, a *Attachment) {
		a.Start()
		tok := mustToken(t, m)
		time.AfterFunc(src.took/2, a.Detach)
		if _, err := m.Reject(t.Context(), tok, 40001); err == nil {
			t.Fatal("a token without a config")
		}
		if mustToken(t, m) != tok {
			t.Error("another token")
		}
	})
}
