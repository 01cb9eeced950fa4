package token

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// Whatever happens, in whatever order: when it is over, all gateways have the token
// that was issued last, requests succeed, and nobody has called without measure.
// WECHAT_SCHEDULES is the number of schedules to try instead of 20.
func TestRandomSchedules(t *testing.T) {
	n := 20
	if s, err := strconv.Atoi(os.Getenv("WECHAT_SCHEDULES")); err == nil {
		n = s
	}
	for seed := range n {
		if !t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T) { runSchedule(t, rand.New(rand.NewPCG(uint64(seed), 0))) })
		}) {
			break
		}
	}
}

func runSchedule(t *testing.T, r *rand.Rand) {
	names := slices.Sorted(maps.Keys(habits))
	h := habits[names[r.IntN(len(names))]]
	w, s := newWechat(r.IntN(2) == 0), newMemServer(h)
	w.life = []time.Duration{2 * time.Hour, 10 * time.Minute}[r.IntN(2)]
	f := startFleet(t, 1+r.IntN(4), w, s)
	defer f.end()
	f.pace.Store(int64(time.Second))
	start := time.Now()
	for range 5 + r.IntN(30) {
		happen(r, f)
		pass(time.Duration(r.ExpFloat64() * float64(20*time.Second)))
	}
	calm(f)
	pass(20 * time.Minute)
	calmed := time.Now()
	pass(20 * time.Minute)
	if n := f.failedSince(calmed); n != 0 {
		t.Errorf("%d requests failed when all was well", n)
	}
	f.agree(t)
	minutes := int(time.Since(start)/time.Minute) + 1
	if n := w.count(); n > 60+minutes*4*len(f.gateways) {
		t.Errorf("%d calls by %d gateways in %d minutes", n, len(f.gateways), minutes)
	}
}

// happen lets something happen.
func happen(r *rand.Rand, f *testFleet) {
	g := f.gateways[r.IntN(len(f.gateways))]
	switch r.IntN(12) {
	case 0, 1, 2:
		f.wechat.revoke()
	case 3:
		f.wechat.set(func(w *wechat) { w.took = time.Duration(r.IntN(12)) * time.Second })
	case 4:
		f.wechat.set(func(w *wechat) { w.err = &ErrcodeError{-1, "system error"} })
	case 5:
		f.server.set(func(s *memServer) { s.down = errors.New("away") })
	case 6:
		f.server.set(func(s *memServer) { s.readOnly = true })
	case 7:
		f.server.set(func(s *memServer) { s.paused = true })
	case 8:
		f.server.set(func(s *memServer) { s.stale = r.IntN(5) })
	case 9: // a reload, which closes the store
		store := f.server.client()
		next := g.Attach(Binding{Source: f.wechat, Store: store})
		next.Start()
		g.a.Detach()
		f.server.set(func(*memServer) { g.store.closed = errors.New("closed") })
		g.a, g.store = next, store
	case 10:
		f.server.set(func(s *memServer) { clear(s.values); clear(s.before); s.writes = nil })
	default:
		calm(f)
	}
}

func calm(f *testFleet) {
	f.wechat.set(func(w *wechat) { w.err, w.took = nil, 50*time.Millisecond })
	f.server.set(func(s *memServer) { s.down, s.readOnly, s.paused, s.stale = nil, false, false, 0 })
}
