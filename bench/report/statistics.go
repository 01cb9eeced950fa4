package report

// Medians and spreads over rounds.

import (
	"cmp"
	"slices"
)

// stat is a median with the least and the most of all rounds.
type stat struct {
	median, min, max float64
	n                int
}

func newStat(values []float64) stat {
	if len(values) == 0 {
		return stat{}
	}
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return stat{median: (values[(n-1)/2] + values[n/2]) / 2, min: values[0], max: values[n-1], n: n}
}

// metric is one figure of a measurement.
type metric func(Measurement) float64

func throughput(m Measurement) float64 { return m.Work / m.Seconds }
func gatewayCPU(m Measurement) float64 { return float64(m.Gateway) / 1e3 / m.Work }
func p50(m Measurement) float64        { return m.P50 }
func p99(m Measurement) float64        { return m.P99 }
func peakMiB(m Measurement) float64    { return float64(m.PeakKiB) / 1024 }

// busy is the share of a core that the gateway had.
func busy(m Measurement) float64 { return float64(m.Gateway) / 1e9 / m.Seconds }

// othersBusy is what upstream and callers had together.
func othersBusy(m Measurement) float64 { return float64(m.Upstream+m.Load) / 1e9 / m.Seconds }

// of is the statistic of a contender's figure in a cell.
func (r *Run) of(cell, contender string, f metric) stat {
	var values []float64
	for _, m := range r.Measurements {
		if m.Cell == cell && m.Contender == contender {
			values = append(values, f(m))
		}
	}
	return newStat(values)
}

// combine is the statistic of what with makes of the figures that a and b had in
// the same round: they were taken one soon after the other.
func (r *Run) combine(cell, a, b string, f metric, with func(a, b float64) float64) stat {
	of := map[int]float64{}
	for _, m := range r.Measurements {
		if m.Cell == cell && m.Contender == b {
			of[m.Round] = f(m)
		}
	}
	var values []float64
	for _, m := range r.Measurements {
		if other, ok := of[m.Round]; ok && m.Cell == cell && m.Contender == a {
			values = append(values, with(f(m), other))
		}
	}
	return newStat(values)
}

// ratio is how a's figure compares to b's.
func (r *Run) ratio(cell, a, b string, f metric) stat {
	return r.combine(cell, a, b, f, func(a, b float64) float64 { return a / b })
}

// difference is what a's figure is over b's.
func (r *Run) difference(cell, a, b string, f metric) stat {
	return r.combine(cell, a, b, f, func(a, b float64) float64 { return a - b })
}

// cells are those that were measured: downloads first, by size and then callers.
func (r *Run) cells() []string {
	all := r.distinct(func(m Measurement) string { return m.Cell })
	slices.SortStableFunc(all, func(a, b string) int {
		x, y := parseCell(a), parseCell(b)
		return cmp.Or(cmp.Compare(b2i(x.upload), b2i(y.upload)), cmp.Compare(x.size, y.size), cmp.Compare(x.concurrency, y.concurrency))
	})
	return all
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// contenders are those that were measured, in the order of tables.
func (r *Run) contenders() []string {
	had := r.distinct(func(m Measurement) string { return m.Contender })
	return slices.DeleteFunc(slices.Clone(contenders), func(c string) bool { return !slices.Contains(had, c) })
}

func (r *Run) distinct(of func(Measurement) string) (all []string) {
	for _, m := range r.Measurements {
		if s := of(m); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}
