// Command report makes the tables of README.md, and those that other documents take
// from here, out of the figures of a run: report, check (whether they are what the
// figures give) or print with a directory of figures.
package main

import (
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
)

const (
	begin, end   = "<!-- tables -->\n", "<!-- end of tables -->"
	readme       = "README.md"
	shortTables  = "benchmarks-table.md"
	plotted      = "plot.dat"
	first, again = "results/first", "results/second"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) == 3 && os.Args[1] == "print" {
		r, err := read(os.Args[2])
		fail(err)
		fmt.Print(r.tables())
		return
	}
	if len(os.Args) != 2 || os.Args[1] != "report" && os.Args[1] != "check" {
		log.Fatal("report report | check | print <directory>")
	}
	for name, text := range documents() {
		if os.Args[1] == "report" {
			fail(os.WriteFile(name, []byte(text), 0o644))
			continue
		}
		if is, err := os.ReadFile(name); err != nil || string(is) != text {
			log.Fatalf("%s is not what the figures in results/ give; run.sh --report mends that", name)
		}
	}
}

// documents are all files that are made of figures, as they have to be.
func documents() map[string]string {
	r, err := read(first)
	fail(err)
	old, err := os.ReadFile(readme)
	fail(err)
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		log.Fatalf("%s has no place for tables", readme)
	}
	tables := r.tables()
	if second, err := read(again); err == nil {
		tables = strings.Replace(tables, "\n\n", "\n"+r.repetition(second)+"\n\n", 1)
	}
	return map[string]string{
		readme:      before + begin + tables + end + after,
		shortTables: r.short(),
		plotted:     r.plot(),
	}
}

func (r *run) tables() string {
	return fmt.Sprintf(`Medians, with the least and the most of all rounds; bold is what misses a goal.

### At a distance of %d ms

![What one caller waits for](plot.svg)

%s
%s.

### Cost beside other ways, ratios

%s
%s.

### Cost beside other ways, figures

%s
### Memory

%s
%s.
`, roundTrip, r.distanceTable(false), r.origins["distance"], r.ratioTable(), r.origins["load"], r.everythingTable(),
		r.memoryTable(), r.origins["memory"])
}

// short is for other documents.
func (r *run) short() string {
	return r.distanceTable(true) + "\n" + r.origins["distance"] + ".\n\n" + r.shortTable() + "\n" + r.origins["load"] + ".\n"
}

// plot has what plot.gp draws: the p50 of a lone caller, a row for each kind of connection.
func (r *run) plot() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\"\"\t%s\n", strings.Join(callers, "\t"))
	for _, row := range r.rows {
		f := strings.Split(row, "\t")
		if f[2] != "1" || !slices.Contains([]string{"download", "upload", "download after 60 s"}, f[1]) {
			continue
		}
		label := strings.NewReplacer(" after", `\nafter`, ", ", `,\n`).Replace(f[1] + ", " + f[0])
		fmt.Fprintf(&out, `"%s"`, label)
		for _, name := range callers {
			value := "?"
			if w := r.distance[row][name]; w != nil {
				value = fmt.Sprintf("%.1f", quantile(w.all, 0.5))
			}
			fmt.Fprintf(&out, "\t%s", value)
		}
		fmt.Fprintln(&out)
	}
	return out.String()
}

func fail(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
