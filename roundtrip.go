package wechatmedia

// The credential on the wire: the token goes in, a rejection is seen, and the
// request is sent once more with a fresh token.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
	"github.com/caddy-wechat/caddy-wechat-media/internal/replay"
	"github.com/caddy-wechat/caddy-wechat-media/internal/wire"
	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// RoundTrip implements http.RoundTripper. What the gateway refuses itself, and what a
// caller brings about, is no error of the upstream's, and is not counted against it.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if trace := httptrace.ContextClientTrace(ctx); trace != nil {
		trace.Got1xxResponse = nil // interim replies do not reach callers; see caller.go
	}
	if call := tokenCallOf(ctx); call != nil {
		return t.sendTokenCall(call, req)
	}
	if ctx.Value(caddyhttp.VarsCtxKey) == nil {
		// an active health check, which no server has prepared: it has no caller, and
		// goes wherever health_upstream says, which is no place for a token
		return t.send(req)
	}
	ex := exchangeOf(ctx, t)
	if ex == nil {
		return t.roundTripAlone(req)
	}
	ex.cause, ex.refusal = nil, nil
	res, err := t.serve(ex, req)
	if err != nil && ex.cause == nil {
		ex.cause = err
	}
	return res, err
}

// gather waits for the first byte of an upload: nothing is dialed for a caller who has
// not sent any. One of unknown length is read to its end, because WeChat refuses
// chunked bodies with a bare 412.
func gather(u *replay.Upload) error {
	if u.Length() < 0 {
		return u.Gather()
	}
	_, err := u.Head(1)
	return err
}

// serve sends a request with the app's token.
func (t *Transport) serve(ex *exchange, req *http.Request) (*http.Response, error) {
	t.mendHost(req)
	if what := malformed(req); what != "" {
		return t.refuse(ex, req, refuseMalformed(what))
	}
	if ex.upload != nil && ex.last != nil && ex.upload.CallerErr() == nil && !ex.upload.Replayable() { // the host before had the beginning
		return t.refuse(ex, req, refuseNotKept())
	}
	tok, err := ex.app.tokens.Token(ex.ctx)
	if err != nil {
		return t.refuse(ex, req, refuseForToken(ex.ctx, err))
	}
	return t.converse(ex, req, tok)
}

// malformed names what http.Transport would not send: a header, as header_up can make one
// of what a caller has sent, or a method, which HTTP/2 lets a caller make up. Its error
// would look like the upstream's.
func malformed(req *http.Request) string {
	if !httpguts.ValidHeaderFieldName(req.Method) { // a token, as header names are
		return "method"
	}
	if !httpguts.ValidHostHeader(req.Host) {
		return "header Host"
	}
	for name, values := range req.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return "name of a header"
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return "header " + name
			}
		}
	}
	return ""
}

// converse sends the request until WeChat accepts its token, or cannot be
// helped: once more with a fresh token, and a third time only if the source gave
// out the rejected token again and yields a different one at last.
func (t *Transport) converse(ex *exchange, req *http.Request, tok *token.Token) (*http.Response, error) {
	for again := false; ; ex.retries++ {
		res, err := t.attemptTwice(ex, req, tok)
		if err == nil {
			if err = unfit(res, req.Method); err != nil {
				_ = res.Body.Close()
			}
		}
		if err == nil && ex.failover && isDownload(req.Method) && upstreamBroken(res.StatusCode) {
			err = fmt.Errorf("upstream answered with status %d", res.StatusCode)
			redactBody(res, tok)
			ex.keep(res)
			discard(res)
		}
		if err != nil {
			return t.failed(ex, req, err)
		}
		v := t.verdict(ex, req, res, tok)
		if !v.rejected() {
			if ex.retries > 0 {
				metrics.replays.WithLabelValues(replaySucceeded).Inc()
			}
			return t.accept(ex, res, v, tok), nil
		}
		if outcome, ok := t.mayRepeat(ex, again); !ok {
			metrics.replays.WithLabelValues(outcome).Inc()
			ex.app.tokens.Invalidate(tok, v.errcode)
			return t.accept(ex, res, v, tok), nil
		}

		next, err := ex.app.tokens.Reject(ex.ctx, tok, v.errcode)
		if err != nil {
			metrics.replays.WithLabelValues(replayNoToken).Inc()
			discard(res)
			return t.refuse(ex, req, refuseForToken(ex.ctx, err))
		}
		same := next.Secret() == tok.Secret()
		if same && again {
			metrics.replays.WithLabelValues(replayRejected).Inc()
			return t.accept(ex, res, v, tok), nil
		}
		discard(res)
		tok, again = next, same
	}
}

// unfit says why a reply is none that can be passed on: the status is no final one, or
// it is a text that cannot be read here, for an errcode or the token, because it is
// compressed. Nobody has asked for that.
func unfit(res *http.Response, method string) error {
	coding := res.Header.Get("Content-Encoding")
	switch {
	case res.StatusCode < http.StatusOK:
		return fmt.Errorf("upstream answered with status %d", res.StatusCode)
	case coding != "" && !strings.EqualFold(coding, "identity") && method != http.MethodHead && isText(res):
		return fmt.Errorf("upstream answered with a text in the Content-Encoding %.20q, which was not asked for", coding)
	}
	return nil
}

// mayRepeat reports whether a request whose token was rejected can be sent once
// more, and otherwise what has become of it; again says that the rejected token
// had been handed out a second time.
func (t *Transport) mayRepeat(ex *exchange, again bool) (outcome string, ok bool) {
	if ex.upload != nil && !ex.upload.Replayable() {
		t.logger.Warn(t.platform.Name+" rejected the token of an upload that was not kept for sending it again, "+
			"so its caller got the rejection; a larger replay_buffer prevents this",
			appIDField(ex.app.id), zap.Int64("replay_buffer", t.ReplayBuffer))
		return replayNotKept, false
	}
	return replayRejected, ex.retries == 0 || ex.retries == 1 && again
}

// attemptTwice sends the request, and once more on a new connection if the one that
// it was given had died while it waited. A medium that is stored twice for that,
// because the answer and not the request got lost, harms nobody.
func (t *Transport) attemptTwice(ex *exchange, req *http.Request, tok *token.Token) (*http.Response, error) {
	res, err := t.attempt(ex, req.Context(), req, tok)
	if err == nil || ex.ctx.Err() != nil || !ex.last.diedIdle(err) || ex.upload != nil && !ex.upload.Replayable() ||
		ex.upload == nil && !isDownload(req.Method) {
		return res, err
	}
	return t.attempt(ex, t.again(req.Context()), req, tok)
}

// attempt sends the request once. The token goes on a copy: r.URL, RequestURI and
// the replacer, which all end up in logs, never see it.
func (t *Transport) attempt(ex *exchange, ctx context.Context, req *http.Request, tok *token.Token) (*http.Response, error) {
	a := ex.newAttempt()
	a.tok = tok
	ctx = a.begin(ctx)
	out := t.outgoing(req.WithContext(ctx), &a.url, ex.app.param, tok)
	a.use = t.dialer.Begin(ctx, &a.url)
	if a.sends = ex.upload != nil; a.sends {
		t.setBody(out, ex.upload, a)
	}
	if wait := t.headerTimeout(0); wait > 0 {
		a.await(wait+t.connectWait, 0)
	}
	res, err := t.send(out)
	a.answer()
	if err != nil {
		a.end()
		return nil, a.err(withoutURL(err))
	}
	a.accept(res, t.stall)
	hideToken(res.Header, tok)
	return res, nil
}

// outgoing turns a copy of a request into one with the token in place of any that
// the caller sent. Its URL becomes u.
func (t *Transport) outgoing(out *http.Request, u *url.URL, param string, tok *token.Token) *http.Request {
	*u = *out.URL
	if rest := withoutParam(out.URL.RawQuery, param); rest != "" {
		u.RawQuery = param + "=" + url.QueryEscape(tok.Secret()) + "&" + rest
	} else {
		u.RawQuery = param + "=" + url.QueryEscape(tok.Secret())
	}
	out.URL = u
	out.Body, out.GetBody, out.ContentLength = nil, nil, 0
	out.TransferEncoding = nil // of the caller; would make it chunked again, with his trailers
	t.SetScheme(out)
	return out
}

// mendHost mends what Caddy's placeholder for the upstream has put into the Host
// header: the default port, which WeChat would be sent, and the path of a socket.
func (t *Transport) mendHost(out *http.Request) {
	di, ok := reverseproxy.GetDialInfo(out.Context())
	switch {
	case !ok || out.Host != di.Address:
	case strings.HasPrefix(di.Network, "unix"):
		out.Host = strings.TrimSuffix(t.apps[0].platform.Hosts[0], defaultPorts["https"])
	case t.shouldUseTLS(di.Port):
		out.Host = strings.TrimSuffix(out.Host, defaultPorts["https"])
	default:
		out.Host = strings.TrimSuffix(out.Host, defaultPorts["http"])
	}
}

// shouldUseTLS reports whether an upstream's port is one for TLS.
func (t *Transport) shouldUseTLS(port string) bool {
	return t.TLS != nil && !slices.Contains(t.TLS.ExceptPorts, port)
}

// defaultPorts are left out of the Host header.
var defaultPorts = map[string]string{"http": ":80", "https": ":443"}

// verdict examines a reply. A HEAD has no body to examine: where its headers
// leave room for an error, the same GET tells.
func (t *Transport) verdict(ex *exchange, req *http.Request, res *http.Response, tok *token.Token) verdict {
	if req.Method != http.MethodHead {
		return examine(res, tok)
	}
	if !mayBeError(res) {
		return verdict{}
	}
	get := req.WithContext(req.Context())
	get.Method = http.MethodGet
	answered := ex.last
	defer func() { ex.last = answered }()
	probe, err := t.attempt(ex, req.Context(), get, tok)
	if err != nil {
		return verdict{} // the HEAD has its answer
	}
	defer probe.Body.Close()
	return examine(probe, tok)
}

// accept makes res the answer.
func (t *Transport) accept(ex *exchange, res *http.Response, v verdict, tok *token.Token) *http.Response {
	ex.verdict, ex.status = v, res.StatusCode
	t.acceptUpload(ex, v)
	t.tellOperator(ex.app.id, v)
	if v.errcode != 0 && ex.translateStatus {
		res.StatusCode = t.platform.Meaning(v.errcode).Status
		res.Status = http.StatusText(res.StatusCode)
	}
	switch {
	case v.errcode != 0 && (ex.translateStatus || ex.cacheControl != ""):
		res.Header.Set("Cache-Control", cacheControlForErrors)
	case v.errcode == 0 && ex.etag != "" && cacheable(ex.call, res):
		ex.setCacheHeader(res.Header)
		ex.notModified(res)
	}
	redactBody(res, tok)
	if ex.caller == nil {
		t.statusAlone(ex, res)
	} else if t.retriesByStatus {
		ex.keep(res)
	}
	return res
}

// acceptUpload ends what WeChat has answered.
func (t *Transport) acceptUpload(ex *exchange, v verdict) {
	if ex.upload == nil {
		return
	}
	if ex.form = formOf(ex, v.errcode); ex.form != "" {
		t.logger.Debug(t.platform.Name+" refused an upload's form", appIDField(ex.app.id), zap.Int("errcode", v.errcode), zap.String("form", ex.form))
	}
	if ex.caller != nil && ex.upload.Unread() {
		ex.caller.unread = true
	}
	if !t.retriesByStatus {
		ex.upload.Finish()
	}
}

// notModified answers a caller who has some version of what WeChat has just answered
// with, and did not say which.
func (ex *exchange) notModified(res *http.Response) {
	if res.StatusCode != http.StatusOK || !anyMatches(res.Request.Header["If-None-Match"]) {
		return
	}
	discard(res)
	res.StatusCode, res.Status = http.StatusNotModified, http.StatusText(http.StatusNotModified)
	res.Body, res.ContentLength = http.NoBody, 0
	res.Header.Del("Content-Length")
}

// failed is for attempts without a reply. The proxy tries the next upstream for
// any request after an error of dialing, and otherwise only for a GET; so what is
// safe to repeat is made an error of dialing.
func (t *Transport) failed(ex *exchange, req *http.Request, err error) (*http.Response, error) {
	var callerErr error
	if ex.upload != nil {
		callerErr = ex.upload.CallerErr()
	}
	// the server ends the context of a caller whose body stood still, as of one
	// who left; the former is still there to be told
	if ctxErr := ex.ctx.Err(); ctxErr != nil && !timedOut(callerErr) {
		return nil, ctxErr
	}
	ex.cause = err // an error of dialing hides what it is about
	switch {
	case ex.last != nil && ex.last.crowdedOut(), errors.Is(err, wire.ErrCrowded):
		return t.refuse(ex, req, refuseCrowd(err))
	case callerErr != nil:
		return t.refuse(ex, req, refuseCaller(callerErr, t.ReplayBuffer))
	case ex.upload == nil && isDownload(req.Method), ex.upload != nil && ex.sendable():
		err = reverseproxy.NewDialError(err)
	}
	return nil, err
}

// sendable reports whether the upload can go to the next upstream.
func (ex *exchange) sendable() bool {
	return ex.upload.Replayable() && !ex.upload.EverSent() && (ex.caller != nil || !ex.reads())
}

// upstreamBroken reports whether a status is one that a broken host answers with;
// WeChat itself uses none of them.
func upstreamBroken(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// refusedError ends the proxy's work without counting a failure: it takes it for the
// error of a caller who has left. The handler answers instead.
type refusedError struct{ *refusal }

func (refusedError) Is(target error) bool { return target == context.Canceled }

// refuse answers in WeChat's place.
func (t *Transport) refuse(ex *exchange, req *http.Request, r *refusal) (*http.Response, error) {
	if err := ex.ctx.Err(); err != nil && r.status == statusClientGone {
		return nil, err
	}
	if ex.caller != nil {
		ex.refusal = r
		return nil, refusedError{r}
	}
	replacerFrom(ex.ctx).Set(statusPlaceholder, r.status)
	return r.response(req, statusOfOwn), nil
}

func timedOut(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

// withoutParam returns rawQuery without a parameter, however it is encoded.
func withoutParam(rawQuery, name string) string {
	isParam := func(pair string) bool {
		k, _, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(k)
		return err == nil && strings.EqualFold(key, name)
	}
	found := false
	for pair := range strings.SplitSeq(rawQuery, "&") {
		found = found || isParam(pair)
	}
	if !found { // as always under the handler
		return rawQuery
	}
	return strings.Join(slices.DeleteFunc(strings.Split(rawQuery, "&"), isParam), "&")
}

// withoutURL keeps URLs, which have the token in them, out of errors.
func withoutURL(err error) error {
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		return urlErr.Err
	}
	return err
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// tellOperator logs an errcode that only the operator can mend, once in a while.
func (t *Transport) tellOperator(appID string, v verdict) {
	todo := t.platform.Meaning(v.errcode).Todo
	if todo == "" || !t.told.first(appID, v.errcode) {
		return
	}
	if addr := errcode.AddrIn(v.errmsg); addr != "" {
		todo = strings.Replace(todo, "this machine's public IP address", addr, 1)
	}
	t.logger.Error(t.platform.Name+" refuses media calls: "+todo, appIDField(appID), zap.Int("errcode", v.errcode), zap.String("errmsg", v.errmsg))
}
