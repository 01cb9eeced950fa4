package token

// Gateways for tests of fleets, and what becomes of their requests.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gateway is one of a fleet.
type gateway struct {
	*Manager
	a      *Attachment
	wechat *wechat
	store  *memStore

	mu       sync.Mutex
	failed   []time.Time // requests
	served   int
	rejected int
	waited   time.Duration // the longest
}

func newGateway(w *wechat, store *memStore) *gateway {
	g := &gateway{Manager: NewManager(testIdentity, w.Traits()), wechat: w, store: store}
	g.a = g.Attach(Binding{Source: w, Store: store})
	return g
}

func startGateway(w *wechat, store *memStore) *gateway {
	g := newGateway(w, store)
	g.a.Start()
	return g
}

// stop ends a gateway in order.
func (g *gateway) stop() {
	g.a.Detach()
	g.Close()
}

// kill ends it in the middle of whatever it does.
func (g *gateway) kill() {
	g.store.set(func(*memServer) { g.store.dead = true })
	g.stop()
}

// request is one caller's: its token may be rejected once.
func (g *gateway) request(ctx context.Context) error {
	begin := time.Now()
	rejections, err := 0, error(nil)
	tok, err := g.Token(ctx)
	if err == nil && !g.wechat.accepts(tok) {
		rejections++
		var again *Token
		if again, err = g.Reject(ctx, tok, 40001); err == nil && (again == tok || !g.wechat.accepts(again)) {
			err = errors.New("rejected twice")
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rejected += rejections
	g.waited = max(g.waited, time.Since(begin))
	if g.served++; err != nil {
		g.failed = append(g.failed, begin)
	}
	return err
}

// fleetOf starts gateways that have requests all the time.
type testFleet struct {
	gateways []*gateway
	wechat   *wechat
	server   *memServer
	stop     context.CancelFunc
	pace     atomic.Int64 // between two requests to a gateway
	callers  sync.WaitGroup
}

func startFleet(t *testing.T, n int, w *wechat, s *memServer) *testFleet {
	ctx, cancel := context.WithCancel(t.Context())
	f := &testFleet{wechat: w, server: s, stop: cancel}
	f.pace.Store(int64(100 * time.Millisecond))
	for range n {
		g := startGateway(w, s.client())
		f.gateways = append(f.gateways, g)
		f.callers.Go(func() {
			for ctx.Err() == nil {
				if g.ctx.Err() != nil {
					return
				}
				_ = g.request(ctx)
				time.Sleep(time.Duration(f.pace.Load()))
			}
		})
	}
	return f
}

func (f *testFleet) end() {
	f.stop()
	f.callers.Wait()
	for _, g := range f.gateways {
		g.stop()
	}
	f.server.set(func(s *memServer) { s.hang, s.paused = false, false })
}

// clear forgets what became of requests so far.
func (f *testFleet) clear() {
	for _, g := range f.gateways {
		g.mu.Lock()
		g.failed, g.served, g.rejected, g.waited = nil, 0, 0, 0
		g.mu.Unlock()
	}
}

// failedSince counts the requests that failed and began after a time.
func (f *testFleet) failedSince(at time.Time) (n int) {
	for _, g := range f.gateways {
		g.mu.Lock()
		for _, begin := range g.failed {
			if !begin.Before(at) {
				n++
			}
		}
		g.mu.Unlock()
	}
	return n
}

func (f *testFleet) waited() (longest time.Duration) {
	for _, g := range f.gateways {
		g.mu.Lock()
		longest = max(longest, g.waited)
		g.mu.Unlock()
	}
	return longest
}

// agree makes sure that within two minutes all gateways have the token that WeChat
// issued last, and that it is in the store.
func (f *testFleet) agree(t *testing.T) {
	t.Helper()
	why := f.disagree()
	for start := time.Now(); why != "" && time.Since(start) < 2*time.Minute; why = f.disagree() {
		pass(time.Second)
	}
	if why != "" {
		t.Error(why)
	}
	f.server.set(func(s *memServer) {
		for i, r := range s.writes {
			if i > 0 && r.Serial < s.writes[i-1].Serial {
				t.Errorf("an older serial was written over a newer one")
			}
		}
	})
}

func (f *testFleet) disagree() string {
	want := f.wechat.latest()
	for i, g := range f.gateways {
		if tok := g.current.Load(); g.ctx.Err() == nil && (tok == nil || tok.secret != want) {
			return fmt.Sprintf("gateway %d has not the token that was issued last", i)
		}
	}
	if r := f.server.token(); r == nil || r.Token != want {
		return "the token that was issued last is not in the store"
	}
	return ""
}
