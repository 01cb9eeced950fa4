package wechatmedia

// The credential on the wire: the token goes in, a rejection is seen, and the
// request is sent once more with a fresh token.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// RoundTrip implements http.RoundTripper. Except for failures of the upstream it
// returns no error, but a reply of the gateway's own: passive health checks count
// errors, and neither a token endpoint that is down nor a caller that goes away
// in the middle of an upload says anything about the upstream.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	ex := exchangeFrom(ctx)
	if ex == nil { // not under the handler
		ex = &exchange{Context: ctx, request: req, maxUpload: t.ReplayBuffer}
		defer func() {
			if ex.upload != nil {
				ex.upload.finish()
			}
		}()
	}
	if ex.app == nil {
		a, refused := t.selectApp(replacerFrom(ctx))
		if refused != nil {
			closeBody(req)
			return ex.refuse(req, refused), nil
		}
		ex.app = a
	}
	tok, err := ex.app.tokens.token(ctx)
	if err != nil {
		closeBody(req)
		return t.noToken(ex, req, err)
	}
	if refused := t.takeUpload(ex, req); refused != nil {
		return ex.refuse(req, refused), nil
	}
	return t.converse(ex, req, tok)
}

// converse sends the request until WeChat accepts its token, or cannot be
// helped: once more with a fresh token, and a third time only if the source gave
// out the rejected token again and yields a different one at last.
func (t *Transport) converse(ex *exchange, req *http.Request, tok *token) (*http.Response, error) {
	for again := false; ; ex.retries++ {
		res, err := t.attempt(ex, req, tok)
		if err != nil && ex.diedIdle() {
			res, err = t.attempt(ex, req, tok)
		}
		if err == nil && ex.failover && safeToRepeat(req) && upstreamBroken(res.StatusCode) {
			discard(res)
			err = fmt.Errorf("upstream answered with status %d", res.StatusCode)
		}
		if err != nil {
			return t.failed(ex, req, err)
		}
		v := t.verdict(ex, req, res, tok)
		if !v.rejected() {
			if ex.retries > 0 {
				metrics.replays.WithLabelValues(replaySucceeded).Inc()
			}
			return t.accept(ex, res, v), nil
		}
		if outcome, ok := t.mayRepeat(ex, again); !ok {
			metrics.replays.WithLabelValues(outcome).Inc()
			ex.app.tokens.invalidate(tok, v.errcode)
			return t.accept(ex, res, v), nil
		}

		next, err := ex.app.tokens.reject(req.Context(), tok, v.errcode)
		if err != nil {
			metrics.replays.WithLabelValues(replayNoToken).Inc()
			discard(res)
			return t.noToken(ex, req, err)
		}
		same := next.value() == tok.value()
		if same && again {
			metrics.replays.WithLabelValues(replayRejected).Inc()
			return t.accept(ex, res, v), nil
		}
		discard(res)
		tok, again = next, same
	}
}

// mayRepeat reports whether a request whose token was rejected can be sent once
// more, and otherwise what has become of it; again says that the rejected token
// had been handed out a second time.
func (t *Transport) mayRepeat(ex *exchange, again bool) (outcome string, ok bool) {
	if ex.upload != nil && !ex.upload.replayable() {
		t.logger.Warn("WeChat rejected the token of an upload that was not kept for sending it again, "+
			"so its caller got the rejection; a larger replay_buffer prevents this",
			appIDField(ex.app.id), zap.Int64("replay_buffer", t.ReplayBuffer))
		return replayNotKept, false
	}
	return replayRejected, ex.retries == 0 || ex.retries == 1 && again
}

// attempt sends the request once. The token goes on a copy: r.URL, RequestURI and
// the replacer, which all end up in logs, never see it.
func (t *Transport) attempt(ex *exchange, req *http.Request, tok *token) (*http.Response, error) {
	a := ex.newAttempt()
	a.init(t.stall, max(0, time.Duration(t.ResponseHeaderTimeout)), a.bite)
	ctx := req.Context()
	if ex.upload != nil {
		ctx = a.withUpload(ctx, ex)
	}
	out := t.outgoing(req.WithContext(ctx), &a.url, ex.app.param, tok)
	if ex.upload != nil {
		out.ContentLength = ex.upload.length
		out.Body = ex.upload.open(&a.watchdog)
		out.GetBody = func() (io.ReadCloser, error) {
			if !ex.upload.replayable() {
				return nil, errUploadClosed
			}
			return ex.upload.open(&a.watchdog), nil
		}
	}
	res, err := t.HTTPTransport.RoundTrip(out)
	a.answer()
	if err != nil {
		if a.cancel != nil {
			a.cancel(context.Canceled)
		}
		return nil, a.err(unwrapURLError(err))
	}
	a.body = res.Body
	res.Body = a
	hideToken(res.Header, tok)
	return res, nil
}

// withUpload is the context of an attempt with a body: one that can be ended, and
// notes whether the connection had been used before.
func (a *attempt) withUpload(ctx context.Context, ex *exchange) context.Context {
	ctx, a.cancel = context.WithCancelCause(ctx)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { ex.connReused = info.Reused },
	})
}

// outgoing turns a copy of a request into one with the token in place of any that
// the caller sent. Its URL becomes u.
func (t *Transport) outgoing(out *http.Request, u *url.URL, param string, tok *token) *http.Request {
	*u = *out.URL
	if rest := withoutParam(out.URL.RawQuery, param); rest != "" {
		u.RawQuery = param + "=" + url.QueryEscape(tok.value()) + "&" + rest
	} else {
		u.RawQuery = param + "=" + url.QueryEscape(tok.value())
	}
	out.URL = u
	out.Body, out.GetBody = nil, nil
	out.TransferEncoding = nil // of the caller; would make it chunked again
	out.Trailer = nil          // likewise
	t.SetScheme(out)

	// Caddy's placeholder has the default port, which WeChat would be sent
	if di, ok := reverseproxy.GetDialInfo(out.Context()); ok && out.Host == di.Address && u.Host != "" {
		out.Host = strings.TrimSuffix(out.Host, defaultPorts[out.URL.Scheme])
	}
	return out
}

// defaultPorts are left out of the Host header.
var defaultPorts = map[string]string{"http": ":80", "https": ":443"}

// takeUpload puts the request's body under ex, gathering it if its length is
// unknown: WeChat refuses chunked bodies with a bare 412.
func (t *Transport) takeUpload(ex *exchange, req *http.Request) *refusal {
	if ex.upload != nil { // the proxy tries a second upstream
		return nil
	}
	if req.Body == nil || req.ContentLength == 0 {
		return nil
	}
	if req.ContentLength > 0 {
		ex.upload = newUpload(req.Body, req.ContentLength, t.budget)
		ex.upload.readDeadline = ex.readDeadline(t.stall)
		return nil
	}
	up, err := gatherUpload(req.Body, ex.maxUpload, t.budget, ex.readDeadline(t.stall))
	switch {
	case err == nil && up.length == 0:
		up.finish()
		if ex.call.endpoint == endpointUpload {
			return refuseNoMedia("the body is empty")
		}
		return nil // and so without a body
	case err == nil:
		ex.upload = up
		return nil
	case errors.Is(err, errUploadTooLarge):
		ex.closeCaller()
		return refuseTooLarge(ex.maxUpload)
	case errors.Is(err, errUploadNoMemory):
		ex.closeCaller()
		return refuseNoMemory()
	default:
		return t.refuseCaller(ex, err)
	}
}

// refuseCaller is for uploads that failed on the caller's side.
func (t *Transport) refuseCaller(ex *exchange, err error) *refusal {
	ex.closeCaller()
	if timedOut(err) {
		return refuseSlowCaller(err)
	}
	return refuseBrokenUpload(err)
}

func timedOut(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

// verdict examines a reply. A HEAD has no body to examine: where its headers
// leave room for an error, the same GET tells.
func (t *Transport) verdict(ex *exchange, req *http.Request, res *http.Response, tok *token) verdict {
	if req.Method != http.MethodHead {
		return examine(res)
	}
	if !mayBeError(res) {
		return verdict{}
	}
	get := req.WithContext(req.Context())
	get.Method = http.MethodGet
	probe, err := t.attempt(ex, get, tok)
	if err != nil {
		return verdict{} // the HEAD has its answer
	}
	defer probe.Body.Close()
	return examine(probe)
}

// accept makes res the answer.
func (t *Transport) accept(ex *exchange, res *http.Response, v verdict) *http.Response {
	ex.verdict, ex.status = v, res.StatusCode
	if ex.upload != nil {
		if ex.upload.unread() {
			ex.closeCaller()
		}
		ex.upload.finish()
	}
	if v.errcode != 0 && ex.translateStatus {
		res.StatusCode = translatedStatus(v.errcode)
		res.Status = http.StatusText(res.StatusCode)
	}
	switch {
	case v.errcode != 0 && (ex.translateStatus || ex.cacheControl != ""):
		res.Header.Set("Cache-Control", cacheControlForErrors)
	case v.errcode == 0 && ex.cacheControl != "" && cacheable(ex.call, res):
		ex.setCacheHeader(res.Header)
	}
	return res
}

// cacheable reports whether a reply is media: an operator's cache_control must
// never keep an error or a video's short-lived URL.
func cacheable(c call, res *http.Response) bool {
	return (c.endpoint == endpointGet || c.endpoint == endpointJSSDK) && !mayBeError(res) &&
		(res.StatusCode == http.StatusOK || res.StatusCode == http.StatusPartialContent || res.StatusCode == http.StatusNotModified)
}

// noToken answers in place of WeChat when there is no token to be had.
func (t *Transport) noToken(ex *exchange, req *http.Request, err error) (*http.Response, error) {
	if ctxErr := req.Context().Err(); ctxErr != nil {
		return nil, ctxErr
	}
	retryAfter := tokenRequestTimeout
	var unavailable *tokenUnavailableError
	if errors.As(err, &unavailable) {
		retryAfter = unavailable.RetryAfter
	}
	ex.closeCaller()
	return ex.refuse(req, refuseNoToken(retryAfter, err)), nil
}

// failed is for attempts without a reply. The proxy tries the next upstream for
// any request after an error of dialing, and otherwise only for a GET; so what is
// safe to repeat is made an error of dialing.
func (t *Transport) failed(ex *exchange, req *http.Request, err error) (*http.Response, error) {
	var callerErr error
	if ex.upload != nil {
		callerErr = ex.upload.callerErr()
	}
	// the server ends the context of a caller whose body stood still, as of one
	// who left; the former is still there to be told
	if ctxErr := req.Context().Err(); ctxErr != nil && !timedOut(callerErr) {
		return nil, ctxErr
	}
	ex.timedOut = timedOut(err)
	if ex.upload == nil {
		if safeToRepeat(req) {
			err = reverseproxy.NewDialError(err)
		}
		return nil, err
	}
	if callerErr != nil {
		return ex.refuse(req, t.refuseCaller(ex, callerErr)), nil
	}
	if ex.upload.replayable() && !ex.upload.everSent() {
		err = reverseproxy.NewDialError(err)
	}
	return nil, err
}

func safeToRepeat(req *http.Request) bool {
	return req.Method == http.MethodGet || req.Method == http.MethodHead
}

// upstreamBroken reports whether a status is one that a broken host answers with;
// WeChat itself uses none of them.
func upstreamBroken(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// hideToken takes the token out of reply headers, such as a redirect's Location.
func hideToken(h http.Header, tok *token) {
	for name, values := range h {
		for _, v := range values {
			if strings.Contains(v, tok.value()) {
				delete(h, name)
				break
			}
		}
	}
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

// unwrapURLError keeps URLs, which have the token in them, out of errors.
func unwrapURLError(err error) error {
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		return urlErr.Err
	}
	return err
}

// discard gets a reply out of the way and its connection back if that is cheap.
func discard(res *http.Response) {
	_, _ = io.CopyN(io.Discard, res.Body, maxExamined+1)
	_ = res.Body.Close()
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}
