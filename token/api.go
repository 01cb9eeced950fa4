// Package token is the life of an access token: fetched once for all who wait,
// refreshed ahead of its end, replaced when it is rejected, shared by a fleet, and
// never asked for more often than its issuer can bear. It knows nothing of Caddy.
//
// A [Manager] keeps one token, for one app and issuer. Configurations attach a
// [Binding] to it, which says how the token is fetched, and start the binding once
// they run; the manager outlives them. Where tokens come from is a [Source]; to write
// one of your own, see its example.
//
// Requests ask for the [Manager.Token], and say when it was refused: [Manager.Reject]
// returns the one to try again with. Neither is ever the cause of more than one call
// to the issuer at a time, or of one that just failed.
//
// With a [Store], gateways share the token. Whoever finds it due, or refused, looks
// into the store first, claims the right to fetch there, fetches, and stores what it
// got; the others wait for that as long as it gives signs of life. A store that fails
// costs no request: a gateway whose token lasts goes on with it, and one that needs a
// token gets it for itself.
package token

// What a manager, its bindings and its sources tell each other.

import (
	"context"
	"net/http"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
)

// Identity tells tokens apart: two bindings of one identity use one token.
type Identity struct {
	// AppID is the account's, with whatever else tells several secrets of it apart.
	AppID string

	// Issuer is where calls go: the domain of WeChat's hosts, or the addresses of
	// whatever stands in for them.
	Issuer string

	// Source is the source's [Traits.Identity].
	Source string
}

// Source is where access tokens of an app come from.
//
// Fetch is called for one app at a time, never while a config is only being loaded,
// and with a deadline that it must keep. It caches nothing: when to call and how
// often is decided by the Manager. An error must not quote a secret or a token; one
// that is or wraps an *[ErrcodeError] or a *[Failure] gets the back-off and the log
// line that fit it.
type Source interface {
	Fetch(ctx context.Context, req Request) (Reply, error)
	Traits() Traits
}

// Traits is what the manager has to know of a source. They do not change once the
// source is provisioned.
type Traits struct {
	// Identity is what sets the source's tokens apart from those that other sources
	// have for the same app and issuer: its name, and its URL, say. It may have a
	// secret in it; it is only ever hashed.
	Identity string

	// NeedsSecret: an AppSecret has to be configured.
	NeedsSecret bool

	// NeedsSharing: the token cannot be fetched by two gateways side by side, because
	// each call ends the life of the token before.
	NeedsSharing bool

	// NotShared, if it is not empty, says why share_token makes no sense here.
	NotShared string

	// MayForce: the operator allows that the issuer is made to replace a token.
	MayForce bool

	// AsksUpstream: calls go to the reverse_proxy's upstreams, through Request.Client
	// and Request.BaseURL. Otherwise they go wherever the source has them go.
	AsksUpstream bool

	// Polls: asking costs the issuer nothing, as with a file; it may be done every
	// few seconds.
	Polls bool

	// Param is the query parameter that the token goes into. Default: access_token.
	Param string

	// Platform is WeChat or WeCom, if the tokens can be of no other. Default: what the
	// app's id looks like.
	Platform string

	// Hints replace what the operator is told to do, by kind of failure. In that of
	// KindIP, an address that WeChat names takes the place of what is in braces, as in
	// "allow {this machine's public IP address}".
	Hints map[Kind]string
}

// Request is what a source is told.
type Request struct {
	// The app, and its secret, which is empty if none is configured.
	AppID, AppSecret string

	// The token that was refused, or nothing. A source that stores tokens must not
	// hand it out from there; one that asks the issuer may.
	Rejected string

	// Whether the issuer is to be made to issue a new token. Only ever true if the
	// traits say MayForce.
	Force bool

	// The client to call with. What is sent to BaseURL takes the way of media
	// requests in every respect: upstreams, failover, Host, egress proxy. Other URLs
	// are reached through the same egress proxy, local address and TLS trust. It
	// follows no redirect and has a timeout.
	Client *http.Client

	// WeChat, as Client knows it: scheme://host.
	BaseURL string
}

// Reply is a token.
type Reply struct {
	AccessToken string

	// How long the token is good for from the moment Fetch was called.
	ExpiresIn time.Duration

	// When to ask again, from the same moment. 0 leaves it to the manager, which
	// asks shortly before the token expires.
	RefreshIn time.Duration
}

// Store is where a fleet keeps its token. A certmagic.Storage is one. Load returns
// an error that is fs.ErrNotExist if there is nothing.
type Store interface {
	Load(ctx context.Context, key string) ([]byte, error)
	Store(ctx context.Context, key string, value []byte) error
	Lock(ctx context.Context, key string) error
	Unlock(ctx context.Context, key string) error
}

// Binding is what a configuration lends a manager, which outlives it.
type Binding struct {
	Source  Source
	Request Request // what every call has in common: the app, its secret, client and URL

	// Store is where the token is shared; nil: it is not.
	Store Store

	// Observe, which may be nil, is told what happens, one event after another, on a
	// goroutine that nothing waits for. Only started bindings observe, and each event
	// goes to one of them.
	Observe func(Event)
}

// Kind names a failure. The set is closed.
type Kind = errcode.Kind

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	// Refreshed: there is a new token, fetched by this gateway.
	Refreshed EventKind = "refreshed"
	// Adopted: there is a new token, which another gateway has put into the store.
	Adopted EventKind = "adopted"
	// Confirmed: a new one was asked for, and the issuer had none yet.
	Confirmed EventKind = "confirmed"
	// Failed: a call failed, or was not made because of the gateway's own limits.
	Failed EventKind = "failed"
	// Rejected: the current token was refused by WeChat.
	Rejected EventKind = "rejected"
	// StoreFailed and StoreRecovered are about the store: an access failed that
	// followed on one which had not, and the other way around.
	StoreFailed    EventKind = "store_failed"
	StoreRecovered EventKind = "store_recovered"
)

// Event is something that happened to a token. It has neither token nor secret in it.
type Event struct {
	Kind EventKind

	// Whether the issuer was called, as opposed to the store, or to a limit of the
	// gateway's own.
	Called bool

	// when refreshed, confirmed or failed
	Took    time.Duration
	Forced  bool
	NextTry time.Time

	// Missed is how many events before this one were forgotten, because the observer
	// was too slow.
	Missed int

	// ExpiresAt is when the token at hand expires; zero: there is none.
	ExpiresAt time.Time

	// when refreshed: whether a rejected token came back
	Repeated bool

	// when failed
	Failure  Kind
	Err      error
	Hint     string // what the operator must do, in one line
	Failures int    // in a row

	// when failed, or rejected; 0 if WeChat gave none
	Errcode int
}

// Status is the state of a manager. Times are for people to read.
type Status struct {
	HasToken   bool
	ObtainedAt time.Time
	ExpiresAt  time.Time

	Fetching bool
	NextTry  time.Time // zero: none is due
	LastTry  time.Time // of a call to the issuer

	// the failure since the last success; FailuresInARow is 0 if there was none
	FailuresInARow int
	Failure        Kind
	Errcode        int
	Error          string
	Hint           string
	FailedAt       time.Time

	// Shared: a started binding has a store. StoreError is what its last access ended
	// with, empty if that went well.
	Shared     bool
	StoreError string

	// since the manager began; Fetches are calls to the issuer
	Fetches, Failures, Rejections int64
	StoreLooks, StoreFailures     int64
}
