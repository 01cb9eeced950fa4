package report

// The tables of bench/README.md.

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// full is everything that is generated for bench/README.md.
func full(r, second *Run) string {
	var b strings.Builder
	b.WriteString(r.Environment.words() + "\n\n")
	b.WriteString("### Ratios\n\n" + ratioTable(r) + "\n")
	if second != nil {
		b.WriteString(repetition(r, second) + "\n")
	}
	b.WriteString("### Added latency\n\n" + latencyTable(r) + "\n")
	b.WriteString("### A thousand callers\n\n" + coldTable(r) + "\n" + rotationTable(r) + "\n")
	b.WriteString("### Everything\n\n" + everythingTable(r))
	return b.String()
}

func (e Environment) words() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Taken on %s, on %d cores of %s with %d GiB, %s, Linux %s, with %s, Caddy %s", e.Date, e.Cores, e.CPU,
		e.MemoryGiB, e.System, e.Kernel, e.Go, e.Caddy)
	if e.Nginx != "" {
		fmt.Fprintf(&b, ", nginx %s", e.Nginx)
	}
	if e.Revision != "" {
		fmt.Fprintf(&b, "; revision %s", e.Revision)
	}
	pinned := "the gateway on one core, all else on the other"
	if !e.Pinned {
		pinned = "no process bound to a core"
	}
	fmt.Fprintf(&b, ". %d rounds of %g s, %s. Medians, with the least and the most of all rounds.", e.Rounds, e.SecondsPerCell, pinned)
	return b.String()
}

// table is a Markdown table.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(head)
	align := slices.Repeat([]string{"---:"}, len(head))
	align[0] = "---"
	line(align)
	for _, row := range rows {
		line(row)
	}
	return b.String()
}

func ratioTable(r *Run) string {
	head := []string{"", "callers"}
	for _, c := range comparisons {
		head = append(head, c.title)
	}
	var rows [][]string
	for _, cell := range r.cells() {
		name := parseCell(cell)
		row := []string{name.words(), fmt.Sprint(name.concurrency)}
		for _, c := range comparisons {
			s := r.ratio(cell, ours, c.other, c.figure)
			row = append(row, c.words(name, s))
		}
		rows = append(rows, row)
	}
	return table(head, rows)
}

// words is a ratio and, if there is one, how it stands to the goal.
func (c comparison) words(name cellName, s stat) string {
	text, goal := spread(s, 2), c.goal(name)
	if goal == 0 || s.n == 0 {
		return text
	}
	missed := c.missed(name, s)
	sign := map[[2]bool]string{{true, false}: "≥", {true, true}: "<", {false, false}: "≤", {false, true}: ">"}[[2]bool{c.atLeast, missed}]
	text = fmt.Sprintf("%s %s %g", text, sign, goal)
	if missed {
		return "**" + text + "**"
	}
	return text
}

func latencyTable(r *Run) string {
	var others []string
	for _, c := range r.contenders() {
		if c != direct {
			others = append(others, c)
		}
	}
	head := []string{"p50, one caller", "direct, µs"}
	for _, c := range others {
		head = append(head, c+", µs more")
	}
	var rows [][]string
	for _, cell := range r.cells() {
		name := parseCell(cell)
		if name.concurrency != 1 {
			continue
		}
		row := []string{name.words(), spread(r.of(cell, direct, p50), 0)}
		for _, c := range others {
			row = append(row, spread(r.difference(cell, c, direct, p50), 0))
		}
		rows = append(rows, row)
	}
	return table(head, rows)
}

func everythingTable(r *Run) string {
	head := []string{"", "callers", "", "requests/s", "CPU µs/request", "p50 ms", "p99 ms", "peak MiB", "gateway's core busy", "the other"}
	var rows [][]string
	for _, cell := range r.cells() {
		name := parseCell(cell)
		for _, c := range r.contenders() {
			rate := r.of(cell, c, throughput)
			if rate.n == 0 {
				continue
			}
			row := []string{
				name.words(), fmt.Sprint(name.concurrency), c, spread(rate, 0), "–",
				spread(scaled(r.of(cell, c, p50), 1e-3), 2), spread(scaled(r.of(cell, c, p99), 1e-3), 2), "–", "–",
				percent(r.of(cell, c, othersBusy)),
			}
			if c != direct {
				row[4], row[7] = spread(r.of(cell, c, gatewayCPU), 1), spread(r.of(cell, c, peakMiB), 0)
				row[8] = percent(r.of(cell, c, busy))
			}
			rows = append(rows, row)
		}
	}
	return table(head, rows)
}

func percent(s stat) string { return fmt.Sprintf("%.0f %%", 100*s.median) }

// number writes v for people.
func number(v float64, digits int) string {
	if digits == 0 {
		return humanize.Comma(int64(math.Round(v)))
	}
	whole, fraction, _ := strings.Cut(fmt.Sprintf("%.*f", digits, v), ".")
	n, _ := strconv.ParseInt(strings.TrimPrefix(whole, "-"), 10, 64)
	sign := ""
	if v < 0 {
		sign = "-"
	}
	return sign + humanize.Comma(n) + "." + fraction
}
