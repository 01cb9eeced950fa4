package wechatmedia

// What a token source is: the guest module that knows where tokens come from.

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
)

// TokenSource is where access tokens of an app come from. It is a guest module
// in the namespace `http.wechat.token_sources`.
//
// FetchToken is called for one app at a time, never while a config is being
// loaded, and with a deadline that it must keep. It caches nothing: when to call
// and how often is decided elsewhere. An error must not quote a secret or a
// token; one that is or wraps an *ErrcodeError gets the treatment that fits
// WeChat's code.
//
// A source may also be a SecretRequirer, a ShareRequirer, a ForceRefresher or a
// QueryParamer.
type TokenSource interface {
	FetchToken(ctx context.Context, req TokenRequest) (TokenReply, error)
}

// TokenRequest is what a source is told.
type TokenRequest struct {
	// The app, and its secret, which is empty if none is configured.
	AppID, AppSecret string

	// The token that WeChat has just refused, or nothing. A source that stores
	// tokens must not hand it out from there; one that asks the issuer may.
	Rejected string

	// Whether the issuer is to be made to issue a new token. Only ever true for a
	// ForceRefresher.
	ForceRefresh bool

	// The client to call WeChat with. It goes out as the media requests do, with
	// the same egress proxy, local address and TLS trust; it follows no redirect
	// and has a timeout.
	Client *http.Client

	// WeChat's base URLs, scheme://host[:port], in order of preference.
	BaseURLs []string
}

// TokenReply is a token.
type TokenReply struct {
	AccessToken string

	// How long the token is good for from the moment FetchToken was called.
	ExpiresIn time.Duration

	// When to ask again, from the same moment. 0 leaves it to the manager, which
	// asks shortly before the token expires.
	RefreshIn time.Duration
}

// SecretRequirer is a token source that may not do without an AppSecret.
type SecretRequirer interface{ NeedsSecret() bool }

// ShareRequirer is a token source that may not work unshared, because getting a
// token ends the life of the one before, which other gateways still use.
type ShareRequirer interface{ NeedsSharing() bool }

// ForceRefresher is a token source that the operator has allowed to have tokens
// replaced before their time.
type ForceRefresher interface{ AllowsForceRefresh() bool }

// QueryParamer is a token source whose tokens go into another query parameter
// than `access_token`.
type QueryParamer interface{ QueryParam() string }

// tokenOptionsOf returns what the manager must know of a source.
func tokenOptionsOf(source any) tokenOptions {
	var opts tokenOptions
	if f, ok := source.(ForceRefresher); ok {
		opts.forceRefresh = f.AllowsForceRefresh()
	}
	if s, ok := source.(interface{ tune(*tokenOptions) }); ok {
		s.tune(&opts)
	}
	return opts
}

// fetchToken asks source, which may be somebody else's, and sees to it that what
// comes back is a token, and that an error does not carry a secret.
func fetchToken(ctx context.Context, source TokenSource, req TokenRequest) (TokenReply, error) {
	reply, err := source.FetchToken(ctx, req)
	if err != nil {
		return TokenReply{}, withoutSecrets(err, req.AppSecret, req.Rejected)
	}
	if err := checkToken(reply.AccessToken); err != nil {
		return TokenReply{}, err
	}
	if reply.ExpiresIn <= 0 {
		return TokenReply{}, badReply("the token has expired")
	}
	return reply, nil
}

// shortestSecret keeps a header field such as `1` from being cut out of messages.
const shortestSecret = 4

// withoutSecrets replaces an error that quotes one of secrets, classified as the
// error was.
func withoutSecrets(err error, secrets ...string) error {
	msg := err.Error()
	for _, s := range secrets {
		if len(s) >= shortestSecret && strings.Contains(msg, s) {
			msg = strings.ReplaceAll(msg, s, "[redacted]")
		}
	}
	if msg == err.Error() {
		return err
	}
	f := classify(err)
	f.err = errors.New(msg)
	return f
}
