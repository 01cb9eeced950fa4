// Command memory measures how much a gateway's process grows while many callers are busy
// with it at once. It prints one line for each load: load, protocol, callers, bound, idle
// and growth in each round, growth when the load goes on (all in MiB, a bound of 0 is none),
// the most connections to WeChat, answers. It fails if a bound does not hold.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"
)

const (
	mib          = 1 << 20
	replayBuffer = 64        // MiB, the gateway's default
	headroom     = 64        // MiB, for everything else
	pace         = 2_000_000 // bytes a second, of who is slow
)

// What is measured, and how long those hold out who are waited for.
var (
	size = flag.Int64("size", 10*mib, "of media, in bytes")
	hold = flag.Duration("hold", 10*time.Second, "how long callers drip, or do not read")
)

// load is what all callers of a row do.
type load struct {
	name         string
	callers      int
	bound        [3]int // MiB, for each protocol
	slowUpstream bool
	call         func(c *client) string // says how it went
}

var protocols = []string{"HTTP/1.1", "HTTP/1.1 with TLS", "HTTP/2 with TLS"}

// A caller over HTTP/2 may have up to 1 MiB in the window of Go's server, over which the
// gateway has no say: for whole transfers that is measured and has no bound.
var loads = []load{
	{"uploads to a slow upstream", 64, [3]int{replayBuffer + headroom, replayBuffer + headroom, 0}, true, (*client).upload},
	{"uploads of unknown length to a slow upstream", 64, [3]int{replayBuffer + headroom, replayBuffer + headroom, 0}, true, (*client).uploadChunked},
	{"downloads to slow callers", 256, [3]int{headroom, headroom, 0}, false, (*client).downloadSlowly},
	{"downloads from a slow upstream", 256, [3]int{headroom, headroom, 0}, true, (*client).download},
	{"uploads that drip from their first byte on", 1000, [3]int{headroom, 2 * headroom, 2 * headroom}, false, (*client).drip},
	{"uploads that drip after 128 KiB", 1000, [3]int{replayBuffer + 2*headroom, replayBuffer + 3*headroom, replayBuffer + 3*headroom}, false, (*client).dripLate},
	{"callers who do not read", 256, [3]int{headroom, headroom, 2 * headroom}, false, (*client).hang},
	{"callers with a window of 0, on 2 connections", 256, [3]int{0, 0, headroom}, false, (*client).hangWindow},
	{"uploads that are refused and sent all the same", 256, [3]int{headroom, headroom, 2 * headroom}, false, (*client).refused},
}

func main() {
	log.SetFlags(0)
	binary := flag.String("caddy", "", "the gateway's binary")
	rounds := flag.Int("rounds", 3, "how often each load is measured, each time in a new process")
	inARow := flag.Int("in-a-row", 3, "how often the last process gets the load, without a rest")
	only := flag.String("only", "", "measure only loads whose name and protocol have this in them")
	profile := flag.String("profile", "", "directory for heap profiles, taken in the middle of a load")
	flag.Parse()

	exceeded := false
	for p, protocol := range protocols {
		for _, l := range loads {
			if name := l.name + ", " + protocol; !strings.Contains(name, *only) || l.connections(p) == 0 {
				continue
			}
			m, err := measureAll(*binary, l, p, *rounds, *inARow, *profile)
			if err != nil {
				log.Fatalf("%s over %s: %v", l.name, protocol, err)
			}
			fmt.Printf("%s\t%s\t%d\t%d\t%s\t%s\t%d\t%d\t%s\n", l.name, protocol, l.callers, l.bound[p],
				list(m.idle), list(m.growth), m.inARow, m.connections, m.answers)
			for _, growth := range m.growth {
				exceeded = exceeded || l.bound[p] > 0 && growth > l.bound[p]
			}
		}
	}
	if exceeded {
		log.Fatal("the gateway takes more memory than it may")
	}
}

// connections is how many a load makes over a protocol: one for each caller, but for
// windows of 0, which are HTTP/2's, and hang on two connections.
func (l load) connections(protocol int) int {
	if !strings.Contains(l.name, "on 2 connections") {
		return l.callers
	}
	if protocol == 2 {
		return 2
	}
	return 0
}

// measurement is what a load cost, in MiB.
type measurement struct {
	idle, growth []int
	inARow       int
	connections  int64
	answers      string
}

func measureAll(binary string, l load, protocol, rounds, inARow int, profile string) (m measurement, err error) {
	for round := range rounds {
		times := 1
		if round == rounds-1 {
			times = inARow
		}
		if err := m.measure(binary, l, protocol, times, profile); err != nil {
			return m, err
		}
		log.Printf("%d %s over %s: %v MiB idle, grown by %v MiB, after %d in a row by %d MiB, %d connections, %s",
			l.callers, l.name, protocols[protocol], m.idle, m.growth, times, m.inARow, m.connections, m.answers)
	}
	return m, nil
}

// measure puts a load on a new process of the gateway, some times in a row.
func (m *measurement) measure(binary string, l load, protocol, times int, profile string) (err error) {
	up := startUpstream(l.slowUpstream)
	defer up.Close()
	g, err := startGateway(binary, up.Server, protocol)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	for range 16 {
		if answer := newClient(g, protocol).small(); answer != "200" {
			return fmt.Errorf("warming up: %s", answer)
		}
	}
	idle, err := g.memory("VmRSS")
	if err != nil {
		return err
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", g.cmd.Process.Pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("starting a new high-water mark: %w", err)
	}
	if profile != "" {
		go g.profile(fmt.Sprintf("%s/%s-%d.pb.gz", profile, strings.ReplaceAll(l.name, " ", "-"), protocol))
	}
	m.idle = append(m.idle, idle)
	for i := range times {
		m.answers = l.run(g, protocol)
		peak, err := g.memory("VmHWM")
		if err != nil {
			return err
		}
		if i == 0 {
			m.growth = append(m.growth, peak-idle)
		}
		m.inARow = peak - idle
	}
	m.connections = max(m.connections, up.most.Load())
	return nil
}

func list(values []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(values), " ", ","), "[]")
}
