// Command distance measures what callers wait for when WeChat is a round trip away.
// With -relay it is the distance, and otherwise the callers; run.sh has
// started the upstream and the contenders. It prints one line for each round of each
// row: round, variant, load, callers, contender, failed, and times in ms.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/bench/relay"
)

// The ports of the first variant of connections.
const (
	upstreamPort = 20441
	relayPort    = 20451
)

// variants of connections to WeChat, in the order of their ports.
var variants = []string{"TLS 1.3", "TLS 1.3, closed", "TLS 1.2", "TLS 1.2, closed"}

// load is one row of the table, for one variant.
type load struct {
	name    string
	upload  bool
	callers int
	lull    time.Duration // before each call; 0: one after the other
	set     int           // which processes of the contenders it goes to
}

// String is the load's name in the table.
func (l load) String() string {
	if l.lull == 0 {
		return l.name
	}
	return fmt.Sprintf("%s after %.0f s", l.name, l.lull.Seconds())
}

// lulls go to processes of their own, a set each, so that no other load wakes them up.
func loads() []load {
	all := []load{
		{"download", false, 1, 0, 0}, {"upload", true, 1, 0, 0},
		{"download", false, 32, 0, 0}, {"upload", true, 32, 0, 0},
	}
	for _, lull := range []time.Duration{25 * time.Second, 60 * time.Second} {
		all = append(all, load{"download", false, 1, lull, 1}, load{"upload", true, 1, lull, 2}, load{"download", false, 32, lull, 3})
	}
	return all
}

func main() {
	log.SetFlags(0)
	rtt := flag.Duration("rtt", 30*time.Millisecond, "the round trip to WeChat")
	relays := flag.Bool("relay", false, "be the relays, until killed")
	rounds := flag.Int("rounds", 5, "rounds of calls that follow upon each other")
	calls := flag.Int("calls", 20, "calls of each caller in such a round")
	lulls := flag.Int("lulls", 6, "rounds of calls after a lull")
	scale := flag.Float64("scale", 1, "of lulls, for a quick look")
	only := flag.String("only", "", "measure only rows whose variant, load and number of callers have this in them")
	ca := flag.String("ca", "cert.pem", "certificate of the upstream")
	flag.Parse()
	if *relays {
		r := &relay.Relay{RTT: *rtt}
		for i := range variants {
			if _, err := r.Listen(fmt.Sprintf("127.0.0.1:%d", relayPort+i), fmt.Sprintf("127.0.0.1:%d", upstreamPort+i)); err != nil {
				log.Fatal(err)
			}
		}
		select {}
	}
	if err := loadCA(*ca); err != nil {
		log.Fatal(err)
	}
	if err := prove(*rtt); err != nil {
		log.Fatalf("the distance is not what it should be: %v", err)
	}
	r := &rig{only: *only, contenders: append(flag.Args(), direct), groups: make(map[string]*group)}
	for round := 1; round <= *rounds; round++ {
		for _, l := range loads() {
			for v := range variants {
				for i := range r.contenders {
					if l.lull == 0 && r.chosen(l, v) {
						r.measure(round, l, v, (i+round)%len(r.contenders), *calls)
					}
				}
			}
		}
	}
	r.warm()
	for round := 1; round <= *lulls; round++ {
		for _, lull := range []time.Duration{25 * time.Second, 60 * time.Second} {
			r.after(round, lull, time.Duration(float64(lull)**scale))
		}
	}
}

// rig holds what callers keep between rounds.
type rig struct {
	only       string
	contenders []string // in the order of their ports; direct comes last
	groups     map[string]*group
}

// group is the callers of one contender, one variant and one set.
func (r *rig) group(l load, variant, contender int) *group {
	key := fmt.Sprint(l.set, l.callers, variant, contender)
	if r.groups[key] == nil {
		url := fmt.Sprintf("http://127.0.0.1:20%d%d%d/media", l.set+5, contender, variant+1)
		if r.contenders[contender] == direct {
			url = fmt.Sprintf("https://127.0.0.1:%d", relayPort+variant)
		}
		r.groups[key] = newGroup(url, l.callers)
	}
	return r.groups[key]
}

func (r *rig) chosen(l load, variant int) bool {
	return strings.Contains(fmt.Sprintf("%s, %s, %d", variants[variant], l, l.callers), r.only)
}

// measure has the callers of a group call and prints their times.
func (r *rig) measure(round int, l load, variant, contender, calls int) {
	took, failed := r.group(l, variant, contender).call(l.upload, calls)
	values := make([]string, 0, kept)
	for _, t := range thin(took) {
		values = append(values, fmt.Sprintf("%.1f", float64(t.Microseconds())/1000))
	}
	fmt.Printf("%d\t%s\t%s\t%d\t%s\t%d\t%s\n", round, variants[variant], l, l.callers, r.contenders[contender], failed,
		strings.Join(values, ","))
}

// warm has everybody call who will be measured after a lull.
func (r *rig) warm() {
	r.each(loads()[4:7], func(l load, v, c int) { r.group(l, v, c).call(l.upload, 3) })
}

// after waits for a lull and has everybody call, one group after the other.
func (r *rig) after(round int, lull, wait time.Duration) {
	var chosen []load
	for _, l := range loads() {
		if l.lull == lull {
			chosen = append(chosen, l)
		}
	}
	time.Sleep(wait)
	r.each(chosen, func(l load, v, c int) { r.measure(round, l, v, c, 1) })
}

func (r *rig) each(chosen []load, f func(l load, variant, contender int)) {
	for _, l := range chosen {
		for v := range variants {
			for c := range r.contenders {
				if r.chosen(l, v) {
					f(l, v, c)
				}
			}
		}
	}
}

// kept is how many values of a round are printed, at the most: a sample of even steps.
const kept = 40

func thin(took []time.Duration) []time.Duration {
	slices.Sort(took)
	if len(took) <= kept {
		return took
	}
	out := make([]time.Duration, kept)
	for i := range out {
		out[i] = took[(2*i+1)*len(took)/(2*kept)]
	}
	return out
}

// maxPause is how long one of several callers thinks before a call, at the most: without
// a pause it would be two cores that are measured, and not the distance.
const maxPause = 200 * time.Millisecond

// call has every caller make so many calls.
func (g *group) call(upload bool, calls int) (took []time.Duration, failed int) {
	var running sync.WaitGroup
	var mu sync.Mutex
	for _, c := range g.callers {
		running.Go(func() {
			for range calls {
				if len(g.callers) > 1 {
					time.Sleep(rand.N(maxPause))
				}
				begin := time.Now()
				err := c.call(upload)
				mu.Lock()
				if took = append(took, time.Since(begin)); err != nil {
					failed++
					fmt.Fprintf(os.Stderr, "%s: %v\n", g.url, err)
				}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	return took, failed
}
