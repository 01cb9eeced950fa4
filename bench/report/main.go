// Command report makes the tables of README.md, and those that other documents take
// from here, out of the figures of a run: report, check (whether they are what the
// figures give) or print with a directory of figures.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

const begin, end = "<!-- tables -->\n", "<!-- end of tables -->"

func main() {
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "print":
		fmt.Print(read(args[1]).tables())
	case len(args) == 1 && args[0] == "report":
		for name, text := range documents() {
			fail(os.WriteFile(name, []byte(text), 0o644))
		}
	case len(args) == 1 && args[0] == "check":
		for name, text := range documents() {
			if is, err := os.ReadFile(name); err != nil || string(is) != text {
				fail(fmt.Errorf("%s is not what the figures in results/ give; run.sh --report mends that", name))
			}
		}
	default:
		fail(fmt.Errorf("report report | check | print <directory>"))
	}
}

// documents are all files that are made of figures, as they have to be.
func documents() map[string]string {
	r := read("results/first")
	old, err := os.ReadFile("README.md")
	fail(err)
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		fail(fmt.Errorf("README.md has no place for tables"))
	}
	tables := r.tables()
	if second := read("results/second"); len(second.load)+len(second.distance) > 0 {
		tables += "\n" + r.repetition(second)
	}
	short := slices.Concat(r.distanceTable(true), []string{""}, r.ratioTable(true), []string{""})
	return map[string]string{
		"README.md":           before + begin + tables + end + after,
		"benchmarks-table.md": strings.Join(short, "\n"),
		"plot.dat":            r.plot(),
	}
}

func (r *run) tables() string {
	return strings.Join(slices.Concat(
		[]string{"Medians, with the least and the most of all rounds; bold is what misses a goal.", "",
			fmt.Sprintf("### At a distance of %d ms", roundTrip), ""}, r.picture(), r.distanceTable(false),
		[]string{"", "### Beside other ways: ratios", ""}, r.ratioTable(false),
		[]string{"", "### Beside other ways: figures", ""}, r.everythingTable(),
		[]string{"", "### Memory: growth of the process", ""}, r.memoryTable(), []string{""}), "\n")
}

func (r *run) picture() []string {
	if len(r.rows) == 0 {
		return nil
	}
	return []string{"![What one caller waits for](plot.svg)", ""}
}

// plot has what plot.gp draws: the p50 of a lone caller, a row for each kind of connection.
func (r *run) plot() string {
	out := "\"\"\t" + strings.Join(callers, "\t") + "\n"
	for _, row := range r.rows {
		f := strings.Split(row, "\t")
		if f[2] != "1" || strings.HasSuffix(f[1], " after 25 s") || strings.HasPrefix(f[1], "upload after") {
			continue
		}
		out += fmt.Sprintf(`"%s"`, strings.NewReplacer(" after", `\nafter`, ", ", `,\n`).Replace(f[1]+", "+f[0]))
		for _, name := range callers {
			if w := r.distance[row+name]; w != nil {
				out += fmt.Sprintf("\t%.1f", quantile(w.rounds, 0.5))
			} else {
				out += "\t?"
			}
		}
		out += "\n"
	}
	return out
}
