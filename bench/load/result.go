package load

// What a measurement comes to.

import (
	"slices"
	"time"
)

// Result is a measurement.
type Result struct {
	Window

	// of each caller's first request, when all begin at once
	First Latencies `json:"first"`

	Windows []Window `json:"windows,omitempty"`
}

// Window is a part of a measurement, or the whole.
type Window struct {
	Seconds float64 `json:"seconds"`

	// Work is how many requests were done. Of one that began before or ended after,
	// it is the part of its time that is inside: many large ones that keep in step
	// would otherwise be counted or missed together.
	Work float64 `json:"work"`

	Latencies
	CPU
}

// Latencies are of the requests that were answered in one stretch of time, in
// microseconds.
type Latencies struct {
	Requests int     `json:"requests"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	Max      float64 `json:"max_us"`
}

func newResult(callers []*caller, marks []mark) *Result {
	var first []time.Duration
	for _, c := range callers {
		first = append(first, c.samples[0].took)
	}
	last := len(marks) - 1
	r := &Result{Window: newWindow(callers, marks[0], marks[last]), First: newLatencies(first)}
	if last > 1 {
		for i := range last {
			r.Windows = append(r.Windows, newWindow(callers, marks[i], marks[i+1]))
		}
	}
	return r
}

func newWindow(callers []*caller, begin, end mark) Window {
	var took []time.Duration
	work := 0.0
	for _, c := range callers {
		for _, s := range c.samples {
			if inside := min(s.end, end.at) - max(s.end-s.took, begin.at); inside > 0 {
				work += float64(inside) / float64(s.took)
			}
			if begin.at <= s.end && s.end < end.at {
				took = append(took, s.took)
			}
		}
	}
	return Window{
		Seconds: (end.at - begin.at).Seconds(), Work: work, Latencies: newLatencies(took), CPU: end.cpu.minus(begin.cpu),
	}
}

func newLatencies(took []time.Duration) Latencies {
	if len(took) == 0 {
		return Latencies{}
	}
	slices.Sort(took)
	at := func(share float64) float64 {
		return float64(took[int(share*float64(len(took)-1))].Nanoseconds()) / 1e3
	}
	return Latencies{Requests: len(took), P50: at(0.5), P99: at(0.99), Max: at(1)}
}
