package token

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// In a day, or twelve lives of a token, a fleet makes one call for each rotation, and no request fails or sees
// a rejected token, however wrong the clocks are.
func TestFleetForADay(t *testing.T) {
	for name, skews := range map[string][]time.Duration{
		"clocks agree":          {0, 0, 0},
		"minutes apart":         {0, 5 * time.Minute, -5 * time.Minute},
		"one is hours off":      {0, 3 * time.Hour, 0},
		"one is a year in 1970": {0, 0, -50 * 365 * 24 * time.Hour},
	} {
		for _, life := range []time.Duration{2 * time.Hour, 5 * time.Minute} {
			t.Run(fmt.Sprint(name, ", life ", life), func(t *testing.T) {
				inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
					w.life = life
					var fleet []*gateway
					for _, skew := range skews {
						store := s.client()
						store.skew = skew
						g := startGateway(w, store)
						defer g.stop()
						fleet = append(fleet, g)
						pass(time.Second)
					}
					if n := w.count(); n != 1 && !(n == 2 && strings.Contains(name, "hours")) {
						t.Errorf("%d calls at the start", n)
					}
					start, day := time.Now(), 12*life
					for time.Since(start) < day {
						for i, g := range fleet {
							if err := g.request(t.Context()); err != nil || g.rejected != 0 || g.waited > time.Second {
								t.Fatalf("gateway %d after %v: %v, %d rejections, waited %v", i, time.Since(start), err, g.rejected, g.waited)
							}
						}
						pass(15 * time.Second)
					}
					// at the most two in each life, one at the start, and one for each other clock, which has its doubts
					lives := int(day / life)
					if n := w.count(); n < lives || n > 2*lives+len(skews) {
						t.Errorf("%d calls for %d lives", n, lives)
					}
				})
			})
		}
	}
}

// All start at once: one call if nothing is stored, none if a token is, and none
// has to wait for its turn at the lock.
func TestFleetStartsAtOnce(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		for round := range 3 {
			var wg sync.WaitGroup
			for range 50 {
				g := startGateway(w, s.client())
				defer g.stop()
				wg.Go(func() {
					if err := g.request(t.Context()); err != nil || g.waited > time.Second {
						t.Errorf("round %d: %v after %v", round, err, g.waited)
					}
				})
			}
			wg.Wait()
			if w.count() != 1 {
				t.Errorf("round %d: %d calls, want 1", round, w.count())
			}
			pass(time.Minute)
		}
	})
}

func TestBadRecords(t *testing.T) {
	hour := time.Hour.Milliseconds()
	for name, tc := range map[string]struct {
		record func(now int64) string
		used   bool
	}{
		"good": {func(now int64) string {
			return fmt.Sprintf(`{"serial":7,"access_token":"stored","issued_at":%d,"expires_in":%d}`, now-hour, 2*hour)
		}, true},
		"from the future": {func(now int64) string {
			return fmt.Sprintf(`{"serial":7,"access_token":"stored","issued_at":%d,"expires_in":%d}`, now+hour, 2*hour)
		}, true},
		"stale": {func(now int64) string {
			return fmt.Sprintf(`{"serial":7,"access_token":"stored","issued_at":%d,"expires_in":%d}`, now-3*hour, 2*hour)
		}, false},
		"torn":  {func(int64) string { return `{"serial":7,"access_token":"stored","is` }, false},
		"zeros": {func(int64) string { return string(make([]byte, 200)) }, false},
		"empty": {func(int64) string { return "" }, false},
		"no token": {func(now int64) string {
			return fmt.Sprintf(`{"serial":7,"issued_at":%d,"expires_in":%d}`, now, hour)
		}, false},
		"no serial": {func(now int64) string {
			return fmt.Sprintf(`{"access_token":"stored","issued_at":%d,"expires_in":%d}`, now, hour)
		}, false},
		"negative": {func(now int64) string {
			return fmt.Sprintf(`{"serial":7,"access_token":"stored","issued_at":%d,"expires_in":-5}`, now)
		}, false},
		"lives for ever": {func(now int64) string {
			return fmt.Sprintf(`{"serial":7,"access_token":"stored","issued_at":%d,"expires_in":9000000000000000000}`, now)
		}, false},
		"bad token": {func(now int64) string {
			return fmt.Sprintf(`{"serial":7,"access_token":"a b\n","issued_at":%d,"expires_in":%d}`, now, hour)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
				s.values[keyPrefix+testIdentity.Key()+"/token"] = []byte(tc.record(time.Now().UnixMilli()))
				g := startGateway(w, s.client())
				defer g.stop()
				tok := mustToken(t, g.Manager)
				if (tok.Secret() == "stored") != tc.used || (w.count() == 0) != tc.used {
					t.Errorf("used %v, %d calls", tok.Secret() == "stored", w.count())
				}
			})
		})
	}
}

// Books that make no sense do not keep a fleet from calling.
func TestBadBooks(t *testing.T) {
	now := time.Now()
	for raw, want := range map[string]bool{
		fmt.Sprintf(`{"spent":100,"spent_at":%d}`, now.UnixMilli()):                           false,
		fmt.Sprintf(`{"spent":100,"spent_at":%d}`, now.Add(-2*time.Minute).UnixMilli()):       true,
		fmt.Sprintf(`{"spent":100,"spent_at":%d}`, now.Add(100*365*24*time.Hour).UnixMilli()): true,
		fmt.Sprintf(`{"spent":-1e300,"spent_at":%d}`, now.UnixMilli()):                        true,
		`{"spent":`: true,
	} {
		b := parseBooks([]byte(raw))
		if ok, _ := b.enter(now, false); ok != want {
			t.Errorf("%s: %v", raw, ok)
		}
	}
}

// By a clock that may be wrong the stored token is at its end: it is used for a
// little, and replaced before long.
func TestDoubt(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		first := startGateway(w, s.client())
		mustToken(t, first.Manager)
		first.stop()
		pass(2*time.Hour - 30*time.Second)
		g := startGateway(w, s.client())
		defer g.stop()
		tok := mustToken(t, g.Manager)
		if tok.Secret() != "token-1" || tok.left() > 3*time.Minute || time.Until(g.Status().NextTry) > 90*time.Second {
			t.Fatalf("got %s for %v", tok.Secret(), tok.left())
		}
		pass(2 * time.Minute)
		if tok = mustToken(t, g.Manager); tok.Secret() != "token-2" {
			t.Fatalf("got %s", tok.Secret())
		}
	})
}

// Through six hours without a store, nobody waits or fails, and there is a call for
// each token only. A cold start does without it, too. No secret of the store's is told.
func TestStoreFailsForHours(t *testing.T) {
	for name, brake := range map[string]func(*memServer){
		"error": func(s *memServer) {
			s.down = errors.New("connection to redis://user:SENTINELSENTINELSENTINELSENTINEL@h lost")
		},
		"hangs": func(s *memServer) { s.hang = true },
	} {
		t.Run(name, func(t *testing.T) {
			inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
				g := newGateway(w, s.client())
				g.a.Detach()
				log := keepEvents(g.Manager)
				g.a = g.Attach(Binding{Source: w, Store: g.store, Observe: log.observe})
				g.a.Start()
				defer g.stop()
				if err := g.request(t.Context()); err != nil {
					t.Fatal(err)
				}
				s.set(brake)
				g.waited = 0
				for start := time.Now(); time.Since(start) < 6*time.Hour; pass(time.Second) {
					if err := g.request(t.Context()); err != nil || g.waited != 0 {
						t.Fatalf("after %v: %v, waited %v", time.Since(start), err, g.waited)
					}
					if s := g.Status(); strings.Contains(s.StoreError+s.Error, "SENTINEL") || s.FailuresInARow != 0 {
						t.Fatalf("status is %+v", s)
					}
				}
				if n := w.count(); n > 6 {
					t.Errorf("%d calls in six hours", n)
				}
				if n := strings.Count(log.kinds(), "store_failed"); n != 1 || g.Status().StoreError == "" {
					t.Errorf("the failing store was told of %d times; status %+v", n, g.Status())
				}
				cold := startGateway(w, s.client())
				defer cold.stop()
				if err := cold.request(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The whole fleet together keeps to its books, 1,540 calls in a day, when every token is
// rejected, and when every call fails.
func TestFleetBudget(t *testing.T) {
	for name, break_ := range map[string]func(*wechat){
		"every token is rejected": func(w *wechat) { w.poison = true },
		"every call fails":        func(w *wechat) { w.err = &ErrcodeError{-1, "system error"} },
	} {
		t.Run(name, func(t *testing.T) {
			inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
				break_(w)
				var wg sync.WaitGroup
				for i := range 10 {
					store := s.client()
					store.skew = time.Duration(i-5) * time.Minute
					g := startGateway(w, store)
					defer g.stop()
					wg.Go(func() {
						for start := time.Now(); time.Since(start) < time.Hour; time.Sleep(10 * time.Second) {
							_ = g.request(t.Context())
						}
					})
				}
				wg.Wait()
				if n := w.count(); n > fleetBurst+60+20 || n < fleetBurst {
					t.Errorf("%d calls in an hour", n)
				}
			})
		})
	}
}

// force_refresh is WeChat's allowance to an app, not to a gateway.
func TestFleetForce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		src, s := newIssuer(), newMemServer(habit{})
		src.answer = sameAgain(src)
		src.traits.MayForce = true
		var wg sync.WaitGroup
		for i := range 5 {
			m := NewManager(testIdentity, src.traits)
			defer m.Close()
			m.Attach(Binding{Source: src, Store: s.client()}).Start()
			wg.Go(func() {
				end := time.Now().Add(23 * time.Hour)
				time.Sleep(time.Duration(i) * time.Hour)
				pause := 35 * time.Second
				for start := time.Now(); time.Now().Before(end); time.Sleep(pause) {
					if time.Since(start) > 30*time.Minute {
						pause = 10 * time.Minute
					}
					if tok, err := m.Token(t.Context()); err == nil {
						_, _ = m.Reject(t.Context(), tok, 40001)
					}
				}
			})
		}
		wg.Wait()
		var forced []time.Time
		for _, c := range src.since(time.Time{}) {
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

func TestIdentityKey(t *testing.T) {
	want := testIdentity.Key()
	if len(want) != 64 || strings.Contains(want, "wxapp") {
		t.Errorf("the key is %s", want)
	}
	for _, other := range []Identity{
		{"wxother", "weixin.qq.com", "test"}, {"wxapp", "http://127.0.0.1:9000", "test"}, {"wxapp", "weixin.qq.com", "classic"},
		{"wxappw", "eixin.qq.com", "test"},
	} {
		if other.Key() == want {
			t.Errorf("%v has the same key", other)
		}
	}
	if (Identity{"wxapp", "weixin.qq.com", "test"}).Key() != want {
		t.Error("the same identity has another key")
	}
}

// The refresh interval of a source goes with the token: when the gateway that
// fetched is gone, the others keep to it.
func TestRefreshIntervalOutlivesTheLeader(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newMemServer(habit{})
		src := newIssuer()
		src.answer = func(fetchCall) (Reply, error) {
			src.serial++
			return Reply{AccessToken: fmt.Sprint("token-", src.serial), ExpiresIn: 2 * time.Hour, RefreshIn: 10 * time.Minute}, nil
		}
		leader := NewManager(testIdentity, Traits{})
		leader.Attach(Binding{Source: src, Store: s.client()}).Start()
		mustToken(t, leader)
		follower := NewManager(testIdentity, Traits{})
		defer follower.Close()
		follower.Attach(Binding{Source: src, Store: s.client()}).Start()
		mustToken(t, follower)
		leader.Close()
		if src.count() != 1 {
			t.Fatalf("%d calls", src.count())
		}
		pass(time.Hour)
		if n := src.count(); n < 6 || n > 8 {
			t.Errorf("%d calls in an hour, want one in 10 minutes", n)
		}
	})
}

// A gateway that has no access to the issuer lives on what others store.
func TestFollowerWithoutTheIssuer(t *testing.T) {
	inFleet(t, habit{}, true, func(t *testing.T, w *wechat, s *memServer) {
		good := startGateway(w, s.client())
		defer good.stop()
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		pass(time.Second)
		m.Attach(Binding{Store: s.client(), Source: sourceFunc(func(context.Context, Request) (Reply, error) {
			return Reply{}, &ErrcodeError{40164, "invalid ip"}
		})}).Start()
		tok := mustToken(t, m)
		for range 3 {
			w.revoke()
			if err := good.request(t.Context()); err != nil {
				t.Fatal(err)
			}
			again, err := m.Reject(t.Context(), tok, 40001)
			if err != nil || !w.accepts(again) {
				t.Fatalf("a rejection does not heal by the store: %v", err)
			}
			tok = again
			pass(time.Minute)
		}
		w.revoke() // it is asked here first, in vain, and known there later
		_, _ = m.Reject(t.Context(), tok, 40001)
		_ = good.request(t.Context())
		pass(2 * lookGap)
		if again, err := m.Reject(t.Context(), tok, 40001); err != nil || !w.accepts(again) {
			t.Errorf("a rejection in a back-off does not heal by the store: %v", err)
		}
	})
}
