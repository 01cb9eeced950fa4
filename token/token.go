package token

// What requests are given: a token that cannot be printed.

import (
	"fmt"
	"io"
	"time"
)

// Token is an access token. It does not change, and prints as nothing under every
// verb.
type Token struct {
	secret  string
	edition uint64 // the same for the same secret until that is rejected
	serial  int64  // of the record that the fleet has of it; 0: it has none

	// all with monotonic readings: setting the clock changes nothing
	obtained time.Time
	refresh  time.Time
	expires  time.Time
}

// Secret returns the token itself.
func (t *Token) Secret() string { return t.secret }

// ExpiresAt returns when the token ends. It has a monotonic reading.
func (t *Token) ExpiresAt() time.Time { return t.expires }

const redactedToken = "[access token]"

// String implements fmt.Stringer. It does not return the token.
func (t *Token) String() string { return redactedToken }

// GoString implements fmt.GoStringer. It does not return the token.
func (t *Token) GoString() string { return redactedToken }

// Format implements fmt.Formatter, so that no verb prints the token.
func (t *Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedToken) }

// MarshalText implements encoding.TextMarshaler, for loggers that print by
// reflection. It does not return the token.
func (t *Token) MarshalText() ([]byte, error) { return []byte(redactedToken), nil }

func (t *Token) usable() bool { return t != nil && time.Now().Before(t.expires) }

func (t *Token) left() time.Duration { return time.Until(t.expires) }

// Interface guards
var (
	_ fmt.Formatter  = (*Token)(nil)
	_ fmt.GoStringer = (*Token)(nil)
)
