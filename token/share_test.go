package token

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// inFleet runs a test in virtual time against a store.
func inFleet(t *testing.T, h habit, classic bool, test func(t *testing.T, w *wechat, s *memServer)) {
	t.Helper()
	inBubble(t, func(t *testing.T) { test(t, newWechat(classic), newMemServer(h)) })
}

func (s *memServer) key(name string) string { return keyPrefix + testIdentity.Key() + "/" + name }

// put writes a record as another gateway does.
func (s *memServer) put(serial int64, token string) {
	s.set(func(s *memServer) {
		s.before[s.key("token")] = s.values[s.key("token")]
		s.values[s.key("token")] = fmt.Appendf(nil, `{"serial":%d,"access_token":%q,"issued_at":%d,"expires_in":7200000}`,
			serial, token, time.Now().UnixMilli())
	})
}

// A token that was got without the store and was rejected is not taken from the
// store when that is looked into for the first time.
func TestRejectedTokenIsNotTakenOnFirstLook(t *testing.T) {
	inFleet(t, habit{}, false, func(t *testing.T, w *wechat, s *memServer) {
		s.set(func(s *memServer) { s.down = errors.New("away") })
		g := startGateway(w, s.client())
		defer g.stop()
		tok := mustToken(t, g.Manager)
		s.put(time.Now().UnixMilli(), tok.Secret()) // another gateway got the same
		w.revoke()
		s.set(func(s *memServer) { s.down = nil })
		again, err := g.Reject(t.Context(), tok, 40001)
		if err != nil || again.Secret() == tok.Secret() || w.count() != 2 {
			t.Errorf("got %v, %d calls", err, w.count())
		}
	})
}

// After an outage, a token that was got in it is not given up for one that another
// gateway got before, which is at its end since; but for a later one it is.
func TestLaterTokenIsKept(t *testing.T) {
	for _, later := range []bool{false, true} {
		inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
			s.set(func(s *memServer) { s.down = errors.New("away") })
			if !later {
				s.put(time.Now().UnixMilli(), "stored")
			}
			pass(time.Second)
			g := startGateway(w, s.client())
			defer g.stop()
			mustToken(t, g.Manager)
			pass(time.Second)
			if later {
				s.put(time.Now().UnixMilli(), "stored")
			}
			s.set(func(s *memServer) { s.down = nil })
			for range 100 {
				if !later && mustToken(t, g.Manager).Secret() == "stored" {
					t.Fatal("a later token is given up for an earlier one")
				}
				pass(time.Second)
			}
			want, calls := w.latest(), 2
			if later {
				want, calls = "stored", 1
			}
			if got := mustToken(t, g.Manager).Secret(); got != want || w.count() != calls || s.token().Token != want {
				t.Errorf("got %s, %d calls", got, w.count())
			}
		})
	}
}

// One read that is behind brings no token back.
func TestStaleReads(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		f := startFleet(t, 3, w, s)
		defer f.end()
		pass(time.Minute)
		for range 5 {
			w.revoke()
			pass(10 * time.Second)
			s.set(func(s *memServer) { s.stale = 4 })
			pass(5 * time.Minute)
		}
		f.agree(t)
		if n := w.count(); n != 6 || f.failedSince(time.Time{}) != 0 {
			t.Errorf("%d calls, %d failed", n, f.failedSince(time.Time{}))
		}
		for range 5 { // in the middle of a fetch
			s.set(func(s *memServer) { s.stale = 3 })
			w.revoke()
			pass(5 * time.Minute)
		}
		f.agree(t)
		if n := w.count(); n > 12 || f.failedSince(time.Time{}) != 0 {
			t.Errorf("%d calls, %d failed", n, f.failedSince(time.Time{}))
		}
	})
}

// An older serial is neither believed nor written over a newer one, and a rejected
// token comes back only by a record that was written after the rejection was known.
func TestSerials(t *testing.T) {
	inFleet(t, habit{}, false, func(t *testing.T, w *wechat, s *memServer) {
		g := startGateway(w, s.client())
		defer g.stop()
		tok := mustToken(t, g.Manager)
		serial := s.token().Serial
		look := func() string { pass(storePoll + time.Second); return mustToken(t, g.Manager).Secret() }
		if s.put(serial-1, "older"); look() != tok.Secret() {
			t.Error("an older serial is believed")
		}
		if s.put(serial+1, "newer"); look() != "newer" {
			t.Error("a newer serial is not believed")
		}
		w.tokens["newer"] = time.Now()
		far := serial + 3*time.Hour.Milliseconds()
		time.AfterFunc(250*time.Millisecond, func() { s.put(far, "newest") }) // while the issuer is asked
		w.set(func(w *wechat) { w.took = time.Second })
		if again, err := g.Reject(t.Context(), mustToken(t, g.Manager), 40001); err != nil || again.Secret() != "newest" {
			t.Errorf("got %v", err)
		}
		if s.token().Serial != far {
			t.Error("an older serial was written over a newer one")
		}
		newest := mustToken(t, g.Manager)
		w.set(func(w *wechat) { w.err = &ErrcodeError{45009, "quota"} })
		_, _ = g.Reject(t.Context(), newest, 42001)
		if s.put(far+1, "newest"); g.Usable() {
			t.Fatal("a dead token is usable")
		}
		pass(time.Minute)
		if !g.Usable() || g.Status().FailuresInARow != 0 {
			t.Error("a token that was confirmed after its rejection does not come back")
		}
	})
}

// A call that takes all of its time is stored all the same.
func TestResultIsStoredOnItsOwnTime(t *testing.T) {
	inFleet(t, habit{latency: 500 * time.Millisecond}, true, func(t *testing.T, w *wechat, s *memServer) {
		w.took = callTimeout - 10*time.Millisecond
		g := startGateway(w, s.client())
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // and its caller does not wait for it
		defer cancel()
		if _, err := g.Token(ctx); err == nil {
			t.Fatal("too fast")
		}
		for w.count() == 0 {
			pass(10 * time.Millisecond)
		}
		pass(w.took + 100*time.Millisecond)
		g.stop() // even when the gateway ends right then
		pass(10 * time.Second)
		if s.token() == nil || w.count() != 1 {
			t.Error("what the issuer gave is not stored")
		}
	})
}

// A lock that comes when nobody wants it any more is given back, also by a store
// that does not take it back at once.
func TestLateLockIsReleased(t *testing.T) {
	inFleet(t, habit{lockDeaf: true}, true, func(t *testing.T, w *wechat, s *memServer) {
		other := s.client()
		if err := other.Lock(t.Context(), s.key("lock")); err != nil {
			t.Fatal(err)
		}
		g := startGateway(w, s.client())
		defer g.stop()
		start := time.Now()
		if err := g.request(t.Context()); err != nil || g.waited > 5*time.Second {
			t.Fatalf("got %v after %v", err, time.Since(start))
		}
		pass(time.Minute)
		_ = other.Unlock(t.Context(), s.key("lock"))
		pass(2 * time.Second) // it is the gateway's now, which does not want it
		s.set(func(s *memServer) {
			if len(s.locks) != 0 {
				t.Error("a late lock is kept")
			}
		})
	})
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		w.took = 2 * time.Second
		g := startGateway(w, s.client())
		defer g.stop()
		time.AfterFunc(time.Second, func() { s.set(func(s *memServer) { s.readOnly = true }) })
		mustToken(t, g.Manager)
		pass(time.Second)
		s.set(func(s *memServer) { s.readOnly = false })
		pass(15 * time.Second)
		s.set(func(s *memServer) {
			if len(s.locks) != 0 {
				t.Error("the lock is kept")
			}
		})
	})
}

// Who fetches, is alive and brings nothing is not waited for for ever.
func TestFetchThatTakesTooLong(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		g := newGateway(w, s.client())
		defer g.stop()
		go func() {
			for i := range 60 {
				s.set(func(s *memServer) { s.values[s.key("alive")] = fmt.Appendf(nil, `{"id":"another","count":%d}`, i) })
				time.Sleep(signEvery)
			}
		}()
		time.Sleep(signEvery / 2)
		g.a.Start()
		if err := g.request(t.Context()); err != nil || g.waited < claimPatience || g.waited > claimPatience+5*time.Second || w.count() != 1 {
			t.Errorf("got %v after %v, %d calls", err, g.waited, w.count())
		}
	})
}

// A lock that is never to be had costs a few goroutines, and a little time.
func TestLockHangsForGood(t *testing.T) {
	inFleet(t, habit{lockDeaf: true}, true, func(t *testing.T, w *wechat, s *memServer) {
		other := s.client()
		if err := other.Lock(t.Context(), s.key("lock")); err != nil {
			t.Fatal(err)
		}
		g := startGateway(w, s.client())
		defer g.stop()
		for range 2 * mostProbes {
			if err := g.request(t.Context()); err != nil || g.waited > 5*time.Second {
				t.Errorf("got %v after %v", err, g.waited)
			}
			time.Sleep(time.Minute)
			w.revoke()
		}
		s.set(func(s *memServer) {
			if s.locking > mostProbes {
				t.Errorf("%d locks are waited for", s.locking)
			}
		})
		_ = other.Unlock(t.Context(), s.key("lock"))
		time.Sleep(time.Minute)
		s.set(func(s *memServer) {
			if s.locking != 0 || len(s.locks) != 0 {
				t.Errorf("%d locks are waited for, %d are kept", s.locking, len(s.locks))
			}
		})
	})
}

// A store that hangs for good costs a few goroutines, and no time.
func TestStoreHangsForGood(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		f := startFleet(t, 1, w, s)
		defer f.end()
		f.pace.Store(int64(time.Second))
		pass(time.Minute)
		s.set(func(s *memServer) { s.hang = true })
		for range 23 {
			w.revoke()
			pass(time.Hour)
			s.set(func(s *memServer) {
				if s.hanging > 2*mostProbes {
					t.Errorf("%d accesses hang", s.hanging)
				}
			})
		}
		if n := f.failedSince(time.Time{}); n != 0 || w.count() > 40 {
			t.Errorf("%d requests failed, %d calls", n, w.count())
		}
	})
}

// A store closes its client at a reload, in the middle of a call and before. Nobody
// notices, and the new config's store has the token.
func TestStoreClosesAtReload(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		w.life = 20 * time.Minute
		f := startFleet(t, 2, w, s)
		defer f.end()
		pass(10 * time.Second)
		w.set(func(w *wechat) { w.took = 300 * time.Millisecond })
		for range 200 {
			g := f.gateways[0]
			store := s.client()
			next := g.Attach(Binding{Source: w, Store: store})
			next.Start()
			g.a.Detach()
			s.set(func(*memServer) { g.store.closed = errors.New("redis: client is closed") })
			g.a, g.store = next, store
			pass(7100 * time.Millisecond)
		}
		if n := w.count(); n > 5 || f.failedSince(time.Time{}) != 0 || f.waited() > 2*time.Second {
			t.Errorf("%d calls for 2 rotations, %d failed, waited %v", n, f.failedSince(time.Time{}), f.waited())
		}
		pass(2 * time.Minute)
		f.agree(t)
		before := w.count() // and in mid-call
		w.revoke()
		pass(200 * time.Millisecond)
		g := f.gateways[0]
		next := g.Attach(Binding{Source: w, Store: s.client()})
		next.Start()
		g.a.Detach()
		s.set(func(*memServer) { g.store.closed = errors.New("redis: client is closed") })
		g.a = next
		pass(2 * time.Minute)
		if n := w.count() - before; n > 3 || f.failedSince(time.Time{}) != 0 {
			t.Errorf("%d calls, %d failed", n, f.failedSince(time.Time{}))
		}
		f.agree(t)
	})
}

// A gateway that waits for another one's fetch while its store is closed by a reload
// goes on waiting, with the new config's store.
func TestStoreClosesWhileWaiting(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		w.took = 8 * time.Second
		fetching, waiting := startGateway(w, s.client()), newGateway(w, s.client())
		defer fetching.stop()
		defer waiting.stop()
		pass(time.Second)
		waiting.a.Start()
		pass(time.Second)
		old := waiting.a
		waiting.a = waiting.Attach(Binding{Source: w, Store: s.client()})
		waiting.a.Start()
		old.Detach()
		s.set(func(*memServer) { waiting.store.closed = errors.New("redis: client is closed") })
		if err := waiting.request(t.Context()); err != nil || w.count() != 1 {
			t.Errorf("got %v, %d calls", err, w.count())
		}
	})
}

// A reload while the store is away costs no request.
func TestReloadWhileTheStoreIsAway(t *testing.T) {
	for name, outage := range outages {
		t.Run(name, func(t *testing.T) {
			inFleet(t, habit{downIsGone: true}, true, func(t *testing.T, w *wechat, s *memServer) {
				f := startFleet(t, 1, w, s)
				defer f.end()
				pass(time.Minute)
				s.set(outage.begin)
				g := f.gateways[0]
				for range 10 {
					next := g.Attach(Binding{Source: w, Store: s.client()})
					next.Start()
					g.a.Detach()
					g.a = next
					pass(20 * time.Second)
				}
				if n := f.failedSince(time.Time{}); n != 0 || w.count() != 1 || f.waited() > time.Second {
					t.Errorf("%d requests failed, %d calls, waited %v", n, w.count(), f.waited())
				}
				s.set(outage.end)
			})
		})
	}
}

// A store that has lost everything gets the token back, and a gateway that starts
// after that makes no call.
func TestStoreIsFlushed(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		f := startFleet(t, 3, w, s)
		defer f.end()
		pass(time.Minute)
		s.set(func(s *memServer) { clear(s.values); clear(s.before); clear(s.locks) })
		pass(2 * time.Minute)
		cold := startGateway(w, s.client())
		defer cold.stop()
		if err := cold.request(t.Context()); err != nil || w.count() != 1 {
			t.Errorf("got %v, %d calls", err, w.count())
		}
		// at the worst time: a cold start right after, and a revocation
		s.set(func(s *memServer) { clear(s.values); clear(s.before); clear(s.locks) })
		colder := startGateway(w, s.client())
		defer colder.stop()
		if err := colder.request(t.Context()); err != nil || w.count() != 2 {
			t.Errorf("got %v, %d calls", err, w.count())
		}
		pass(2 * time.Minute)
		f.agree(t)
		s.set(func(s *memServer) { clear(s.values); clear(s.before); clear(s.locks) })
		w.revoke()
		pass(2 * time.Minute)
		if n := w.count(); n != 3 || f.failedSince(time.Time{}) != 0 {
			t.Errorf("%d calls, %d failed", n, f.failedSince(time.Time{}))
		}
		f.agree(t)
	})
}

// An operator's refresh really asks the issuer, whatever the store has.
func TestRenewAsksTheIssuer(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		f := startFleet(t, 3, w, s)
		defer f.end()
		pass(time.Minute)
		for i, g := range f.gateways {
			tok, err := g.Renew(t.Context())
			if err != nil || tok.Secret() != w.latest() || w.count() != i+2 {
				t.Errorf("gateway %d: %v, %d calls", i, err, w.count())
			}
			var early *TooEarlyError
			if _, err := g.Renew(t.Context()); !errors.As(err, &early) {
				t.Errorf("gateway %d: %v", i, err)
			}
		}
		pass(2 * time.Minute)
		f.agree(t)
		if n := f.failedSince(time.Time{}); n != 0 {
			t.Errorf("%d requests failed", n)
		}
		pass(wakeGap) // although another one has just stored a token
		s.put(time.Now().Add(time.Hour).UnixMilli(), "stored")
		before := w.count()
		if tok, err := f.gateways[0].Renew(t.Context()); err != nil || tok.Secret() != w.latest() || w.count() != before+1 {
			t.Errorf("got %v, %d calls", err, w.count()-before)
		}
		// a look under way is no call
		g := f.gateways[0]
		s.set(func(s *memServer) { s.latency = time.Second })
		looking := func() bool {
			g.Manager.mu.Lock()
			defer g.Manager.mu.Unlock()
			return g.flight != nil && g.flight.goal.Load() == toLook
		}
		for !looking() {
			pass(100 * time.Millisecond)
		}
		before = w.count()
		if _, err := g.Renew(t.Context()); err != nil || w.count() != before+1 {
			t.Errorf("during a look: %v, %d calls", err, w.count()-before)
		}
	})
}

// A look is not a fetch: it is counted apart, and its failure changes nothing.
func TestLooksAreNoFetches(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		g := startGateway(w, s.client())
		defer g.stop()
		mustToken(t, g.Manager)
		before := g.Status()
		pass(10 * time.Minute)
		s.set(func(s *memServer) { s.down = errors.New("away") })
		pass(10 * time.Minute)
		after := g.Status()
		if after.StoreLooks < before.StoreLooks+10 || after.StoreFailures == 0 || after.StoreError == "" || !after.Shared {
			t.Errorf("status is %+v", after)
		}
		if after.Fetches != 1 || after.Failures != 0 || after.FailuresInARow != 0 || after.LastTry != before.LastTry || after.NextTry != before.NextTry || after.Fetching {
			t.Errorf("status is %+v, was %+v", after, before)
		}
	})
}

// Without the store a gateway calls seldom, whatever is rejected.
func TestBudgetWithoutTheStore(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		s.down, w.poison = errors.New("away"), true
		g := startGateway(w, s.client())
		defer g.stop()
		for start := time.Now(); time.Since(start) < 2*time.Hour; pass(5 * time.Second) {
			_ = g.request(t.Context())
		}
		if n := w.count(); n < aloneBurst || n > aloneBurst+12 {
			t.Errorf("%d calls in two hours", n)
		}
		if s := g.Status(); s.Failure != KindBudget {
			t.Errorf("status is %+v", s)
		}
	})
}

// A store that panics is one that fails.
func TestStorePanics(t *testing.T) {
	inFleet(t, habit{}, false, func(t *testing.T, w *wechat, s *memServer) {
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		a := m.Attach(Binding{Source: w, Store: panicking{}})
		defer a.Detach()
		a.Start()
		mustToken(t, m)
	})
}

type panicking struct{}

func (panicking) Load(context.Context, string) ([]byte, error) { panic("oops") }
func (panicking) Store(context.Context, string, []byte) error  { panic("oops") }
func (panicking) Lock(context.Context, string) error           { panic("oops") }
func (panicking) Unlock(context.Context, string) error         { panic("oops") }
