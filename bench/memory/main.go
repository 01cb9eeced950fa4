// Command memory measures how much a gateway's process grows while many callers are busy
// with it at once. Its arguments start the gateway, between which and the upstream it
// puts itself. It prints one line for each load: load, protocol, callers, bound, idle and
// growth in each round, growth when the load goes on (all in MiB, a bound of 0 is none),
// the most connections to WeChat, answers. It fails if a bound does not hold.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/bench/relay"
)

const (
	replay  = 64        // MiB, the gateway's default of replay_buffer
	room    = 64        // MiB, for everything else
	refused = 16        // MiB, of 256 callers over what their connections take
	pace    = 2_000_000 // bytes a second, of who is slow
)

// What is measured, and how long those hold out who are waited for.
var (
	size = flag.Int64("size", 10<<20, "of media, in bytes")
	hold = flag.Duration("hold", 10*time.Second, "how long callers drip, or do not read")
)

// load is what all callers of a row do.
type load struct {
	name         string
	callers      int
	bound        [3]int // MiB, for each protocol; 0: none
	slowUpstream bool
	connected    bool                   // before they are measured: what is left is what they do
	call         func(c *client) string // says how it went
}

var protocols = []string{"HTTP/1.1", "HTTP/1.1 with TLS", "HTTP/2 with TLS"}

// A caller over HTTP/2 may have up to 1 MiB in the window of Go's server, over which the
// gateway has no say: for whole transfers that is measured and has no bound, and others
// have more room.
var loads = []load{
	{"uploads to a slow upstream", 64, [3]int{replay + room, replay + room, 0}, true, false, (*client).upload},
	{"uploads of unknown length to a slow upstream", 64, [3]int{replay + room, replay + room, 0}, true, false, (*client).uploadChunked},
	{"downloads to slow callers", 256, [3]int{room, room, 0}, false, false, (*client).downloadSlowly},
	{"downloads from a slow upstream", 256, [3]int{room, room, 0}, true, false, (*client).download},
	{"uploads that drip from their first byte on", 1000, [3]int{room, 2 * room, 2 * room}, false, false, (*client).drip},
	{"uploads that drip after 128 KiB", 1000, [3]int{replay + 2*room, replay + 4*room, replay + 6*room}, false, false, (*client).dripLate},
	{"callers who do not read", 256, [3]int{room, room, 2 * room}, false, false, (*client).hang},
	{windowless, 256, [3]int{0, 0, room}, false, false, (*client).hangWindow},
	{"uploads that are refused and sent all the same", 256, [3]int{refused, refused, 2 * room}, false, true, (*client).refused},
}

// windowless takes HTTP/2, and is the only load whose callers share connections.
const windowless = "callers with a window of 0, on 2 connections"

// connections is how many callers make over a protocol, 0 if they cannot.
func (l load) connections(protocol int) int {
	if l.name != windowless {
		return l.callers
	}
	return []int{0, 0, 2}[protocol]
}

func main() {
	log.SetFlags(0)
	rounds := flag.Int("rounds", 3, "how often each load is measured, each time in a new process")
	inARow := flag.Int("in-a-row", 3, "how often the last process gets the load, without a rest")
	only := flag.String("only", "", "measure only loads whose name and protocol have this in them")
	flag.Parse()

	exceeded := false
	for p, protocol := range protocols {
		for _, l := range loads {
			if name := l.name + ", " + protocol; !strings.Contains(name, *only) || l.connections(p) == 0 {
				continue
			}
			var m measurement
			for round := range *rounds {
				times := 1
				if round == *rounds-1 {
					times = *inARow
				}
				if err := m.measure(l, p, times); err != nil {
					log.Fatalf("%s over %s: %v", l.name, protocol, err)
				}
			}
			row := fmt.Sprintf("%s\t%s\t%d\t%d\t%s\t%s\t%d\t%d\t%s", l.name, protocol, l.callers, l.bound[p],
				list(m.idle), list(m.growth), m.inARow, m.connections, m.answers)
			fmt.Println(row)
			log.Print(row)
			for _, growth := range m.growth {
				exceeded = exceeded || l.bound[p] > 0 && growth > l.bound[p]
			}
		}
	}
	if exceeded {
		log.Fatal("the gateway takes more memory than it may")
	}
}

// measurement is what a load cost, in MiB.
type measurement struct {
	idle, growth []int
	inARow       int
	connections  int64
	answers      string
}

// measure puts a load on a new process of the gateway, some times in a row.
func (m *measurement) measure(l load, protocol, times int) error {
	up := new(relay.Relay)
	if l.slowUpstream {
		up.Pace = pace
	}
	listener, err := up.Listen("127.0.0.1:20461", "127.0.0.1:20441")
	if err != nil {
		return err
	}
	defer listener.Close()
	gateway := exec.Command(flag.Arg(0), flag.Args()[1:]...)
	output := new(bytes.Buffer)
	gateway.Stderr = output
	if err := gateway.Start(); err != nil {
		return err
	}
	defer func() { _ = gateway.Process.Kill(); _ = gateway.Wait() }()
	for served, tries := 0, 0; served < 16; tries++ { // small transfers, to warm up
		c := newClient(protocol)
		answer := c.small()
		c.transport.CloseIdleConnections()
		if answer == "200" {
			served++
		} else if time.Sleep(50 * time.Millisecond); tries > 200 {
			return fmt.Errorf("the gateway does not serve:\n%s", output)
		}
	}
	clients := l.newClients(protocol)
	idle := memory(gateway.Process.Pid, "VmRSS")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", gateway.Process.Pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("starting a new high-water mark: %w", err)
	}
	m.idle = append(m.idle, idle)
	for i := range times {
		if i > 0 {
			clients = l.newClients(protocol)
		}
		m.answers = l.run(clients)
		for _, c := range clients {
			c.transport.CloseIdleConnections()
		}
		m.inARow = memory(gateway.Process.Pid, "VmHWM") - idle
		if i == 0 {
			m.growth = append(m.growth, m.inARow)
		}
	}
	m.connections = max(m.connections, up.Most())
	return nil
}

// memory reads one of the kernel's figures, in MiB.
func memory(pid int, name string) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(status), name+":")
	kib, err := strconv.Atoi(strings.Fields(rest + " -")[0])
	if err != nil {
		log.Fatalf("/proc has no %s: %v", name, err)
	}
	return (kib + 512) / 1024
}

func list(values []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(values), " ", ","), "[]")
}
