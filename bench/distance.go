package main

// What callers wait for when WeChat is a round trip away.

import (
	"fmt"
	"log"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	direct       = "direct" // the contender that is none: callers who talk to WeChat themselves
	upstreamPort = 20441    // of the first variant of connections
	relayPort    = 20451    // the same
	picture      = 32 << 10
	kept         = 40 // times of a round that are printed, at the most
)

// maxPause is how long one of several callers thinks before a call, at the most: without
// a pause it would be two cores that are measured, and not the distance.
const maxPause = 200 * time.Millisecond

// variants of connections to WeChat, in the order of their ports.
var variants = []string{"TLS 1.3", "TLS 1.3, closed", "TLS 1.2", "TLS 1.2, closed"}

// distant are the loads at a distance; after a lull, all but the last.
var distant = []load{
	{name: "download", callers: 1, call: (*caller).getPicture},
	{name: "upload", callers: 1, call: (*caller).postPicture},
	{name: "download", callers: 32, call: (*caller).getPicture},
	{name: "upload", callers: 32, call: (*caller).postPicture},
}

// group is the callers of one contender in one row of the table.
type group struct {
	row, contender string
	callers        []*caller
	call           func(*caller) string
}

// distance prints one line for each round, row and contender: round, variant, load,
// callers, contender, how many calls failed, and times in ms.
func distance(contenders []string) {
	prove()
	for _, lull := range []time.Duration{0, 25 * time.Second, 60 * time.Second} {
		rounds, calls, rows := *rounds, *calls, newRows(lull, append(contenders, direct))
		if lull > 0 {
			rounds, calls = *lulls, 1
			for _, g := range slices.Concat(rows...) {
				g.run(3) // to warm up
			}
		}
		for round := 1; round <= rounds && len(rows) > 0; round++ {
			time.Sleep(time.Duration(float64(lull) * *scale))
			for _, groups := range rows {
				for i := range groups {
					g := groups[(i+round)%len(groups)]
					failed, times := g.run(calls)
					fmt.Printf("%d\t%s\t%s\t%d\t%s\n", round, g.row, g.contender, failed, strings.Join(times, ","))
				}
			}
		}
	}
}

// prove ends the run unless a first request costs three round trips, one for TCP, one for TLS
// and one for itself, and a second one costs one.
func prove() {
	c := newDirectCaller(relayPort)
	for i, trips := range []float64{3, 1, 1} {
		begin := time.Now()
		answer := c.getPicture()
		took := float64(time.Since(begin)) / float64(rtt)
		if answer != good || took < trips || took > trips+0.5 {
			log.Fatalf("the distance is not what it should be: request %d took %.2f round trips and not %v, and was answered %s", i+1, took, trips, answer)
		}
	}
}

// newRows are those chosen, each with a group of every contender. After a lull each goes to
// processes of its own, the contenders' sets 6 to 8, so that no other load wakes them up.
func newRows(lull time.Duration, contenders []string) (rows [][]*group) {
	for i, l := range distant {
		name, set := l.name, 5
		if lull > 0 {
			name, set = fmt.Sprintf("%s after %.0f s", l.name, lull.Seconds()), 6+i
		}
		for v, variant := range variants {
			row := fmt.Sprintf("%s\t%s\t%d", variant, name, l.callers)
			if set > 8 || !strings.Contains(strings.ReplaceAll(row, "\t", ", "), *only) {
				continue
			}
			groups := make([]*group, len(contenders))
			for place, contender := range contenders {
				groups[place] = &group{row, contender, nil, l.call}
				for range l.callers {
					c := newDirectCaller(relayPort + v)
					if contender != direct {
						c = newCaller(fmt.Sprintf("http://127.0.0.1:20%d%d%d", set, place, v+1), false)
					}
					groups[place].callers = append(groups[place].callers, c)
				}
			}
			rows = append(rows, groups)
		}
	}
	return rows
}

// run has every caller make so many calls. Of the times, in ms, it keeps a sample of even steps.
func (g *group) run(calls int) (failed int, times []string) {
	var took []time.Duration
	var mu sync.Mutex
	each(g.callers, func(c *caller) {
		for range calls {
			if len(g.callers) > 1 {
				time.Sleep(rand.N(maxPause))
			}
			begin := time.Now()
			answer := g.call(c)
			mu.Lock()
			if took = append(took, time.Since(begin)); answer != good {
				failed++
				log.Printf("%s, %s: %s", g.row, g.contender, answer)
			}
			mu.Unlock()
		}
	})
	slices.Sort(took)
	n := min(kept, len(took))
	for i := range n {
		times = append(times, fmt.Sprintf("%.1f", float64(took[(2*i+1)*len(took)/(2*n)].Microseconds())/1000))
	}
	return failed, times
}
