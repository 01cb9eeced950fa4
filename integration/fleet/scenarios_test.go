//go:build linux

package fleet

// The scenarios. Each has a fleet of its own, with both sources at work, under load.

import (
	"cmp"
	"os"
	"testing"
	"time"
)

// The defaults of a scenario.
const (
	weChatLife = 2 * time.Hour
	patience   = 10 * time.Second
	longer     = 15 * time.Second // where a token takes 8 s, or two calls one after the other
)

// scenario is something that happens to a fleet.
type scenario struct {
	name     string
	gateways int           // default: 3
	life     time.Duration // of a token; default: WeChat's
	patience time.Duration // of callers; default: 10 s
	cold     bool          // the fleet has not been started
	long     bool          // for a full run only
	run      func(f *fleet)

	stable, classic bound // the calls of the token endpoints
}

var (
	none = bound{0, 0}
	once = bound{1, 1}

	// Without the store each gateway asks for itself, and when it is back one of them
	// asks for all; a second one may have been on its way.
	apart = bound{1, 5}
)

var scenarios = []scenario{
	{name: "cold start", cold: true, stable: once, classic: once, run: func(f *fleet) {
		f.start()
		f.wait(3 * time.Second)
		f.settle(20 * time.Second)
	}},
	{name: "revocation", stable: once, classic: once, run: func(f *fleet) {
		f.wechat.revoke(sources...)
		f.wait(3 * time.Second)
		f.settle(20 * time.Second)
	}},
	{name: "five revocations", long: true, stable: bound{5, 5}, classic: bound{5, 5}, run: func(f *fleet) {
		for range 5 {
			f.wechat.revoke(sources...)
			f.wait(3 * time.Second)
			f.settle(20 * time.Second)
		}
	}},
	// tokens of 40 s are replaced 20 to 28 s after they were issued
	{name: "rotation", life: 40 * time.Second, long: true, stable: bound{2, 4}, classic: bound{2, 4}, run: rotation},
	{name: "token endpoint of 8 s, a revocation, a lone gateway", gateways: 1, patience: longer, long: true, stable: once, classic: once, run: slow},
	{name: "token endpoint of 8 s, a revocation", patience: longer, stable: bound{1, 2}, classic: bound{1, 2}, run: slow},
	{name: "kill -9 in mid-fetch, stable", patience: longer, long: true, stable: bound{2, 3}, classic: none, run: func(f *fleet) { f.killInMidFetch(stable) }},
	{name: "kill -9 in mid-fetch, classic", patience: longer, stable: none, classic: bound{2, 3}, run: func(f *fleet) { f.killInMidFetch(classic) }},
	{name: "Redis stopped, a revocation", stable: apart, classic: apart, run: func(f *fleet) {
		f.without((*redisServer).stop, (*redisServer).start, 15*time.Second)
	}},
	{name: "Redis paused, a revocation", long: true, stable: apart, classic: apart, run: func(f *fleet) {
		f.without((*redisServer).pause, (*redisServer).resume, 20*time.Second)
	}},
	{name: "Redis paused, a token endpoint of 8 s, a revocation", patience: longer, long: true, stable: apart, classic: apart, run: func(f *fleet) {
		f.wechat.delay(8 * time.Second)
		f.without((*redisServer).pause, (*redisServer).resume, 15*time.Second)
		f.wechat.delay(usualDelay)
	}},
	{name: "Redis takes no writes in time, a revocation", long: true, stable: apart, classic: apart, run: func(f *fleet) {
		f.without((*redisServer).pauseWrites, (*redisServer).resumeWrites, 20*time.Second)
	}},
	{name: "Redis read-only, a revocation", long: true, stable: apart, classic: apart, run: func(f *fleet) {
		f.without((*redisServer).detach, (*redisServer).promote, 20*time.Second)
	}},
	{name: "Redis with another password, a revocation", long: true, stable: apart, classic: apart, run: func(f *fleet) {
		f.without(func(r *redisServer) { r.setPassword("another") }, func(r *redisServer) { r.setPassword(redisPassword) }, 20*time.Second)
	}},
	{name: "Redis flushed, a revocation", stable: once, classic: once, run: func(f *fleet) {
		f.redis.flush()
		f.wechat.revoke(sources...)
		f.wait(3 * time.Second)
		f.settle(20 * time.Second)
	}},
	// of tokens that live for 200 s it looks every 20 s whether they are still stored
	{name: "Redis flushed, then a gateway started anew", life: 200 * time.Second, long: true, stable: none, classic: none, run: func(f *fleet) {
		f.redis.flush()
		eventually(f.t, time.Minute, "the tokens to be stored again", func() bool { return f.redis.stored() == len(sources) })
		f.gateways[0].stop()
		f.gateways[0].start()
		f.gateways[0].await()
		f.settle(20 * time.Second)
	}},
	{name: "Redis stopped, a gateway reloaded, a revocation, a reload", stable: apart, classic: apart, run: func(f *fleet) {
		f.reloadWithout((*redisServer).stop, (*redisServer).start)
	}},
	{name: "Redis paused, a gateway reloaded, a revocation, a reload", long: true, stable: apart, classic: apart, run: func(f *fleet) {
		f.reloadWithout((*redisServer).pause, (*redisServer).resume)
	}},
	// tokens of 80 s are replaced 40 to 56 s after they were issued
	{name: "Redis stopped for longer than a token lives, a revocation", life: 80 * time.Second, long: true,
		stable: bound{2, 12}, classic: bound{2, 12}, run: func(f *fleet) {
			f.without((*redisServer).stop, (*redisServer).start, 90*time.Second)
		}},
	// each gets a classic token for itself, and so ends those of the others 5 minutes later
	{name: "Redis stopped for ten minutes, a revocation in it", long: true, stable: apart, classic: bound{1, 8}, run: func(f *fleet) {
		f.event()
		f.redis.stop()
		f.wait(3 * time.Minute)
		f.revoke(sources...)
		f.wait(7 * time.Minute)
		f.redis.start()
		f.settle(100 * time.Second)
	}},
}

// rotation is the time of some tokens, each of which costs one call: there are none
// sooner after one another than a token is replaced.
func rotation(f *fleet) {
	f.wait(80 * time.Second)
	f.settle(20 * time.Second)
	for _, src := range sources {
		calls := f.wechat.callsFor(src)
		for i := 1; i < len(calls); i++ {
			if gap := calls[i].at.Sub(calls[i-1].at); gap < 19*time.Second {
				f.t.Errorf("%s: two calls within %v, by %s and %s", src.name, gap, calls[i-1].gateway, calls[i].gateway)
			}
		}
	}
}

// slow is a revocation while tokens take their time.
func slow(f *fleet) {
	f.wechat.delay(8 * time.Second)
	f.wechat.revoke(sources...)
	f.wait(12 * time.Second)
	f.wechat.delay(usualDelay)
	f.settle(20 * time.Second)
}

// without takes the store away for a while, with a revocation in it.
func (f *fleet) without(fail, mend func(*redisServer), away time.Duration) {
	f.event()
	fail(f.redis)
	f.wait(3 * time.Second)
	f.revoke(sources...)
	f.wait(away)
	mend(f.redis)
	f.settle(100 * time.Second)
}

// reloadWithout is without, and a gateway gets a new config before and after.
func (f *fleet) reloadWithout(fail, mend func(*redisServer)) {
	f.event()
	fail(f.redis)
	f.wait(2 * time.Second)
	f.gateways[0].reload()
	f.wait(2 * time.Second)
	f.revoke(sources...)
	f.wait(5 * time.Second)
	f.gateways[0].reload()
	f.wait(5 * time.Second)
	mend(f.redis)
	f.settle(100 * time.Second)
}

// killInMidFetch kills the gateway that fetches, with the lock in its hands, and starts
// it again.
func (f *fleet) killInMidFetch(src *source) {
	f.wechat.delay(4 * time.Second)
	f.wechat.revoke(src)
	eventually(f.t, 10*time.Second, "a call for a token", func() bool { return len(f.callers(src)) > 0 })
	victim := f.gateway(f.callers(src)[0])
	victim.kill()
	f.wait(9 * time.Second)
	f.wechat.delay(usualDelay)
	f.settle(20 * time.Second)
	victim.start()
	victim.await()
	f.wait(2 * time.Second)
	f.settle(20 * time.Second)
}

func (f *fleet) gateway(from string) *gateway {
	for _, g := range f.gateways {
		if g.from == from {
			return g
		}
	}
	f.t.Fatalf("no gateway calls from %s", from)
	return nil
}

// With FULL set all scenarios are run, and otherwise those that are soon over.
func TestFleet(t *testing.T) {
	for _, s := range scenarios {
		if s.long && os.Getenv("FULL") == "" {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			f := newFleet(t, cmp.Or(s.gateways, 3), cmp.Or(s.life, weChatLife), cmp.Or(s.patience, patience))
			if !s.cold {
				f.warm()
			}
			s.run(f)
			f.finish(s.name, map[*source]bound{stable: s.stable, classic: s.classic})
		})
	}
}
