package token

// A token: what requests are given, which cannot be printed, and what can be one at all.

import (
	"encoding"
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

// Format implements fmt.Formatter, so that no verb prints the token.
func (t *Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedToken) }

// MarshalText implements encoding.TextMarshaler, for loggers that print by
// reflection. It does not return the token.
func (t *Token) MarshalText() ([]byte, error) { return []byte(redactedToken), nil }

func (t *Token) usable() bool { return t != nil && time.Now().Before(t.expires) }

func (t *Token) left() time.Duration { return time.Until(t.expires) }

const (
	// maxTokenLength is the longest token that is believed, in bytes. WeChat asks
	// for room for 512.
	maxTokenLength = 2 << 10

	// maxLifetime is the longest that a token is used without asking again.
	maxLifetime = 24 * time.Hour
)

// CheckToken makes sure that t can be a token at all, whoever issued it: 1 to 2,048
// bytes, all of them visible ASCII. Its error does not quote t.
func CheckToken(t string) error {
	switch {
	case t == "":
		return BadReply("no access_token")
	case len(t) > maxTokenLength:
		return BadReply("an access_token of %d bytes", len(t))
	}
	for _, r := range t {
		if r <= ' ' || r > '~' {
			return BadReply("an access_token with unexpected characters")
		}
	}
	return nil
}

// checkReply holds what came back against what a token is.
func checkReply(r *Reply) error {
	if err := CheckToken(r.AccessToken); err != nil {
		return err
	}
	if r.ExpiresIn <= 0 {
		return BadReply("the token has expired")
	}
	r.ExpiresIn = min(r.ExpiresIn, maxLifetime)
	return nil
}

// Interface guards
var (
	_ encoding.TextMarshaler = (*Token)(nil)
	_ fmt.Formatter          = (*Token)(nil)
)
