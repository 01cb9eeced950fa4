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
	load     map[string][]sample            // by cell and contender, in the order of rounds
	cells    []string                       // in the order of the file
	distance map[string]map[string]*waiting // by row and contender
	rows     []string
	memory   [][]string
	origins  map[string]string // where and when each part was measured
}

// sample is one contender in one cell in one round.
type sample struct{ rate, cpu, p50, p99, core, other float64 }

// waiting is what callers waited for in one row, in ms.
type waiting struct {
	rounds []float64 // medians
	all    []float64
	failed int
}

func read(dir string) (*run, error) {
	r := &run{load: make(map[string][]sample), distance: make(map[string]map[string]*waiting), origins: make(map[string]string)}
	for _, part := range []string{"distance", "load", "memory"} {
		origin, err := os.ReadFile(filepath.Join(dir, part+".txt"))
		if err != nil {
			return nil, err
		}
		r.origins[part] = strings.TrimSpace(string(origin))
	}
	for _, f := range lines(dir, "load.tsv", 9) {
		v := floats(f[3:])
		if !slices.Contains(r.cells, f[1]) {
			r.cells = append(r.cells, f[1])
		}
		r.load[f[1]+" "+f[2]] = append(r.load[f[1]+" "+f[2]], sample{v[0], v[1], v[2], v[3], v[4], v[5]})
	}
	for _, f := range lines(dir, "distance.tsv", 7) {
		row := strings.Join(f[1:4], "\t")
		if r.distance[row] == nil {
			r.distance[row] = make(map[string]*waiting)
			r.rows = append(r.rows, row)
		}
		w := r.distance[row][f[4]]
		if w == nil {
			w = new(waiting)
			r.distance[row][f[4]] = w
		}
		times := floats(strings.Split(f[6], ","))
		w.rounds, w.all = append(w.rounds, quantile(times, 0.5)), append(w.all, times...)
		w.failed += int(floats(f[5:6])[0])
	}
	r.memory = lines(dir, "memory.tsv", 9)
	return r, nil
}

// lines are the rows of a table in a file; none if there is no file.
func lines(dir, name string, columns int) (rows [][]string) {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) != columns {
			fail(fmt.Errorf("%s: %d columns: %s", name, len(fields), line))
		}
		rows = append(rows, fields)
	}
	return rows
}

func floats(fields []string) (out []float64) {
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
	i := int(at)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

// ratios are those of the same round.
func (r *run) ratios(cell, contender, to string, of func(sample) float64) (out []float64) {
	a, b := r.load[cell+" "+contender], r.load[cell+" "+to]
	for i := range min(len(a), len(b)) {
		out = append(out, of(a[i])/of(b[i]))
	}
	return out
}

func (r *run) values(cell, contender string, of func(sample) float64) (out []float64) {
	for _, s := range r.load[cell+" "+contender] {
		out = append(out, of(s))
	}
	return out
}

func rate(s sample) float64 { return s.rate }
func cpu(s sample) float64  { return s.cpu }
func core(s sample) float64 { return s.core }
func rest(s sample) float64 { return s.other }
func p50(s sample) float64  { return s.p50 / 1000 }
func p99(s sample) float64  { return s.p99 / 1000 }
