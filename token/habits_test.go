package token

import (
	"errors"
	"testing"
	"time"
)

// everyHabit runs a test against each store, for both kinds of token endpoint.
func everyHabit(t *testing.T, test func(t *testing.T, w *wechat, s *memServer)) {
	for name, h := range habits {
		for _, classic := range []bool{true, false} {
			kind := map[bool]string{true: "classic", false: "stable"}[classic]
			t.Run(name+", "+kind, func(t *testing.T) {
				inFleet(t, h, classic, test)
			})
		}
	}
}

const fleetSize = 6

// A cold start of the whole fleet, a day of rotations, and revocations: one call
// each, and no request fails.
func TestHabitsCostNothing(t *testing.T) {
	everyHabit(t, func(t *testing.T, w *wechat, s *memServer) {
		w.life = time.Hour
		f := startFleet(t, fleetSize, w, s)
		defer f.end()
		start := time.Now()
		pass(10 * time.Second)
		if n := w.count(); n != 1 {
			t.Errorf("%d calls for a cold start", n)
		}
		for i := range 3 {
			before := w.count()
			w.revoke()
			pass(30 * time.Second)
			if n := w.count() - before; n != 1 {
				t.Errorf("revocation %d: %d calls", i, n)
			}
		}
		before := w.count()
		f.pace.Store(int64(5 * time.Second))
		pass(2 * time.Hour)
		if n := w.count() - before; n < 2 || n > 3 {
			t.Errorf("%d calls for 2 rotations", n)
		}
		if n := f.failedSince(start); n != 0 || f.waited() > 2*time.Second {
			t.Errorf("%d requests failed, one waited %v", n, f.waited())
		}
		f.agree(t)
	})
}

// A token endpoint that takes 8 s, and a revocation.
func TestHabitsSlowEndpoint(t *testing.T) {
	everyHabit(t, func(t *testing.T, w *wechat, s *memServer) {
		f := startFleet(t, fleetSize, w, s)
		defer f.end()
		pass(10 * time.Second)
		w.set(func(w *wechat) { w.took = 8 * time.Second })
		for range 3 {
			start, before := time.Now(), w.count()
			w.revoke()
			pass(30 * time.Second)
			if n := w.count() - before; n > 2 || f.failedSince(start) != 0 || f.waited() > 10*time.Second {
				t.Errorf("%d calls, %d requests failed, one waited %v", n, f.failedSince(start), f.waited())
			}
		}
		pass(2 * time.Minute)
		f.agree(t)
	})
}

// The gateway that fetches is killed in the middle of it. It is not waited for.
func TestHabitsHolderKilled(t *testing.T) {
	everyHabit(t, func(t *testing.T, w *wechat, s *memServer) {
		f := startFleet(t, fleetSize, w, s)
		defer f.end()
		pass(10 * time.Second)
		w.set(func(w *wechat) { w.took = 2 * time.Second })
		before := w.count()
		w.revoke()
		for w.count() == before {
			pass(10 * time.Millisecond)
		}
		pass(time.Second)
		var killed *gateway
		for _, g := range f.gateways {
			if g.Status().Fetches > 0 && g.Status().LastTry.After(time.Now().Add(-1500*time.Millisecond)) {
				killed = g
			}
		}
		killed.kill()
		rest := &testFleet{wechat: w, server: s}
		for _, g := range f.gateways {
			if g != killed {
				rest.gateways = append(rest.gateways, g)
			}
		}
		rest.clear()
		start := time.Now()
		pass(30 * time.Second)
		if n := w.count() - before; n != 2 || rest.failedSince(start) != 0 || rest.waited() > 9*time.Second {
			t.Errorf("%d calls, %d requests failed, one waited %v", n, rest.failedSince(start), rest.waited())
		}
		before = w.count() // what it left behind is in nobody's way any more
		w.revoke()
		pass(30 * time.Second)
		if n := w.count() - before; n != 1 || rest.failedSince(start) != 0 {
			t.Errorf("%d calls for the next revocation, %d requests failed", n, rest.failedSince(start))
		}
		pass(2 * time.Minute)
		rest.agree(t)
	})
}

var outages = map[string]struct{ begin, end func(*memServer) }{
	"refused": {
		func(s *memServer) { s.down = errors.New("dial tcp: connection refused") },
		func(s *memServer) { s.down = nil },
	},
	"refused late": { // by a client that tries again and again
		func(s *memServer) {
			s.down, s.latency = errors.New("dial tcp: connection refused"), s.latency+2*time.Second
		},
		func(s *memServer) { s.down, s.latency = nil, s.latency-2*time.Second },
	},
	"read-only": {
		func(s *memServer) { s.readOnly = true },
		func(s *memServer) { s.readOnly = false },
	},
	"paused": {
		func(s *memServer) { s.paused = true },
		func(s *memServer) { s.paused = false },
	},
	"hangs": { // what does not return within a day is as good as lost
		func(s *memServer) { s.hang = true },
		func(s *memServer) { s.hang = false },
	},
}

// The store is away for ten minutes, with a revocation in it. No request fails
// beyond the first second, calls stay few, and afterwards all have one token.
func TestHabitsOutage(t *testing.T) {
	for name, outage := range outages {
		t.Run(name, func(t *testing.T) {
			everyHabit(t, func(t *testing.T, w *wechat, s *memServer) {
				f := startFleet(t, fleetSize, w, s)
				defer f.end()
				pass(10 * time.Second)
				before := w.count()
				s.set(outage.begin)
				f.pace.Store(int64(5 * time.Second))
				pass(3 * time.Minute)
				if n := w.count() - before; n != 0 {
					t.Errorf("%d calls because the store is away", n)
				}
				f.clear()
				f.pace.Store(int64(100 * time.Millisecond))
				pass(5 * time.Second)
				start := time.Now()
				w.revoke()
				pass(20 * time.Second)
				f.pace.Store(int64(2 * time.Second))
				pass(7*time.Minute - 20*time.Second)
				s.set(outage.end)
				during := w.count() - before
				pass(7 * time.Minute)
				if n := f.failedSince(start.Add(time.Second)); n != 0 {
					t.Errorf("%d requests failed", n)
				}
				if f.waited() > 2*time.Second {
					t.Errorf("one waited %v", f.waited())
				}
				most := fleetSize // each gets one for itself
				if w.classic {
					most = 3 * fleetSize // and ends that of the one before
				}
				if after := w.count() - before - during; during > most || after > 2 && (name != "hangs" || after > most) {
					t.Errorf("%d calls during the outage, %d after it", during, after)
				}
				if name != "hangs" { // what hangs does so for a day
					f.agree(t)
				}
				before = w.count()
				w.revoke()
				pass(30 * time.Second)
				if n := w.count() - before; n != 1 && name != "hangs" || f.failedSince(start.Add(time.Second)) != 0 {
					t.Errorf("%d calls for the next revocation, %d requests failed", n, f.failedSince(start.Add(time.Second)))
				}
			})
		})
	}
}
