package main

// How much a gateway's process grows while many callers are busy with it at once.

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	replay    = 64      // MiB, the gateway's default of replay_buffer
	room      = 64      // MiB, for everything else
	refused   = 16      // MiB, of 256 callers over what their connections take
	pacedPort = 20445   // of the upstream, where it sends little ahead
	pace      = 500_000 // bytes a second, of who is slow: two cores keep up with 256
	streams   = 128     // of callers who share a connection
)

const gatewayTLS = "127.0.0.1:20472"

// protocol is how callers talk to the gateway.
type protocol struct {
	name, url string
	http2     bool
}

var protocols = []protocol{
	{"HTTP/1.1", "http://127.0.0.1:20471", false},
	{"HTTP/1.1 with TLS", "https://" + gatewayTLS, false},
	{"HTTP/2 with TLS", "https://" + gatewayTLS, true},
}

// load is what all callers of a row do.
type load struct {
	name      string
	callers   int
	bound     [3]int                 // MiB, for each protocol; 0: none
	upstream  int                    // its pace; 0: no limit
	connected bool                   // before they are measured: what is left is what they do
	shared    int                    // connections of them all, over HTTP/2 alone; 0: one each
	call      func(c *caller) string // says how it went
}

// A caller over HTTP/2 may have up to 1 MiB in the window of Go's server, over which the
// gateway has no say: for whole transfers that is measured and has no bound, and others
// have more room.
var loads = []load{
	{"uploads to a slow upstream", 64, [3]int{replay + room, replay + room, 0}, pace, false, 0, (*caller).uploadAll},
	{"uploads of unknown length to a slow upstream", 64, [3]int{replay + room, replay + room, 0}, pace, false, 0, (*caller).uploadChunked},
	{"downloads to slow callers", 256, [3]int{room, room, 0}, 0, false, 0, (*caller).downloadSlowly},
	{"downloads from a slow upstream", 256, [3]int{room, room, 0}, pace, false, 0, (*caller).downloadAll},
	{"uploads that drip from their first byte on", 1000, [3]int{room, 2 * room, 2 * room}, 0, false, 0, (*caller).drip},
	{"uploads that drip after 128 KiB", 1000, [3]int{replay + 2*room, replay + 4*room, replay + 6*room}, 0, false, 0, (*caller).dripLate},
	{"callers who do not read", 256, [3]int{room, room, 2 * room}, 0, false, 0, (*caller).hang},
	{"callers with a window of 0, on 2 connections", 2 * streams, [3]int{0, 0, room}, 0, false, 2, (*caller).hangWindow},
	{"uploads that are refused and sent all the same", 256, [3]int{refused, refused, room}, 0, true, 0, (*caller).refused},
}

// measurement is what a load cost, in MiB.
type measurement struct {
	idle, growth []string // of each round
	inARow, most int      // growth when the load goes on, and in any round
	connections  int64    // to WeChat, at the most
	answers      []string // of each load that was answered in another way
}

// memory prints one line for each load: load, protocol, callers, bound, idle and growth
// in each round, growth when the load goes on (all in MiB, a bound of 0 is none), the most
// connections to WeChat, answers. It fails if a bound does not hold.
func memory(command []string) {
	exceeded := false
	for i, p := range protocols {
		for _, l := range loads {
			if !strings.Contains(l.name+", "+p.name, *only) || l.shared > 0 && !p.http2 {
				continue
			}
			var m measurement
			for round := 1; round <= *rounds; round++ {
				times := 1
				if round == *rounds {
					times = *inARow
				}
				must(m.measure(command, l, p, times))
			}
			fmt.Fprintf(io.MultiWriter(os.Stdout, os.Stderr), "%s\t%s\t%d\t%d\t%s\t%s\t%d\t%d\t%s\n", l.name, p.name, l.callers, l.bound[i],
				strings.Join(m.idle, ","), strings.Join(m.growth, ","), m.inARow, m.connections, strings.Join(m.answers, "; "))
			exceeded = exceeded || l.bound[i] > 0 && m.most > l.bound[i]
		}
	}
	if exceeded {
		log.Fatal("the gateway takes more memory than it may")
	}
}

// measure puts a load on a new process of the gateway, some times in a row. Between it
// and the upstream stands a relay.
func (m *measurement) measure(command []string, l load, p protocol, times int) error {
	up := &relay{pace: l.upstream}
	defer up.listen(20461, pacedPort).Close()
	gateway := exec.Command(command[0], command[1:]...)
	output := new(bytes.Buffer)
	gateway.Stderr = output
	must(gateway.Start())
	defer func() { _ = gateway.Process.Kill(); _ = gateway.Wait() }()
	for served, tries := 0, 0; served < 16; tries++ { // small transfers, to warm up
		c := newCaller(p.url, p.http2)
		answer := c.get(339721, false)
		c.close()
		if answer == good {
			served++
		} else if time.Sleep(50 * time.Millisecond); tries > 200 {
			return fmt.Errorf("the gateway does not serve: %s\n%s", answer, output)
		}
	}
	idle := 0
	for i := range times {
		callers := l.newCallers(p)
		if i == 0 {
			idle = resident(gateway.Process.Pid, "VmRSS")
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", gateway.Process.Pid), []byte("5"), 0); err != nil {
				return fmt.Errorf("starting a new high-water mark: %w", err)
			}
		}
		if answers := l.run(callers); !slices.Contains(m.answers, answers) {
			m.answers = append(m.answers, answers)
		}
		if m.inARow = resident(gateway.Process.Pid, "VmHWM") - idle; i == 0 {
			m.idle, m.growth = append(m.idle, strconv.Itoa(idle)), append(m.growth, strconv.Itoa(m.inARow))
			m.most = max(m.most, m.inARow)
		}
	}
	m.connections = max(m.connections, up.most.Load())
	return nil
}

// resident reads one of the kernel's figures, in MiB.
func resident(pid int, name string) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(status), name+":")
	kib := 0
	_, err := fmt.Sscan(rest, &kib)
	must(err)
	return (kib + 512) / 1024
}

// newCallers makes the callers of a load.
func (l load) newCallers(p protocol) []*caller {
	callers := make([]*caller, cmp.Or(l.shared, l.callers))
	for i := range callers {
		callers[i] = newCaller(p.url, p.http2)
	}
	if l.connected {
		each(callers, func(c *caller) {
			c.patient = !p.http2
			if answer := c.post(c.upload, zeros(64<<10), 64<<10, 64<<10); answer != good {
				log.Fatal("connecting: ", answer)
			}
		})
	}
	return callers
}

// run has all callers of a load call at once, and counts how it went.
func (l load) run(callers []*caller) string {
	answers := make(chan string, len(callers))
	each(callers, func(c *caller) { answers <- l.call(c) })
	close(answers)
	counts := make(map[string]int)
	for answer := range answers {
		counts[answer] += l.callers / len(callers)
	}
	var out []string
	for answer, n := range counts {
		out = append(out, fmt.Sprintf("%d × %s", n, answer))
	}
	for _, c := range callers {
		c.close()
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
