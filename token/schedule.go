package token

// When a token is asked for again.

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
	before := to + m.opts.jitter()*(from-to)
	in := reply.ExpiresIn - time.Duration(before)
	if reply.RefreshIn > 0 {
		early := time.Duration(refreshInJitter * m.opts.jitter() * float64(reply.RefreshIn))
		in = min(in, reply.RefreshIn-early) // with time for retries before the end
	}
	return max(minRefresh, in)
}
