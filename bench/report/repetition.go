package report

// Whether a second run says the same.

import (
	"fmt"
	"math"
)

// repetition compares the ratios of two runs.
func repetition(first, second *Run) string {
	total, within, touching, most, median := 0, 0, 0, 0.0, []float64(nil)
	for _, cell := range first.cells() {
		for _, c := range comparisons {
			a, b := first.ratio(cell, ours, c.other, c.figure), second.ratio(cell, ours, c.other, c.figure)
			if a.n == 0 || b.n == 0 {
				continue
			}
			total++
			if a.min <= b.median && b.median <= a.max {
				within++
			}
			if a.min <= b.max && b.min <= a.max {
				touching++
			}
			off := math.Abs(b.median/a.median - 1)
			median = append(median, off)
			most = max(most, off)
		}
	}
	return fmt.Sprintf("A second run, on %s, gave %d of these %d ratios within the spread stated here, and %d with a spread that "+
		"touches it; its medians differ by %.1f %% (median) and %.1f %% (at the most).\n",
		second.Environment.Date, within, total, touching, 100*newStat(median).median, 100*most)
}
