package token

// What can go wrong when a token is asked for: how each failure is named, how
// long it is remembered, and what the operator must do about it.

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
)

// The kinds of failure. A source that knows better than the manager which one it
// met returns a *[Failure].
const (
	KindBusy      = errcode.KindBusy      // WeChat's -1
	KindNetwork   = errcode.KindNetwork   // no connection, or one that broke
	KindTimeout   = errcode.KindTimeout   // no answer in time
	KindReply     = errcode.KindReply     // an answer that makes no sense
	KindQuota     = errcode.KindQuota     // called too often
	KindSecret    = errcode.KindSecret    // the AppSecret is not the app's
	KindAppID     = errcode.KindAppID     // there is no such app
	KindIP        = errcode.KindIP        // this machine is not on the account's whitelist
	KindFrozen    = errcode.KindFrozen    // somebody froze the AppSecret
	KindAccount   = errcode.KindAccount   // the account may not have tokens
	KindComponent = errcode.KindComponent // a third-party platform holds the account
	KindConfirm   = errcode.KindConfirm   // an administrator has to allow this machine
	KindDenied    = errcode.KindDenied    // an administrator did not
	KindRequest   = errcode.KindRequest   // the issuer does not understand the request
	KindFile      = errcode.KindFile      // no file, or no token in it
	KindSource    = errcode.KindSource    // everything else: a token server, another source
	KindBudget    = errcode.KindBudget    // the gateway's own limit on calls
)

// backOff says for how long a failure is remembered: first, then twice as long
// each time, and never longer than most. A quarter more is added at random, so
// that a fleet which failed as one does not come back as one.
type backOff struct{ first, most time.Duration }

const backOffJitter = 0.25

var (
	// Passes by itself. With the jitter no wait is longer than a minute.
	backOffSoon = backOff{time.Second, 48 * time.Second}
	// Costs next to nothing to try.
	backOffFile = backOff{time.Second, 4 * time.Second}
	// Passes by itself, and every further call counts against the quota.
	backOffQuota = backOff{time.Minute, 8 * time.Minute}
	// Passes when a human does something.
	backOffHuman = backOff{time.Minute, 4 * time.Minute}
	// WeChat messages an administrator for each call.
	backOffConfirm = backOff{4 * time.Minute, 16 * time.Minute}
	// WeChat answers so for an hour or a day.
	backOffDenied = backOff{5 * time.Minute, 40 * time.Minute}
)

// addressInHint is what an address that WeChat names takes the place of.
var addressInHint = regexp.MustCompile(`\{(.*?)\}`)

// kindTraits is what there is to know of a kind of failure.
type kindTraits struct {
	backOff backOff

	// Whether it may be one binding's alone, by its network, machine or secret, so
	// that it pays to go through another one.
	own bool

	// What the operator must do, in one line; it takes the place of a stack of
	// questions. A source's [Traits.Hints] go first.
	hint string
}

var traitsOf = map[Kind]kindTraits{
	KindBusy:      {backOffSoon, false, "WeChat is busy; nothing to do"},
	KindNetwork:   {backOffSoon, true, "the token endpoint cannot be reached; check the network, the egress proxy and the TLS trust of the transport"},
	KindTimeout:   {backOffSoon, true, "the token endpoint did not answer in time; check the network and the egress proxy of the transport"},
	KindReply:     {backOffSoon, true, "what answered is not the token endpoint, or it is broken; check the upstreams and the egress proxy"},
	KindQuota:     {backOffQuota, false, "the quota of token calls is used up; see who else asks for tokens of this app, and consider share_token"},
	KindSecret:    {backOffHuman, true, "the AppSecret is wrong; copy it again from the WeChat admin, and restart, or reload with --force if it comes from a file"},
	KindAppID:     {backOffHuman, true, "the AppID is wrong; copy it again from the WeChat admin, and restart, or reload with --force if it comes from a file"},
	KindIP:        {backOffHuman, true, "add {this machine's public IP address} to the IP whitelist in the WeChat admin"},
	KindFrozen:    {backOffHuman, true, "the AppSecret is frozen; unfreeze it in the WeChat admin, which takes effect within 10 minutes"},
	KindAccount:   {backOffHuman, false, "the account may not get access tokens; look for notices in the WeChat admin"},
	KindComponent: {backOffHuman, false, "a third-party platform manages this account; get its token with source server or file"},
	KindConfirm:   {backOffConfirm, false, "an administrator of the account has to confirm this machine; look for the message on WeChat"},
	KindDenied:    {backOffDenied, false, "an administrator of the account refused this machine; WeChat allows another attempt after 1 or 24 hours"},
	KindRequest:   {backOffHuman, true, "WeChat does not understand the request for a token; an egress proxy may have changed it"},
	KindFile:      {backOffFile, true, "see to it that the file is there, can be read and has a token in it"},
	KindSource:    {backOffSoon, true, "the token source failed; see the error"},
	KindBudget:    {backOffSoon, false, "tokens are needed more often than the gateway asks for them; see why they are rejected or expire so soon"},
}

const hintUnknownErrcode = "look errcode up in WeChat's documentation"

// delay returns how long to wait after the given number of failures in a row;
// jitter is in [0,1).
func delay(k Kind, failures int, jitter float64) time.Duration {
	b := traitsOf[k].backOff
	wait := b.first
	for ; failures > 1 && wait < b.most; failures-- {
		wait *= 2
	}
	wait = min(wait, b.most)
	return wait + time.Duration(backOffJitter*jitter*float64(wait))
}

// ErrcodeError is a token endpoint's refusal. A source that returns one, wrapped
// or not, gets the back-off and the log line that fit the code.
type ErrcodeError struct {
	Errcode int
	Errmsg  string
}

// Error implements error. It keeps what looks like a secret out of the text.
func (e *ErrcodeError) Error() string {
	return fmt.Sprintf("errcode %d: %s", e.Errcode, Redact(e.Errmsg))
}

// BadReply is the error for an answer that no token endpoint gives. Its text must
// say what is wrong with the answer, and not quote it.
func BadReply(format string, args ...any) error {
	return &Failure{Kind: KindReply, Err: fmt.Errorf(format, args...)}
}

// Failure is a failed attempt, classified. A source may return one.
type Failure struct {
	Kind    Kind   // [KindSource] if it is empty or not one of the known
	Errcode int    // 0: not WeChat's
	Hint    string // what the operator must do, in one line; empty: what the kind says
	Err     error

	addr string // of the gateway or the token server, as WeChat names it
}

// Error implements error.
func (f *Failure) Error() string {
	if f.Err == nil {
		return string(f.Kind)
	}
	return f.Err.Error()
}

// Unwrap returns what failed.
func (f *Failure) Unwrap() error { return f.Err }

// classify finds out what kind of failure err is. hints are the source's.
func classify(err error, hints map[Kind]string) *Failure {
	f := kindOf(err)
	if _, ok := traitsOf[f.Kind]; !ok {
		f.Kind = KindSource
	}
	if f.Hint != "" {
		return f
	}
	f.Hint = cmp.Or(hints[f.Kind], traitsOf[f.Kind].hint)
	switch {
	case f.Kind == KindReply && f.Errcode != 0 && hints[f.Kind] == "":
		f.Hint = hintUnknownErrcode
	case f.Kind == KindIP:
		f.Hint = addressInHint.ReplaceAllString(f.Hint, cmp.Or(f.addr, "$1"))
	}
	return f
}

func kindOf(err error) *Failure {
	var code *ErrcodeError
	var known *Failure
	var op *net.OpError
	var quotes *url.Error
	addr := ""
	if errors.As(err, &code) {
		addr = errcode.AddrIn(code.Errmsg)
	}
	switch {
	case errors.As(err, &known):
		copied := *known
		copied.Err, copied.addr = err, cmp.Or(known.addr, addr)
		return &copied
	case code != nil:
		return &Failure{Kind: errcode.Of(code.Errcode).Kind, Errcode: code.Errcode, Err: err, addr: addr}
	case errors.As(err, &quotes):
		return kindOf(Scrub(err))
	case isTimeout(err):
		return &Failure{Kind: KindTimeout, Err: err}
	case errors.As(err, &op):
		return &Failure{Kind: KindNetwork, Err: err}
	}
	return &Failure{Kind: KindSource, Err: errors.New(Redact(err.Error()))}
}

// Interface guards
var (
	_ error = (*ErrcodeError)(nil)
	_ error = (*Failure)(nil)
)
