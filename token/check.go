package token

// What is believed of a source.

import (
	"time"
)

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
