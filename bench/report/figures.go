package main

// The figures of a run, and what is made of several rounds.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// run is one run's figures; what was not measured is empty.
type run struct {
	cells, rows []string               // of load and of distance, in the order of the files
	load        map[string][][]float64 // by cell and contender: the columns of each round
	distance    map[string]*waiting    // by row and contender
	memory      [][]string
	origins     map[string]string // where and when each part was measured
}

// Columns of a round of load.
const (
	rate = iota
	cpu
	p50
	p99
	core
	rest
)

// waiting is what callers waited for in one row, in ms.
type waiting struct {
	rounds []float64 // medians
	all    []float64
	failed float64
}

func read(dir string) *run {
	r := &run{load: make(map[string][][]float64), distance: make(map[string]*waiting), origins: make(map[string]string)}
	for _, part := range []string{"distance", "load", "memory"} {
		origin, err := os.ReadFile(filepath.Join(dir, part+".txt"))
		if err != nil {
			origin = []byte("Not measured.")
		}
		r.origins[part] = strings.TrimSpace(string(origin))
	}
	for _, f := range lines(dir, "load.tsv", 9) {
		if !slices.Contains(r.cells, f[1]) {
			r.cells = append(r.cells, f[1])
		}
		r.load[f[1]+f[2]] = append(r.load[f[1]+f[2]], floats(f[3:]...))
	}
	for _, f := range lines(dir, "distance.tsv", 7) {
		row := strings.Join(f[1:4], "\t")
		if !slices.Contains(r.rows, row) {
			r.rows = append(r.rows, row)
		}
		w := r.distance[row+f[4]]
		if w == nil {
			w = new(waiting)
			r.distance[row+f[4]] = w
		}
		times := floats(strings.Split(f[6], ",")...)
		w.rounds, w.all = append(w.rounds, quantile(times, 0.5)), append(w.all, times...)
		w.failed += floats(f[5])[0]
	}
	r.memory = lines(dir, "memory.tsv", 9)
	return r
}

// lines are the rows of a table in a file; none if there is no file.
func lines(dir, name string, columns int) (rows [][]string) {
	raw, _ := os.ReadFile(filepath.Join(dir, name))
	for line := range strings.Lines(string(raw)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) != columns {
			fail(fmt.Errorf("%s: %d columns: %s", name, len(fields), line))
		}
		rows = append(rows, fields)
	}
	return rows
}

func floats(fields ...string) (out []float64) {
	for _, f := range fields {
		v, err := strconv.ParseFloat(f, 64)
		fail(err)
		out = append(out, v)
	}
	return out
}

// quantile is the value of that rank: the median of an even number is the mean of two.
func quantile(values []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(values))
	at := q * float64(len(s)-1)
	i := min(int(at), max(len(s)-2, 0))
	return s[i] + (at-float64(i))*(s[min(i+1, len(s)-1)]-s[i])
}

// figures are those of all rounds, divided by those of another contender in the same
// round if there is one.
func (r *run) figures(cell, contender, other string, column int) (out []float64) {
	b := r.load[cell+other]
	for i, a := range r.load[cell+contender] {
		if other == "" {
			out = append(out, a[column])
		} else if i < len(b) {
			out = append(out, a[column]/b[i][column])
		}
	}
	return out
}

// repetition says how many medians of a second run lie within the spread of this one.
func (r *run) repetition(second *run) string {
	within, all := 0, 0
	count := func(a, b []float64) {
		if len(a) > 0 && len(b) > 0 {
			if all++; quantile(b, 0.5) >= slices.Min(a) && quantile(b, 0.5) <= slices.Max(a) {
				within++
			}
		}
	}
	for _, cell := range r.cells {
		for _, other := range others {
			count(r.figures(cell, "ours", other, cpu), second.figures(cell, "ours", other, cpu))
			count(r.figures(cell, "ours", other, rate), second.figures(cell, "ours", other, rate))
		}
	}
	text := fmt.Sprintf("%d of %d ratios", within, all)
	within, all = 0, 0
	for _, row := range r.rows {
		if a, b := r.distance[row+"ours"], second.distance[row+"ours"]; a != nil && b != nil {
			count(a.rounds, b.rounds)
		}
	}
	return fmt.Sprintf("A second run gave %s and %d of %d times at a distance within the spread stated here (ours, medians).\n", text, within, all)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
