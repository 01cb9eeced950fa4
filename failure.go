package wechatmedia

// What can go wrong when a token is asked for: how each failure is named, how
// long it is remembered, and what the operator must do about it.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// failureKind names a failure. The set is closed: it is a metric's label.
type failureKind string

const (
	failureBusy      failureKind = "busy"                 // WeChat's -1
	failureNetwork   failureKind = "network"              // no connection, or one that broke
	failureTimeout   failureKind = "timeout"              // no answer in time
	failureReply     failureKind = "bad_reply"            // an answer that makes no sense
	failureQuota     failureKind = "quota"                // called too often
	failureSecret    failureKind = "wrong_secret"         // the AppSecret is not the app's
	failureAppID     failureKind = "wrong_app_id"         // there is no such app
	failureIP        failureKind = "ip_not_allowed"       // this machine is not on the account's whitelist
	failureFrozen    failureKind = "secret_frozen"        // somebody froze the AppSecret
	failureAccount   failureKind = "account_blocked"      // the account may not have tokens
	failureComponent failureKind = "component_required"   // a third-party platform holds the account
	failureConfirm   failureKind = "confirmation_pending" // an administrator has to allow this machine
	failureDenied    failureKind = "confirmation_denied"  // an administrator did not
	failureRequest   failureKind = "bad_request"          // WeChat does not understand the request
	failureFile      failureKind = "file"                 // no file, or no token in it
	failureSource    failureKind = "source"               // everything else: a storage, a token server
	failureBudget    failureKind = "budget"               // the gateway's own limit on calls
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

// failureTraits holds what there is to know of each kind. The hint is one line
// for the operator's log; it takes the place of a stack of questions.
var failureTraits = map[failureKind]struct {
	backOff backOff
	hint    string
}{
	failureBusy:      {backOffSoon, "WeChat is busy; nothing to do"},
	failureNetwork:   {backOffSoon, "the token endpoint cannot be reached; check the network, the egress proxy and the TLS trust of the transport"},
	failureTimeout:   {backOffSoon, "the token endpoint did not answer in time; check the network and the egress proxy of the transport"},
	failureReply:     {backOffSoon, "what answered is not WeChat's token endpoint, or it is broken; check the upstreams and the egress proxy"},
	failureQuota:     {backOffQuota, "the quota of token calls is used up; see who else asks for tokens of this app, and consider share_token"},
	failureSecret:    {backOffHuman, "the AppSecret is wrong; copy it again from the WeChat admin, and reload"},
	failureAppID:     {backOffHuman, "the AppID is wrong; copy it again from the WeChat admin, and reload"},
	failureIP:        {backOffHuman, "add this machine's public IP address to the IP whitelist in the WeChat admin"},
	failureFrozen:    {backOffHuman, "the AppSecret is frozen; unfreeze it in the WeChat admin, which takes effect within 10 minutes"},
	failureAccount:   {backOffHuman, "the account may not get access tokens; look for notices in the WeChat admin"},
	failureComponent: {backOffHuman, "a third-party platform manages this account; get its token with source server or file"},
	failureConfirm:   {backOffConfirm, "an administrator of the account has to confirm this machine; look for the message on WeChat"},
	failureDenied:    {backOffDenied, "an administrator of the account refused this machine; WeChat allows another attempt after 1 or 24 hours"},
	failureRequest:   {backOffHuman, "WeChat does not understand the request for a token; an egress proxy may have changed it"},
	failureFile:      {backOffFile, "see to it that the file is there, can be read and has a token in it"},
	failureSource:    {backOffSoon, "the token source failed; see the error"},
	failureBudget:    {backOffSoon, "tokens are needed oftener than the gateway asks for them; see why they are rejected or live so short"},
}

// delay returns how long to wait after the given number of failures in a row;
// jitter is in [0,1).
func (k failureKind) delay(failures int, jitter float64) time.Duration {
	b := failureTraits[k].backOff
	wait := b.first
	for ; failures > 1 && wait < b.most; failures-- {
		wait *= 2
	}
	wait = min(wait, b.most)
	return wait + time.Duration(backOffJitter*jitter*float64(wait))
}

// errcodeKinds maps the codes of WeChat's token endpoints.
// https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken
// https://developers.weixin.qq.com/doc/subscription/api/base/api_getaccesstoken
var errcodeKinds = map[int]failureKind{
	-1:    failureBusy,
	40001: failureSecret, // means the secret here, the token elsewhere
	40125: failureSecret,
	41004: failureSecret, // missing
	40013: failureAppID,
	41002: failureAppID, // missing
	40164: failureIP,
	61004: failureIP,
	40243: failureFrozen,
	50002: failureAccount,
	50004: failureAccount,
	50007: failureAccount,
	61024: failureComponent,
	45009: failureQuota, // a day's
	45011: failureQuota, // a minute's
	89501: failureConfirm,
	89502: failureConfirm,
	89503: failureConfirm,
	89504: failureConfirm,
	89505: failureConfirm,
	89506: failureDenied, // for 24 hours
	89507: failureDenied, // for an hour
	40002: failureRequest,
	43002: failureRequest,
	44002: failureRequest,
	47001: failureRequest,
}

// ErrcodeError is a token endpoint's refusal. A token source that returns one,
// wrapped or not, gets the back-off and the log line that fit the code.
type ErrcodeError struct {
	Errcode int
	Errmsg  string
}

// Error implements error.
func (e *ErrcodeError) Error() string {
	return fmt.Sprintf("errcode %d: %s", e.Errcode, redact(e.Errmsg))
}

// replyError is an answer that is not what a token endpoint answers. Its text
// says what is wrong with the answer and never what was in it.
type replyError struct{ what string }

func (e *replyError) Error() string { return e.what }

func badReply(format string, args ...any) error {
	return &replyError{fmt.Sprintf(format, args...)}
}

// failure is one failed attempt, classified.
type failure struct {
	kind    failureKind
	errcode int // 0: not WeChat's
	hint    string
	err     error
}

// classify finds out what kind of failure err is.
func classify(err error) failure {
	f := failure{kind: failureSource, err: err}
	var code *ErrcodeError
	var reply *replyError
	var known failure
	var timeout interface{ Timeout() bool }
	var op *net.OpError
	var wire *wireError
	switch {
	case errors.As(err, &known):
		f.kind, f.errcode = known.kind, known.errcode
	case errors.As(err, &code):
		f.errcode = code.Errcode
		var ok bool
		if f.kind, ok = errcodeKinds[code.Errcode]; !ok {
			f.kind = failureReply
		}
	case errors.As(err, &reply):
		f.kind = failureReply
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		f.kind = failureTimeout
	case errors.As(err, &wire), errors.As(err, &op):
		f.kind = failureNetwork
	}
	f.hint = failureTraits[f.kind].hint
	if f.kind == failureIP && code != nil {
		if ip := addrIn(code.Errmsg); ip != "" {
			f.hint = "add " + ip + " to the IP whitelist in the WeChat admin"
		}
	}
	if f.kind == failureReply && code != nil {
		f.hint = "look errcode up in WeChat's documentation"
	}
	return f
}

// Error makes a failure an error, so that one can be passed on as classified.
func (f failure) Error() string { return f.err.Error() }

func (f failure) Unwrap() error { return f.err }

// addrIn returns the IP address that a message names, as in
// "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: …".
func addrIn(msg string) string {
	for word := range strings.FieldsSeq(msg) {
		if addr, err := netip.ParseAddr(strings.Trim(word, ",;.")); err == nil {
			return addr.Unmap().String()
		}
	}
	return ""
}

// wireError is a failure between here and the endpoint, without what may carry a
// secret: the URL, which has the AppSecret in its query for /cgi-bin/token, and
// bytes of a malformed answer, which net/http quotes.
type wireError struct {
	what  string
	cause error // only for Is and As of errors that are known to be harmless
}

func (e *wireError) Error() string { return e.what }

func (e *wireError) Unwrap() error { return e.cause }

// scrub turns what an http.Client returned into a wireError.
func scrub(err error) error {
	for urlErr := (*url.Error)(nil); errors.As(err, &urlErr); {
		err = urlErr.Err
		urlErr = nil
	}
	var timeout interface{ Timeout() bool }
	var op *net.OpError
	var dns *net.DNSError
	var known *wireError
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, context.Canceled):
		return &wireError{"canceled", context.Canceled}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &wireError{"timed out", context.DeadlineExceeded}
	case errors.As(err, &dns):
		return &wireError{dns.Error(), dns}
	case errors.As(err, &op):
		return &wireError{op.Error(), op}
	case isTLS(err):
		return &wireError{err.Error(), nil}
	}
	return &wireError{"the connection broke or carried no proper HTTP", nil}
}

// redact makes a message of somebody else's fit for a log: one line, of bounded
// length, and without anything as long as an AppSecret or a token.
func redact(msg string) string {
	const mostMsg, secretLength = 300, 32
	var out strings.Builder
	flush := func(run string) {
		if len(run) >= secretLength {
			run = "[redacted]"
		}
		out.WriteString(run)
	}
	start := -1
	for i, r := range msg {
		if out.Len() > mostMsg {
			return out.String() + "…"
		}
		if isTokenRune(r) {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 {
			flush(msg[start:i])
			start = -1
		}
		if r < ' ' || r == 0x7f {
			r = ' '
		}
		out.WriteRune(r)
	}
	if start >= 0 {
		flush(msg[start:])
	}
	return out.String()
}

func isTokenRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// Interface guards
var (
	_ error = (*ErrcodeError)(nil)
	_ error = failure{}
)
