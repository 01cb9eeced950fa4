package report

// What is compared with what, and what is to be reached.

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// comparison is a figure of ours against another's, as a ratio.
type comparison struct {
	title   string
	other   string
	figure  metric
	atLeast bool // or at most
	goal    func(cellName) float64
}

var comparisons = []comparison{
	{"requests/s ÷ stock", stock, throughput, true, func(c cellName) float64 {
		switch {
		case c.size == 339_721 || c.size == 2<<20:
			return 1.5
		case c.size == 32<<10:
			return 1.15
		}
		return 0
	}},
	{"requests/s ÷ tuned", tuned, throughput, true, func(cellName) float64 { return 1 }},
	{"requests/s ÷ nginx", nginx, throughput, true, func(c cellName) float64 {
		switch c.size {
		case 339_721:
			return 0.9
		case 2 << 20:
			return 1
		}
		return 0
	}},
	{"requests/s ÷ limit", limit, throughput, true, func(cellName) float64 { return 0 }},
	{"CPU ÷ stock", stock, gatewayCPU, false, func(cellName) float64 { return 0 }},
	{"CPU ÷ tuned", tuned, gatewayCPU, false, func(cellName) float64 { return 0 }},
	{"CPU ÷ nginx", nginx, gatewayCPU, false, func(cellName) float64 { return 0 }},
	{"CPU ÷ limit", limit, gatewayCPU, false, func(c cellName) float64 {
		switch c.size {
		case 339_721:
			return 1.15
		case 2 << 20:
			return 1.05
		}
		return 0
	}},
}

// missed reports whether the goal, if there is one, was not reached.
func (c comparison) missed(name cellName, s stat) bool {
	goal := c.goal(name)
	return goal > 0 && s.n > 0 && (c.atLeast && s.median < goal || !c.atLeast && s.median > goal)
}

// cellName is a cell's name, taken apart.
type cellName struct {
	upload      bool
	size        int
	concurrency int
}

func parseCell(name string) (c cellName) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 {
		return c
	}
	c.upload = parts[0] == "post"
	c.size, _ = strconv.Atoi(parts[1])
	c.concurrency, _ = strconv.Atoi(parts[2])
	return c
}

func (c cellName) String() string {
	method := "get"
	if c.upload {
		method = "post"
	}
	return fmt.Sprintf("%s-%d-%d", method, c.size, c.concurrency)
}

// words is for people.
func (c cellName) words() string {
	verb := "download"
	if c.upload {
		verb = "upload"
	}
	return verb + " " + sizeWords(c.size)
}

func sizeWords(size int) string {
	if size >= 1<<10 && size%(1<<10) == 0 {
		return humanize.IBytes(uint64(size))
	}
	return humanize.Comma(int64(size)) + " B"
}
