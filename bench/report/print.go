package report

// The one table, for a terminal.

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// The contenders, in the order of tables.
const (
	ours           = "ours"
	stock          = "stock"
	tuned          = "tuned"
	nginx          = "nginx"
	nginxBuffering = "nginx-buffering"
	limit          = "limit"
	direct         = "direct"
)

var contenders = []string{ours, stock, tuned, nginx, nginxBuffering, limit, direct}

// Print writes everything that was measured as a table.
func Print(w io.Writer, r *Run) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "cell\tcontender\trequests/s\tagainst ours\tCPU µs/request\tp50 ms\tp99 ms\tpeak MiB\tgateway busy\tothers busy")
	for _, cell := range r.cells() {
		for _, c := range r.contenders() {
			rate := r.of(cell, c, throughput)
			if rate.n == 0 {
				continue
			}
			cpu, peak := "–", "–"
			if c != direct {
				cpu, peak = spread(r.of(cell, c, gatewayCPU), 1), spread(r.of(cell, c, peakMiB), 0)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f %%\t%.0f %%\n", cell, c, spread(rate, 0),
				spread(r.ratio(cell, ours, c, throughput), 2), cpu,
				spread(scaled(r.of(cell, c, p50), 1e-3), 2), spread(scaled(r.of(cell, c, p99), 1e-3), 2), peak,
				100*r.of(cell, c, busy).median, 100*r.of(cell, c, othersBusy).median)
		}
	}
	return t.Flush()
}

func scaled(s stat, by float64) stat {
	return stat{median: s.median * by, min: s.min * by, max: s.max * by, n: s.n}
}

// spread is a median with what the rounds had at the least and the most.
func spread(s stat, digits int) string {
	if s.n == 0 {
		return "–"
	}
	if s.n == 1 {
		return number(s.median, digits)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median, digits), number(s.min, digits), number(s.max, digits))
}
