package main

// The tables.

import (
	"fmt"
	"slices"
	"strings"
)

const roundTrip = 30 // ms

var (
	others  = []string{"stock", "tuned", "nginx"}
	callers = []string{"direct", "ours", "stock", "tuned", "nginx"}
)

// goals are the most that a request may cost in CPU time, against another contender, by
// size; above it a figure stands out.
var goals = map[string]map[string]float64{
	"stock": {"100": 0.85, "32768": 0.85, "339721": 0.9, "2097152": 1},
	"tuned": {"100": 0.9, "32768": 0.9, "339721": 0.9, "2097152": 1},
	"nginx": {"339721": 1.15, "2097152": 1.15},
}

// table collects rows of Markdown.
type table struct{ strings.Builder }

func newTable(columns ...string) *table {
	t := new(table)
	t.row(columns...)
	t.row(append([]string{"---"}, slices.Repeat([]string{"---:"}, len(columns)-1)...)...)
	return t
}

func (t *table) row(cells ...string) { fmt.Fprintf(t, "| %s |\n", strings.Join(cells, " | ")) }

// spread is a median with the least and the most.
func spread(format string, values []float64) string {
	if len(values) == 0 {
		return "–"
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+")", quantile(values, 0.5), slices.Min(values), slices.Max(values))
}

func median(format string, values []float64) string {
	if len(values) == 0 {
		return "–"
	}
	return fmt.Sprintf(format, quantile(values, 0.5))
}

// stress marks a figure that misses its goal.
func stress(text string, missed bool) string {
	if missed {
		return "**" + text + "**"
	}
	return text
}

// distanceTable has the times of all rows that keep, p50 with its spread and p95.
func (r *run) distanceTable(short bool) string {
	t := newTable(append([]string{"p50 / p95, ms", "callers"}, callers...)...)
	for _, row := range r.rows {
		f := strings.Split(row, "\t")
		if short && (strings.HasSuffix(f[1], "25 s") || f[2] != "1" && f[1] != "download") {
			continue
		}
		cells := []string{f[0] + ", " + f[1], f[2]}
		for _, name := range callers {
			cells = append(cells, r.distance[row][name].cell(name, short))
		}
		t.row(cells...)
	}
	return t.String()
}

func (w *waiting) cell(name string, short bool) string {
	if w == nil {
		return "–"
	}
	middle, text := quantile(w.all, 0.5), ""
	if text = fmt.Sprintf("%.0f", middle); !short {
		text += fmt.Sprintf(" (%.0f–%.0f)", slices.Min(w.rounds), slices.Max(w.rounds))
	}
	text = stress(text, name == "ours" && middle > 1.2*roundTrip) + fmt.Sprintf(" / %.0f", quantile(w.all, 0.95))
	if w.failed > 0 {
		text += fmt.Sprintf(", %d failed", w.failed)
	}
	return text
}

// title of get-32768-32 is "download 32 KiB" and "32".
func title(cell string) (what, size, callers string) {
	f := strings.Split(cell, "-")
	sizes := map[string]string{"100": "100 B", "32768": "32 KiB", "339721": "339,721 B", "2097152": "2 MiB"}
	verb := map[string]string{"get": "download ", "post": "upload "}[f[0]]
	return verb + sizes[f[1]], f[1], f[2]
}

func (r *run) ratioTable() string {
	t := newTable("", "callers", "CPU ÷ stock", "CPU ÷ tuned", "CPU ÷ nginx", "requests/s ÷ stock", "requests/s ÷ tuned", "requests/s ÷ nginx")
	for _, cell := range r.cells {
		what, size, callers := title(cell)
		row := []string{what, callers}
		for _, of := range []func(sample) float64{cpu, rate} {
			for _, other := range others {
				ratios := r.ratios(cell, "ours", other, of)
				text := spread("%.2f", ratios)
				if goal := goals[other][size]; len(row) < 5 && goal > 0 && len(ratios) > 0 {
					missed := quantile(ratios, 0.5) > goal
					text = stress(fmt.Sprintf("%s %s %g", text, map[bool]string{true: ">", false: "≤"}[missed], goal), missed)
				}
				row = append(row, text)
			}
		}
		t.row(row...)
	}
	return t.String()
}

func (r *run) everythingTable() string {
	t := newTable("", "callers", "", "requests/s", "CPU µs/request", "p50 ms", "p99 ms", "gateway's core busy", "the other")
	for _, cell := range r.cells {
		for _, name := range callers[1:] {
			what, _, callers := title(cell)
			of := func(f func(sample) float64) []float64 { return r.values(cell, name, f) }
			t.row(what, callers, name, spread("%.0f", of(rate)), spread("%.0f", of(cpu)), spread("%.2f", of(p50)),
				spread("%.2f", of(p99)), median("%.0f %%", of(core)), median("%.0f %%", of(rest)))
		}
	}
	return t.String()
}

// shortTable is what an operator asks first, for 32 callers.
func (r *run) shortTable() string {
	var cells []string
	columns := []string{"32 callers"}
	for _, cell := range r.cells {
		if what, _, callers := title(cell); callers == "32" {
			cells, columns = append(cells, cell), append(columns, what)
		}
	}
	t := newTable(columns...)
	for _, line := range []struct {
		name string
		of   func(sample) float64
	}{{"CPU time of a request", cpu}, {"requests a second", rate}} {
		for _, other := range others {
			row := []string{line.name + " ÷ " + other}
			for _, cell := range cells {
				row = append(row, median("%.2f", r.ratios(cell, "ours", other, line.of)))
			}
			t.row(row...)
		}
	}
	return t.String()
}

func (r *run) memoryTable() string {
	t := newTable("callers at once", "protocol", "idle, MiB", "growth, MiB", "after more of it, MiB", "at most, MiB", "connections to WeChat", "answers")
	for _, f := range r.memory {
		bound := "–"
		missed := false
		if f[3] != "0" {
			bound = f[3]
			missed = slices.Max(floats(strings.Split(f[5], ","))) > floats(f[3:4])[0]
		}
		t.row(f[2]+" "+f[0], f[1], strings.ReplaceAll(f[4], ",", ", "), stress(strings.ReplaceAll(f[5], ",", ", "), missed), f[6], bound, f[7], f[8])
	}
	return t.String()
}

// repetition says how a second run compares.
func (r *run) repetition(second *run) string {
	within, all := 0, 0
	count := func(a, b []float64) {
		if len(a) > 0 && len(b) > 0 {
			all++
			if m := quantile(b, 0.5); m >= slices.Min(a) && m <= slices.Max(a) {
				within++
			}
		}
	}
	for _, cell := range r.cells {
		for _, other := range others {
			count(r.ratios(cell, "ours", other, cpu), second.ratios(cell, "ours", other, cpu))
			count(r.ratios(cell, "ours", other, rate), second.ratios(cell, "ours", other, rate))
		}
	}
	ratios, inside := all, within
	within, all = 0, 0
	for _, row := range r.rows {
		if w, again := r.distance[row]["ours"], second.distance[row]["ours"]; w != nil && again != nil {
			count(w.rounds, again.rounds)
		}
	}
	return fmt.Sprintf("A second run (%s) gave %d of %d ratios and %d of %d times at a distance (ours, p50) within the spread stated here.",
		second.origins["load"], inside, ratios, within, all)
}
