package token

// When a token is asked for again, and how often at the most.

import "time"

const (
	// The refresh ahead happens at a random moment within this window before
	// expiry, so that a fleet with one token does not ask in one second. WeChat's
	// stable_token has nothing new to give before the last 5 minutes. The window's
	// late end leaves room for retries.
	refreshEarliest = 270 * time.Second
	refreshLatest   = 120 * time.Second

	// A token of a shorter life is refreshed within this part of it.
	refreshEarliestShare = 0.5
	refreshLatestShare   = 0.3

	// refreshInJitter is the part of a source's own interval that may be missing
	// from it, for the same reason.
	refreshInJitter = 0.1

	// minRefresh keeps tokens that live no time at all from being asked for
	// without pause.
	minRefresh = 500 * time.Millisecond
)

// refreshIn says when to ask again, counted from when the issuer was asked.
func (m *Manager) refreshIn(reply Reply) time.Duration {
	life := float64(reply.ExpiresIn)
	from := min(float64(refreshEarliest), refreshEarliestShare*life)
	to := min(float64(refreshLatest), refreshLatestShare*life)
	before := to + m.jitter()*(from-to)
	in := reply.ExpiresIn - time.Duration(before)
	if reply.RefreshIn > 0 {
		early := time.Duration(refreshInJitter * m.jitter() * float64(reply.RefreshIn))
		in = min(in, reply.RefreshIn-early) // with time for retries before the end
	}
	return max(minRefresh, in)
}

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
