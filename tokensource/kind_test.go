package tokensource

import (
	"errors"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// kindOf returns the kind of failure that err is taken for, and the hint that it has of
// its own.
func kindOf(err error) (kind token.Kind, hint string) {
	if err == nil {
		return "", ""
	}
	var failure *token.Failure
	if errors.As(err, &failure) {
		hint = failure.Hint
	}
	// what quotes a secret is classified; here all of its text is one
	if errors.As(token.WithoutSecrets(err, err.Error()), &failure) {
		kind = failure.Kind
	}
	return kind, hint
}
