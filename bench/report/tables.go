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
	verbs   = map[string]string{"get": "download ", "post": "upload "}
	sizes   = map[string]string{"100": "100 B", "32768": "32 KiB", "339721": "339,721 B", "2097152": "2 MiB"}
)

// goals are the most that a request may cost in CPU time, against another contender, by
// size; above it a figure stands out.
var goals = map[string]map[string]float64{
	"stock": {"100": 0.85, "32768": 0.85, "339721": 0.9, "2097152": 1},
	"tuned": {"100": 0.9, "32768": 0.9, "339721": 0.9, "2097152": 1},
	"nginx": {"339721": 1.15, "2097152": 1.15},
}

// table begins one in Markdown.
func table(columns ...string) []string {
	return []string{line(columns...), line(append([]string{"---"}, slices.Repeat([]string{"---:"}, len(columns)-1)...)...)}
}

func line(cells ...string) string { return "| " + strings.Join(cells, " | ") + " |" }

// spread is a median, and in long tables the least and the most.
func spread(format string, values []float64, short bool) string {
	if len(values) == 0 {
		return "–"
	}
	text := fmt.Sprintf(format, quantile(values, 0.5))
	if !short {
		text += fmt.Sprintf(" ("+format+"–"+format+")", slices.Min(values), slices.Max(values))
	}
	return text
}

// stress marks a figure that misses its goal.
func stress(text string, missed bool) string {
	if missed {
		return "**" + text + "**"
	}
	return text
}

// distanceTable has p50, the spread of the rounds' p50, and p95.
func (r *run) distanceTable(short bool) []string {
	t := table(append([]string{"p50 / p95, ms", "callers"}, callers...)...)
	for _, row := range r.rows {
		f := strings.Split(row, "\t")
		if short && (strings.HasSuffix(f[1], "25 s") || f[2] != "1" && f[1] != "download") {
			continue
		}
		cells := []string{f[0] + ", " + f[1], f[2]}
		for _, name := range callers {
			cells = append(cells, r.distance[row+name].cell(name, short))
		}
		t = append(t, line(cells...))
	}
	return append(t, "", r.origins["distance"])
}

func (w *waiting) cell(name string, short bool) string {
	if w == nil {
		return "–"
	}
	text := stress(spread("%.0f", w.rounds, short), name == "ours" && quantile(w.rounds, 0.5) > 1.2*roundTrip)
	text += fmt.Sprintf(" / %.0f", quantile(w.all, 0.95))
	if w.failed > 0 {
		text += fmt.Sprintf(", %.0f failed", w.failed)
	}
	return text
}

// ratioTable is ours beside the others; the short one for 32 callers alone.
func (r *run) ratioTable(short bool) []string {
	t := table("", "callers", "CPU ÷ stock", "CPU ÷ tuned", "CPU ÷ nginx", "requests/s ÷ stock", "requests/s ÷ tuned", "requests/s ÷ nginx")
	for _, cell := range r.cells {
		f := strings.Split(cell, "-")
		if short && f[2] != "32" {
			continue
		}
		row := []string{verbs[f[0]] + sizes[f[1]], f[2]}
		for _, column := range []int{cpu, rate} {
			for _, other := range others {
				ratios := r.figures(cell, "ours", other, column)
				goal := goals[other][f[1]]
				missed := column == cpu && goal > 0 && len(ratios) > 0 && quantile(ratios, 0.5) > goal
				text := spread("%.2f", ratios, short)
				if missed {
					text += fmt.Sprintf(" > %g", goal)
				}
				row = append(row, stress(text, missed))
			}
		}
		t = append(t, line(row...))
	}
	return append(t, "", r.origins["load"])
}

func (r *run) everythingTable() []string {
	t := table("", "callers", "", "requests/s", "CPU µs/request", "p50 µs", "p99 µs", "gateway's core busy, %", "the other")
	for _, cell := range r.cells {
		f := strings.Split(cell, "-")
		for _, name := range callers[1:] {
			row := []string{verbs[f[0]] + sizes[f[1]], f[2], name}
			for column := rate; column <= rest; column++ {
				row = append(row, spread("%.0f", r.figures(cell, name, "", column), column >= core))
			}
			t = append(t, line(row...))
		}
	}
	return t
}

func (r *run) memoryTable() []string {
	t := table("callers at once", "protocol", "idle, MiB", "growth, MiB", "after more of it, MiB", "at most, MiB", "connections to WeChat", "answers")
	for _, f := range r.memory {
		bound, growth := f[3], strings.ReplaceAll(f[5], ",", ", ")
		missed := bound != "0" && slices.Max(floats(strings.Split(f[5], ",")...)) > floats(bound)[0]
		if bound == "0" {
			bound = "–"
		}
		t = append(t, line(f[2]+" "+f[0], f[1], strings.ReplaceAll(f[4], ",", ", "), stress(growth, missed), f[6], bound, f[7], f[8]))
	}
	return append(t, "", r.origins["memory"])
}
