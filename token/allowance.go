package token

// How many calls may be made: some at once, and then one after another.

import "time"

// allowance is a number of calls that may be made at once, and the time after
// which one more may be. Its zero value allows none.
type allowance struct {
	burst int
	every time.Duration

	spent float64 // what is not there of burst
	at    time.Time
}

func (a *allowance) pay(now time.Time) {
	if !a.at.IsZero() {
		a.spent = max(0, a.spent-float64(now.Sub(a.at))/float64(a.every))
	}
	a.at = now
}

// has reports whether a call may be made.
func (a *allowance) has(now time.Time) bool {
	a.pay(now)
	return a.spent+1 <= float64(a.burst)
}

// take uses up a call, if one may be made.
func (a *allowance) take(now time.Time) bool {
	if !a.has(now) {
		return false
	}
	a.spent++
	return true
}
