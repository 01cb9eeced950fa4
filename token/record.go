package token

// What a fleet keeps in its store: the token, the books of calls, and a sign of life
// of whoever fetches. The version of their format is part of their keys.

import (
	"encoding/json"
	"slices"
	"time"
)

// keyPrefix has the version in it, so that gateways of two versions in one fleet
// leave each other's records alone. What follows is the digest of the identity. The
// lock has a name of its own: some stores lock by the record's name, and empty it.
const keyPrefix = "wechat/tokens/v2/"

const (
	// clockSlack is how far the clocks of a fleet may be apart. Books that are
	// farther in the future than this are not believed.
	clockSlack = 10 * time.Minute

	// The calls of the whole fleet, on record: 100 at once, and then one a minute,
	// which is 1,540 in a day at the worst. /cgi-bin/token allows 2,000.
	fleetBurst = 100
	fleetEvery = time.Minute
)

// record is a token in the store. Times are Unix milliseconds by the clock of the
// gateway that wrote them.
type record struct {
	// Serial only grows: it is the time of writing, or one more than the serial
	// before if that is more. So it grows although the store loses everything, and
	// whatever the clocks say.
	Serial    int64  `json:"serial"`
	Token     string `json:"access_token"`
	IssuedAt  int64  `json:"issued_at"`            // when the issuer was asked
	ExpiresIn int64  `json:"expires_in"`           // milliseconds, from then on
	RefreshIn int64  `json:"refresh_in,omitempty"` // likewise; 0: shortly before the end
}

// parseRecord returns nil for what makes no sense: torn, or of another time.
func parseRecord(raw []byte) *record {
	r := new(record)
	if json.Unmarshal(raw, r) != nil || r.Serial <= 0 || r.ExpiresIn <= 0 || r.ExpiresIn > maxLifetime.Milliseconds() ||
		r.RefreshIn < 0 || CheckToken(r.Token) != nil {
		return nil
	}
	return r
}

func (r *record) life() time.Duration { return time.Duration(r.ExpiresIn) * time.Millisecond }

func (r *record) reply() Reply {
	return Reply{AccessToken: r.Token, ExpiresIn: r.life(), RefreshIn: time.Duration(r.RefreshIn) * time.Millisecond}
}

// books are the calls that a fleet has made.
type books struct {
	Spent   float64 `json:"spent"` // of fleetBurst
	SpentAt int64   `json:"spent_at"`
	Forced  []int64 `json:"forced,omitempty"` // the forced calls of the last day
}

// enter notes a call that is about to be made, and reports whether it may be, and
// be forced.
func (b *books) enter(now time.Time, force bool) (ok, forced bool) {
	if b.SpentAt > now.Add(clockSlack).UnixMilli() {
		b.Spent, b.SpentAt = 0, 0 // books of the future would never be paid off
	}
	at := max(now.UnixMilli(), b.SpentAt) // clocks that are apart must not hand out calls
	a := allowance{burst: fleetBurst, every: fleetEvery, spent: min(max(0, b.Spent), fleetBurst), at: time.UnixMilli(b.SpentAt)}
	ok = a.take(time.UnixMilli(at))
	b.Spent, b.SpentAt = a.spent, at
	b.Forced = slices.DeleteFunc(b.Forced, func(then int64) bool { return at-then >= (24*time.Hour).Milliseconds() || then > at })
	n := len(b.Forced)
	forced = ok && force && n < forcedPerDay && (n == 0 || at-b.Forced[n-1] >= forcedGap.Milliseconds())
	if forced {
		b.Forced = append(b.Forced, at)
	}
	return ok, forced
}

// sign is the sign of life of a gateway that fetches. No clock is compared: who
// fetches is alive as long as the count changes.
type sign struct {
	ID    string `json:"id"` // of the fetch; random
	Count int    `json:"count"`
	Done  bool   `json:"done"`
}

// parseBooks returns new books for what makes no sense.
func parseBooks(raw []byte) (b books) {
	if json.Unmarshal(raw, &b) != nil {
		return books{}
	}
	return b
}
