package token

// A simulation of fleets, of which bench/tokens/README.md has the results. It
// runs the real token managers and the real sharing in virtual time; only WeChat
// and the storage are stand-ins.

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// simulatedWechat is both token endpoints of WeChat, with their quotas.
type simulatedWechat struct {
	mu              sync.Mutex
	classic         bool
	perMinute, most int // quotas; 0: none
	serial          int
	ends            map[int]time.Time // of each token
	calls, refused  int
	minute          int64
	inMinute, peak  int
}

func (w *simulatedWechat) Fetch(context.Context, Request) (Reply, error) {
	time.Sleep(100 * time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if minute := now.Unix() / 60; minute != w.minute {
		w.minute, w.inMinute = minute, 0
	}
	w.calls++
	w.inMinute++
	w.peak = max(w.peak, w.inMinute)
	switch {
	case w.calls > w.most:
		w.refused++
		return Reply{}, &ErrcodeError{45009, "reach max api daily quota limit"}
	case w.perMinute > 0 && w.inMinute > w.perMinute:
		w.refused++
		return Reply{}, &ErrcodeError{45011, "api minute-quota reach limit"}
	}
	left := w.ends[w.serial].Sub(now)
	if w.classic || left <= 5*time.Minute {
		if w.classic && left > 5*time.Minute {
			w.ends[w.serial] = now.Add(5 * time.Minute)
		}
		w.serial++
		w.ends[w.serial] = now.Add(2 * time.Hour)
		left = 2 * time.Hour
	}
	return Reply{AccessToken: fmt.Sprint("token-", w.serial), ExpiresIn: left}, nil
}

func (w *simulatedWechat) Traits() Traits { return Traits{} }

func (w *simulatedWechat) accepts(t *Token) bool {
	var serial int
	_, _ = fmt.Sscanf(t.Secret(), "token-%d", &serial)
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Before(w.ends[serial])
}

// simulation is what became of a fleet in a day.
type simulation struct {
	calls, peak, refused                 int
	requests, failed, rejected, bothered int64 // bothered: waited, other than for a first token
}

// simulate runs a fleet for a day. All gateways start at once, and are restarted,
// all at once again, after 6, 12 and 18 hours. Each has a request at its start and
// every five minutes.
func simulate(t *testing.T, gateways int, classic, shared bool) (out simulation) {
	inBubble(t, func(t *testing.T) {
		w := &simulatedWechat{classic: classic, perMinute: 10_000, most: 500_000, ends: map[int]time.Time{}}
		if classic {
			w.perMinute, w.most = 0, 2_000
		}
		server := newMemServer(habit{})
		for range 4 {
			var wg sync.WaitGroup
			for range gateways {
				wg.Go(func() { simulateGateway(t, w, server, shared, &out) })
			}
			wg.Wait()
		}
		out.calls, out.peak, out.refused = w.calls, w.peak, w.refused
	})
	return out
}

// simulateGateway is the life of a process.
func simulateGateway(t *testing.T, w *simulatedWechat, server *memServer, shared bool, out *simulation) {
	binding := Binding{Source: w}
	if shared {
		binding.Store = server.client()
	}
	m := NewManager(testIdentity, Traits{})
	defer m.Close()
	a := m.Attach(binding)
	defer a.Detach()
	a.Start()
	for i := range 72 {
		begin := time.Now()
		tok, err := m.Token(t.Context())
		if err == nil && !w.accepts(tok) {
			atomic.AddInt64(&out.rejected, 1)
			tok, err = m.Reject(t.Context(), tok, 40001)
		}
		if atomic.AddInt64(&out.requests, 1); err != nil || !w.accepts(tok) {
			atomic.AddInt64(&out.failed, 1)
		}
		if i > 0 && !time.Now().Equal(begin) {
			atomic.AddInt64(&out.bothered, 1)
		}
		time.Sleep(time.Until(begin.Add(5 * time.Minute)))
	}
}

var simulatedFleets = []struct {
	name            string
	classic, shared bool
	perMinute, most int
}{
	{"`stable`", false, false, 10_000, 500_000},
	{"`stable` shared", false, true, 10_000, 500_000},
	{"`classic` shared", true, true, 0, 2_000},
}

// Small fleets are far from every quota, and none of their requests fails.
func TestSimulation(t *testing.T) {
	for _, fleet := range simulatedFleets {
		for _, gateways := range []int{1, 10} {
			got := simulate(t, gateways, fleet.classic, fleet.shared)
			most := 20
			if !fleet.shared {
				most *= gateways
			}
			if got.calls > most || got.failed+got.rejected+got.bothered != 0 {
				t.Errorf("%d gateways, %s: %+v", gateways, fleet.name, got)
			}
		}
	}
	if path := os.Getenv("WECHAT_SIMULATION"); path != "" {
		tabulateLargeFleets(t, path)
	}
}

// tabulateLargeFleets is what bench/tokens/run.sh is for; it takes 12 minutes. It
// writes a table to path.
func tabulateLargeFleets(t *testing.T, path string) {
	var table strings.Builder
	fmt.Fprintln(&table, "| gateways | source | calls a day | of the quota | most in a minute | of the quota | refused calls | requests | failed | saw a rejected token | waited, but for a first token |")
	fmt.Fprintln(&table, "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	for _, gateways := range []int{1, 10, 100, 1_000, 10_000} {
		for _, fleet := range simulatedFleets {
			begin := time.Now()
			got := simulate(t, gateways, fleet.classic, fleet.shared)
			minute := "no such quota"
			if fleet.perMinute > 0 {
				minute = percent(got.peak, fleet.perMinute)
			}
			fmt.Fprintf(&table, "| %d | %s | %d | %s | %d | %s | %d | %d | %d | %d | %d |\n", gateways, fleet.name,
				got.calls, percent(got.calls, fleet.most), got.peak, minute, got.refused, got.requests, got.failed, got.rejected, got.bothered)
			t.Logf("%d gateways, %s: %+v, in %v", gateways, fleet.name, got, time.Since(begin).Round(time.Second))
		}
	}
	if err := os.WriteFile(path, []byte(table.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func percent(n, of int) string { return fmt.Sprintf("%.3g %%", 100*float64(n)/float64(of)) }
