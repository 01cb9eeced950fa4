package report

// The tables of a thousand callers.

import "fmt"

// start is a kind of cold start.
type start struct {
	contender string
	delay     int
}

func (s start) words() string {
	if s.delay > 0 {
		return fmt.Sprintf("%s, with a token endpoint that takes %d ms", s.contender, s.delay)
	}
	return s.contender
}

func coldTable(r *Run) string {
	if len(r.ColdStarts) == 0 {
		return ""
	}
	var kinds []start
	seen := map[start]bool{}
	for _, c := range r.ColdStarts {
		if kind := (start{c.Contender, c.TokenDelayMS}); !seen[kind] {
			seen[kind] = true
			kinds = append(kinds, kind)
		}
	}
	var rows [][]string
	for _, kind := range kinds {
		of := func(f func(ColdStart) float64) stat {
			var values []float64
			for _, c := range r.ColdStarts {
				if kind == (start{c.Contender, c.TokenDelayMS}) {
					values = append(values, f(c))
				}
			}
			return newStat(values)
		}
		rows = append(rows, []string{
			kind.words(),
			spread(of(func(c ColdStart) float64 { return c.First.P50 / 1e3 }), 0),
			spread(of(func(c ColdStart) float64 { return c.First.P99 / 1e3 }), 0),
			spread(of(func(c ColdStart) float64 { return c.P99 / 1e3 }), 0),
			spread(of(func(c ColdStart) float64 { return float64(c.Fetches) }), 0),
		})
	}
	return table([]string{"cold start", "first requests: p50 ms", "p99 ms", "afterwards: p99 ms", "tokens fetched"}, rows)
}

func rotationTable(r *Run) string {
	if len(r.Windows) == 0 {
		return ""
	}
	var rows [][]string
	for _, kind := range []struct{ kind, words string }{
		{Steady, "nothing happened to the token"},
		{Replaced, "token fetched ahead of its expiry"},
		{Revoked, "token revoked"},
	} {
		n := 0
		of := func(f func(Window) float64) stat {
			var values []float64
			for _, w := range r.Windows {
				if w.Kind == kind.kind {
					values = append(values, f(w))
				}
			}
			n = len(values)
			return newStat(values)
		}
		row := []string{
			kind.words, "",
			spread(of(func(w Window) float64 { return w.Work / w.Seconds }), 0),
			spread(of(func(w Window) float64 { return w.P50 / 1e3 }), 0),
			spread(of(func(w Window) float64 { return w.P99 / 1e3 }), 0),
			spread(of(func(w Window) float64 { return w.Max / 1e3 }), 0),
			spread(of(func(w Window) float64 { return float64(w.Rejected) }), 0),
			spread(of(func(w Window) float64 { return float64(w.Fetches) }), 0),
		}
		row[1] = fmt.Sprint(n)
		rows = append(rows, row)
	}
	return table([]string{"window of 2 s", "windows", "requests/s", "p50 ms", "p99 ms", "slowest ms", "refused by the upstream and repeated", "tokens fetched"}, rows)
}
