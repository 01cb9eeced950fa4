//go:build linux

package fleet

// A fleet, what a scenario does to it, and what is counted meanwhile.

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// grace is how long after something has happened to the store or to the tokens a
// request may fail.
const grace = time.Second

// fleet is some gateways on one store.
type fleet struct {
	t        *testing.T
	redis    *redisServer
	wechat   *wechat
	gateways []*gateway

	load    *load
	events  []time.Time
	settled time.Duration // from the last event until all worked with one token
}

// newFleet has everything but the gateways running. Tokens live for life, and callers
// wait no longer than patience.
func newFleet(t *testing.T, gateways int, life, patience time.Duration) *fleet {
	f := &fleet{t: t, redis: startRedis(t), wechat: startWeChat(t, life)}
	for i := range gateways {
		f.gateways = append(f.gateways, newGateway(t, i, f.redis, f.wechat.url, patience))
	}
	return f
}

// start starts all gateways at once.
func (f *fleet) start() {
	for _, g := range f.gateways {
		g.start()
	}
	for _, g := range f.gateways {
		g.await()
	}
	f.load = startLoad(f.gateways, f.wechat.media)
}

// warm starts the gateways, and forgets what that has cost.
func (f *fleet) warm() {
	f.t.Helper()
	f.start()
	f.settle(30 * time.Second)
	f.load.stop()
	f.wechat.forget()
	f.settled = 0
	f.load = startLoad(f.gateways, f.wechat.media)
	f.wait(time.Second)
}

// wait lets time pass, for processes that go by no clock of the test's.
func (f *fleet) wait(d time.Duration) { time.Sleep(d) }

// event notes that something is about to happen that excuses failures for a second.
func (f *fleet) event() { f.events = append(f.events, time.Now()) }

// revoke ends the tokens of the sources.
func (f *fleet) revoke(of ...*source) {
	f.event()
	f.wechat.revoke(of...)
}

// settle waits until all gateways work with one token, source by source.
func (f *fleet) settle(within time.Duration) {
	f.t.Helper()
	begin := time.Now()
	eventually(f.t, within, "all to work with one token", func() bool {
		since := time.Now().Add(-time.Second)
		return since.After(begin) && !slices.ContainsFunc(sources, func(src *source) bool {
			return !f.wechat.agree(src, since, f.present())
		})
	})
	f.settled = time.Since(begin) - time.Second
}

// present is how many gateways get requests.
func (f *fleet) present() (n int) {
	for _, g := range f.gateways {
		if !g.away.Load() {
			n++
		}
	}
	return n
}

// bound is how many calls of a token endpoint are right.
type bound struct{ least, most int }

func (b bound) String() string {
	if b.least == b.most {
		return fmt.Sprint(b.most)
	}
	return fmt.Sprintf("%d to %d", b.least, b.most)
}

// tally is what became of the requests for one source.
type tally struct {
	made, failed, wrongly int
	slowest               time.Duration
}

// count adds up requests. One fails wrongly unless it began in the second after an
// event.
func (f *fleet) count(src *source, requests []request) (n tally) {
	for _, r := range requests {
		if r.source != src {
			continue
		}
		n.made++
		n.slowest = max(n.slowest, r.took)
		if r.err == nil {
			continue
		}
		n.failed++
		excused := func(at time.Time) bool { return r.begin.After(at) && r.begin.Before(at.Add(grace)) }
		if slices.ContainsFunc(f.events, excused) {
			continue
		}
		if n.wrongly++; n.wrongly <= 3 {
			f.t.Errorf("%s: a request failed after %v: %v", src.name, r.took, r.err)
		}
	}
	return n
}

// finish ends the load, and holds what was counted against what is right.
func (f *fleet) finish(name string, right map[*source]bound) {
	f.t.Helper()
	requests := f.load.stop()
	for _, src := range sources {
		n, callers := f.count(src, requests), f.callers(src)
		if calls := len(callers); calls < right[src].least || calls > right[src].most {
			f.t.Errorf("%s: %d calls of the token endpoint, by %v, want %v", src.name, calls, callers, right[src])
		}
		if n.made == 0 || n.wrongly > 0 {
			f.t.Errorf("%s: of %d requests %d failed, %d of them wrongly", src.name, n.made, n.failed, n.wrongly)
		}
		report(fmt.Sprintf("| %s | %s | %d | %v | %d | %d | %d | %v | %v |", name, src.name, len(callers), right[src],
			n.made, n.failed, n.wrongly, n.slowest.Round(10*time.Millisecond), f.settled.Round(100*time.Millisecond)))
	}
	f.quiet()
}

// callers returns who called for tokens of the source, in order.
func (f *fleet) callers(src *source) (from []string) {
	for _, c := range f.wechat.callsFor(src) {
		from = append(from, c.gateway)
	}
	return from
}

// quiet stops the gateways, and looks for secrets in what they have said. FLEET_LOGS is
// a folder to keep that in.
func (f *fleet) quiet() {
	f.t.Helper()
	secrets := append(f.wechat.IssuedTokens(), appSecret, redisPassword)
	for _, g := range f.gateways {
		g.stop()
		log := g.log.String()
		if !strings.Contains(log, "handled request") {
			f.t.Errorf("gateway %s has logged no request", g.from)
		}
		for _, secret := range secrets {
			if at := strings.Index(log, secret); at >= 0 {
				f.t.Errorf("a secret is in the log of gateway %s: …%s", g.from, log[max(0, at-200):at])
			}
		}
		if dir := os.Getenv("FLEET_LOGS"); dir != "" {
			name := strings.ReplaceAll(f.t.Name()+"-"+g.from, "/", "_")
			_ = os.WriteFile(dir+"/"+name+".log", []byte(log), 0o600)
		}
	}
}

// report adds a line to the table, if one is wanted.
func report(line string) {
	path := os.Getenv("FLEET_TABLE")
	if path == "" {
		return
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(file, line)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		panic(err)
	}
}
