// Command memory measures how much memory the gateway takes while many transfers
// are under way at once: see README.md. The gateway is the real binary, in a
// process of its own.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
)

const (
	mib          = 1 << 20
	mediaSize    = 10 * mib
	replayBuffer = 64 * mib  // the gateway's default
	headroom     = 64 * mib  // for everything else
	pace         = 2_000_000 // bytes a second, of who is slow
)

// scenario is one kind of load.
type scenario struct {
	name      string
	transfers int
	load      load
	bound     int64 // of growth, in bytes
}

// scenarios are every kind of load over every protocol. Callers with TLS and HTTP/2
// cost more for each transfer: Go's buffers, most of all the 1 MiB of an upload that
// may wait in HTTP/2's flow-control window, and the garbage of handshakes.
func scenarios() (all []scenario) {
	for _, protocol := range []struct {
		name             string
		tls, http2       bool
		upload, download int64 // what each may cost more, in bytes
	}{
		{name: "HTTP/1.1"},
		{name: "HTTP/1.1 with TLS", tls: true, upload: mib / 2, download: mib / 8},
		{name: "HTTP/2 with TLS", tls: true, http2: true, upload: mib, download: mib / 4},
	} {
		for _, s := range []scenario{
			{"uploads to a slow upstream", 64, load{upload: true, slowUpstream: true}, replayBuffer + headroom + 64*protocol.upload},
			{"uploads of unknown length to a slow upstream", 64, load{upload: true, chunked: true, slowUpstream: true}, replayBuffer + headroom + 64*protocol.upload},
			{"downloads to slow callers", 256, load{slowCallers: true}, headroom + 256*protocol.download},
			{"downloads from a slow upstream", 256, load{slowUpstream: true}, headroom + 256*protocol.download},
		} {
			s.name += ", " + protocol.name
			s.load.tls, s.load.http2 = protocol.tls, protocol.http2
			all = append(all, s)
		}
	}
	return all
}

func main() {
	log.SetFlags(0)
	binary := flag.String("caddy", "", "the gateway's binary")
	rounds := flag.Int("rounds", 3, "how often each load is measured, each time in a new process")
	inARow := flag.Int("in-a-row", 8, "how often the last process gets the load, without a rest")
	table := flag.String("table", "", "file for the table")
	only := flag.String("only", "", "measure only loads whose name has this in it")
	profile := flag.String("profile", "", "directory for heap profiles, taken in the middle of a load")
	flag.Parse()

	var out strings.Builder
	fmt.Fprintf(&out, "| transfers at once, of 10 MiB | idle | growth | after %d in a row | at most | answers |\n|---|---:|---:|---:|---:|---|\n", *inARow)
	exceeded := false
	var runtime string
	for _, s := range scenarios() {
		if !strings.Contains(s.name, *only) {
			continue
		}
		var all []measurement
		for round := range *rounds {
			times := 1
			if round == *rounds-1 {
				times = *inARow
			}
			m, err := measure(*binary, s, times, *profile)
			if err != nil {
				log.Fatalf("%s: %v", s.name, err)
			}
			log.Printf("%d %s: %d MiB idle, grown by %d MiB, after %d in a row by %d MiB, %s",
				s.transfers, s.name, m.idle/mib, m.growth()/mib, times, m.growthInARow()/mib, m.answers)
			all = append(all, m)
			runtime = m.runtime
			exceeded = exceeded || m.growth() > s.bound
		}
		fmt.Fprintln(&out, row(s, all))
	}
	fmt.Fprintf(&out, "\nThe gateway's %s.\n", runtime)
	fmt.Print(out.String())
	if *table != "" {
		if err := os.WriteFile(*table, []byte(out.String()), 0o644); err != nil {
			log.Fatal(err)
		}
	}
	if exceeded {
		log.Fatal("the gateway takes more memory than it may")
	}
}

// row shows the measurements of one scenario.
func row(s scenario, all []measurement) string {
	var idle, growth, answers []string
	for _, m := range all {
		idle = append(idle, fmt.Sprint(m.idle/mib))
		growth = append(growth, fmt.Sprint(m.growth()/mib))
		if !slices.Contains(answers, m.answers) {
			answers = append(answers, m.answers)
		}
	}
	return fmt.Sprintf("| %d %s | %s MiB | **%s MiB** | %d MiB | %d MiB | %s |", s.transfers, s.name,
		strings.Join(idle, ", "), strings.Join(growth, ", "), all[len(all)-1].growthInARow()/mib, s.bound/mib, strings.Join(answers, "; "))
}
