package main

// The tables of README.md, and those that other documents take from here.

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// run is one run's figures; what was not measured is empty.
type run struct {
	dir            string
	load, distance figures
	memory         [][]string
}

// figures are those of one part.
type figures struct {
	rows   []string               // in the order of the file
	rounds map[string][][]float64 // by row and contender, the values of each round
}

// Columns of a round of load; the others are p50 and p99, and how busy the cores were.
const rate, cpu, core, columns = 0, 1, 4, 6

func read(dir string) run {
	return run{dir, readFigures(dir, "load.tsv", 1), readFigures(dir, "distance.tsv", 3), lines(dir, "memory.tsv")}
}

// origin is where and when a part was measured.
func (r run) origin(part string) string {
	raw, err := os.ReadFile(filepath.Join(r.dir, part+".txt"))
	if err != nil {
		return "\nNot measured.\n"
	}
	return "\n" + string(raw)
}

// lines are the rows of a table in a file; none if there is no file.
func lines(dir, name string) (rows [][]string) {
	raw, _ := os.ReadFile(filepath.Join(dir, name))
	for line := range strings.Lines(string(raw)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows
}

// readFigures reads a table whose columns are the round, those that name a row, the
// contender, and values, of which a column may have several.
func readFigures(dir, name string, naming int) figures {
	f := figures{rounds: make(map[string][][]float64)}
	for _, fields := range lines(dir, name) {
		row, contender := strings.Join(fields[1:1+naming], "\t"), fields[1+naming]
		if !slices.Contains(f.rows, row) {
			f.rows = append(f.rows, row)
		}
		f.rounds[row+contender] = append(f.rounds[row+contender], floats(fields[2+naming:]...))
	}
	return f
}

// floats are numbers, of which a field may have several.
func floats(fields ...string) (values []float64) {
	for _, field := range strings.Split(strings.Join(fields, ","), ",") {
		v, err := strconv.ParseFloat(field, 64)
		must(err)
		values = append(values, v)
	}
	return values
}

// quantile is the value of that rank: the median of an even number is the mean of two.
func quantile(values []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(values))
	at := q * float64(len(s)-1)
	i := min(int(at), max(len(s)-2, 0))
	return s[i] + (at-float64(i))*(s[min(i+1, len(s)-1)]-s[i])
}

// costs are the values of one kind of all rounds of load, divided by those of another
// contender in the same round if there is one.
func (r run) costs(cell, contender, other string, kind int) (out []float64) {
	b := r.load.rounds[cell+other]
	for i, a := range r.load.rounds[cell+contender] {
		if other == "" {
			out = append(out, a[kind])
		} else if i < len(b) {
			out = append(out, a[kind]/b[i][kind])
		}
	}
	return out
}

// waits are the median of each round at a distance, all times, and how many calls failed.
func (r run) waits(row, contender string) (medians, all []float64, failed float64) {
	for _, values := range r.distance.rounds[row+contender] {
		failed += values[0]
		medians, all = append(medians, quantile(values[1:], 0.5)), append(all, values[1:]...)
	}
	return medians, all, failed
}

// repetition says how many medians of a second run lie within the spread of this one, as
// it is printed, and how far beside it the others are.
func (r run) repetition(second run) string {
	var within, all [2]int // of load and of distance
	var beside [2]float64  // ratios in percent, times in ms
	count := func(part int, unit float64, a, b []float64) {
		if len(a) == 0 || len(b) == 0 {
			return
		}
		printed := func(v float64) float64 { return math.Round(v / unit) }
		median, least, most := printed(quantile(b, 0.5)), printed(slices.Min(a)), printed(slices.Max(a))
		all[part]++
		if far := max(least-median, median-most); far <= 0 {
			within[part]++
		} else if part == 0 {
			beside[0] = max(beside[0], 100*far*unit/quantile(a, 0.5))
		} else {
			beside[1] = max(beside[1], far*unit)
		}
	}
	for _, cell := range r.load.rows {
		for _, other := range others {
			count(0, 0.01, r.costs(cell, "ours", other, cpu), second.costs(cell, "ours", other, cpu))
			count(0, 0.01, r.costs(cell, "ours", other, rate), second.costs(cell, "ours", other, rate))
		}
	}
	for _, row := range r.distance.rows {
		a, _, _ := r.waits(row, "ours")
		b, _, _ := second.waits(row, "ours")
		count(1, 1, a, b)
	}
	return fmt.Sprintf("\nA second run gave %d of %d ratios and %d of %d times at a distance within the spread stated here (ours, medians), "+
		"and none further beside it than %.0f %% or %.0f ms.\n", within[0], all[0], within[1], all[1], beside[0], beside[1])
}

var (
	others = []string{"stock", "tuned", "nginx"}
	names  = []string{direct, "ours", "stock", "tuned", "nginx"}
	verbs  = map[string]string{"get": "download ", "post": "upload "}
	sizes  = map[string]string{"100": "100 B", "32768": "32 KiB", "339721": "339,721 B", "2097152": "2 MiB"}
)

// goals are the most that a request may cost in CPU time, against another contender, by
// size; above it a figure stands out.
var goals = map[string]map[string]float64{
	"stock": {"100": 0.85, "32768": 0.85, "339721": 0.9, "2097152": 1},
	"tuned": {"100": 0.9, "32768": 0.9, "339721": 0.9, "2097152": 1},
	"nginx": {"339721": 1.15, "2097152": 1.15},
}

// tables prints what README.md has of a run, and of a second one if there is one.
func tables(dirs []string) {
	r := read(dirs[0])
	fmt.Printf("Medians, with the least and the most of all rounds; bold is what misses a goal.\n"+
		"\n### At a distance of %d ms\n\n![What one caller waits for](plot.svg)\n\n%s"+
		"\n### Beside other ways: ratios\n\n%s\n### Beside other ways: figures\n\n%s"+
		"\n### Memory: growth of the process\n\n%s",
		rtt.Milliseconds(), r.distanceTable(false), r.ratioTable(false), r.everythingTable(), r.memoryTable())
	for _, dir := range dirs[1:] {
		fmt.Print(r.repetition(read(dir)))
	}
}

// short prints what other documents take from here.
func short(dirs []string) {
	r := read(dirs[0])
	fmt.Print(r.distanceTable(true) + "\n" + r.ratioTable(true))
}

// plot prints what plot.gp draws: the p50 of a lone caller, a row for each kind of connection.
func plot(dirs []string) {
	r := read(dirs[0])
	fmt.Println("\"\"\t" + strings.Join(names, "\t"))
	for _, row := range r.distance.rows {
		f := strings.Split(row, "\t")
		if f[2] != "1" || strings.HasSuffix(f[1], " after 25 s") || strings.HasPrefix(f[1], "upload after") {
			continue
		}
		fmt.Printf(`"%s"`, strings.NewReplacer(" after", `\nafter`, ", ", `,\n`).Replace(f[1]+", "+f[0]))
		for _, name := range names {
			medians, _, _ := r.waits(row, name)
			fmt.Print("\t" + spread("%.1f", medians, true))
		}
		fmt.Println()
	}
}

// header begins a table in Markdown.
func header(cells ...string) string {
	return line(cells...) + line(slices.Concat([]string{"---"}, slices.Repeat([]string{"---:"}, len(cells)-1))...)
}

func line(cells ...string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

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
func (r run) distanceTable(short bool) string {
	t := header(append([]string{"p50 / p95, ms", "callers"}, names...)...)
	for _, row := range r.distance.rows {
		f := strings.Split(row, "\t")
		if short && (strings.HasSuffix(f[1], "25 s") || f[2] != "1" && f[1] != "download") {
			continue
		}
		cells := []string{f[0] + ", " + f[1], f[2]}
		for _, name := range names {
			medians, all, failed := r.waits(row, name)
			cell := spread("%.0f", medians, short)
			if len(all) > 0 {
				missed := name == "ours" && quantile(medians, 0.5) > 1.2*float64(rtt/time.Millisecond)
				cell = stress(cell, missed) + fmt.Sprintf(" / %.0f", quantile(all, 0.95))
			}
			if failed > 0 {
				cell += fmt.Sprintf(", %.0f failed", failed)
			}
			cells = append(cells, cell)
		}
		t += line(cells...)
	}
	return t + r.origin("distance")
}

// ratioTable is ours beside the others; the short one for 32 callers alone.
func (r run) ratioTable(short bool) string {
	t := header("", "callers", "CPU ÷ stock", "CPU ÷ tuned", "CPU ÷ nginx", "requests/s ÷ stock", "requests/s ÷ tuned", "requests/s ÷ nginx")
	for _, cell := range r.load.rows {
		f := strings.Split(cell, "-")
		if short && f[2] != "32" {
			continue
		}
		row := []string{verbs[f[0]] + sizes[f[1]], f[2]}
		for _, kind := range []int{cpu, rate} {
			for _, other := range others {
				ratios := r.costs(cell, "ours", other, kind)
				text, goal := spread("%.2f", ratios, short), goals[other][f[1]]
				missed := kind == cpu && goal > 0 && len(ratios) > 0 && quantile(ratios, 0.5) > goal
				if missed {
					text += fmt.Sprintf(" > %g", goal)
				}
				row = append(row, stress(text, missed))
			}
		}
		t += line(row...)
	}
	return t + r.origin("load")
}

func (r run) everythingTable() string {
	t := header("", "callers", "", "requests/s", "CPU µs/request", "p50 µs", "p99 µs", "gateway's core busy, %", "the other")
	for _, cell := range r.load.rows {
		f := strings.Split(cell, "-")
		for _, name := range names[1:] {
			row := []string{verbs[f[0]] + sizes[f[1]], f[2], name}
			for kind := range columns {
				row = append(row, spread("%.0f", r.costs(cell, name, "", kind), kind >= core))
			}
			t += line(row...)
		}
	}
	return t
}

func (r run) memoryTable() string {
	t := header("callers at once", "protocol", "idle, MiB", "growth, MiB", "after more of it, MiB", "at most, MiB", "connections to WeChat", "answers")
	for _, f := range r.memory {
		most, missed := "–", false
		if f[3] != "0" {
			most, missed = f[3], slices.Max(floats(f[5])) > floats(f[3])[0]
		}
		spaced := strings.NewReplacer(",", ", ").Replace
		t += line(f[2]+" "+f[0], f[1], spaced(f[4]), stress(spaced(f[5]), missed), f[6], most, f[7], f[8])
	}
	return t + r.origin("memory")
}
