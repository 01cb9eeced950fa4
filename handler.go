package wechatmedia

// The request path: what a request means, for which app, and whether it is
// refused or proxied.

import (
	"errors"
	"net/http"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
	"github.com/caddy-wechat/caddy-wechat-media/internal/replay"
)

// The values of Handler.Errors.
const (
	errorsWechat = "wechat"
	errorsCaddy  = "caddy"
)

// ServeHTTP answers every request that it is given; next is never called.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	ex := &exchange{
		ctx: r.Context(), transport: h.transport,
		translateStatus: h.TranslateStatus, cacheControl: h.CacheControl, vary: h.vary,
		failover: len(h.proxy.Upstreams) > 1 || h.proxy.DynamicUpstreams != nil,
	}
	ex.caller = &ex.own
	ex.caller.init(w, r, ex)
	ex.enter()
	defer countRequest(ex)
	defer ex.done()
	err := h.serve(w, r, ex)
	if ex.caller.unread {
		ex.linger(err == nil)
		if err != nil { // whoever writes the error page has no body to send on
			r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
		}
	}
	return err
}

// serve answers the request, or lets the proxy do it.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, ex *exchange) error {
	refused := h.understand(r, ex)
	switch {
	case refused != nil:
		return h.refuse(r, ex, refused)
	case ex.call.endpoint == endpointToken || ex.call.endpoint == endpointStableToken:
		ex.status = http.StatusOK
		answerToken(ex.caller, h.platform)
		return nil
	case ex.etag != "" && etagMatches(r.Header["If-None-Match"], ex.etag):
		// the same media_id is the same bytes: no need to ask WeChat
		ex.setCacheHeader(w.Header())
		ex.status = http.StatusNotModified
		ex.caller.unread = r.ContentLength != 0
		ex.caller.WriteHeader(ex.status)
		return nil
	}
	return h.pass(r, ex)
}

// understand finds out what a request means and for which app it is, and refuses
// what WeChat would refuse before a byte of its body is read.
func (h *Handler) understand(r *http.Request, ex *exchange) (refused *refusal) {
	ex.call, refused = parseCall(h.platform, h.Mounts, r.Method, r.URL)
	if refused != nil {
		return refused
	}
	switch ex.call.endpoint {
	case endpointToken, endpointStableToken:
		if !h.SDKTokens {
			return refuseNoEndpoint()
		}
		ex.caller.unread = r.ContentLength != 0
		return nil
	}
	if ex.app, refused = h.transport.selectApp(replacerFrom(r.Context())); refused != nil {
		return refused
	}
	if ex.call.endpoint == endpointUpload {
		return h.checkUpload(r, ex.call.mediaType)
	}
	if h.CacheControl != "" && isDownload(r.Method) {
		ex.etag = ex.app.etag(ex.call)
	}
	return nil
}

// checkUpload refuses what the headers of an upload show.
func (h *Handler) checkUpload(r *http.Request, mediaType string) *refusal {
	limit, ok := h.limits[mediaType]
	switch {
	case !ok:
		return refuseType("allowed here: " + strings.Join(h.Types, ", "))
	case !isForm(r.Header.Get("Content-Type")):
		return refuseNoMedia("send multipart/form-data with a part named media")
	case r.ContentLength == 0:
		return refuseNoMedia("the body is empty")
	case r.ContentLength > limit:
		return refuseTooLarge(limit)
	}
	return nil
}

// pass hands the request to the proxy and shapes what the proxy could not do.
func (h *Handler) pass(r *http.Request, ex *exchange) error {
	// before the body is read, and outside of the proxy, which would count it
	// against the upstream
	if _, err := ex.app.tokens.Token(r.Context()); err != nil {
		return h.refuse(r, ex, refuseForToken(r.Context(), err))
	}
	out := h.outgoing(r, ex)
	if ex.call.endpoint == endpointUpload {
		if refused := h.receive(r, ex, out); refused != nil {
			return h.refuse(r, ex, refused)
		}
	} else {
		ex.caller.unread = r.ContentLength != 0 // a body that comes with it will not be read
	}
	err := h.proxy.ServeHTTP(ex.caller, out, noNext)
	switch {
	case ex.refusal != nil:
		refused := ex.refusal
		ex.refusal = nil
		if ex.kept != nil && refused.cause == errNotKept {
			ex.kept.write(ex.caller)
			return nil
		}
		return h.refuse(r, ex, refused)
	case err != nil:
		return h.proxyFailed(r, ex, err)
	}
	return nil
}

// receive begins to read an upload. Nothing goes to WeChat, and next to nothing is
// held, for a caller who has not sent the first line of his form; all of it is
// gathered if its length is unknown, because WeChat refuses chunked bodies with a
// bare 412.
func (h *Handler) receive(r *http.Request, ex *exchange, out *http.Request) *refusal {
	ex.caller.asked = true
	ex.upload = replay.New(r.Body, replay.Options{
		Length: r.ContentLength, Most: h.limits[ex.call.mediaType],
		Budget: h.transport.budget, Beside: h.transport.CallerBuffer,
	})
	head, err := firstLine(ex.upload)
	if err == nil && len(head) > 0 {
		contentType := formContentType(r.Header.Get("Content-Type"), head)
		if contentType == "" {
			return refuseNoMedia("there is no boundary, neither in the Content-Type nor in the body's first line")
		}
		out.Header.Set("Content-Type", contentType)
		if r.ContentLength < 0 {
			err = ex.upload.Gather()
		}
	}
	switch {
	case err != nil:
		return refuseCaller(err, h.limits[ex.call.mediaType])
	case len(head) == 0:
		return refuseNoMedia("the body is empty")
	}
	return nil
}

// firstLine waits for the first line of a form, or for what is too long to be one.
func firstLine(u *replay.Upload) (head []byte, err error) {
	for n := 1; n <= formHead; n = len(head) + 1 {
		more, err := u.Head(n)
		if err != nil {
			return nil, err
		}
		if len(more) < n { // the end
			return more, nil
		}
		head = more
		if strings.IndexByte(string(head), '\n') >= 0 {
			break
		}
	}
	return head, nil
}

// outgoing is the request for WeChat, less the access token and the body, which the
// transport adds: no option of the proxy's sees either. Everything in it is made or
// chosen here. RequestURI, which the proxy's debug log shows, is no exception: a
// caller may have put a token of its own into it.
func (h *Handler) outgoing(r *http.Request, ex *exchange) *http.Request {
	out := r.WithContext(ex.ctx)
	out.Method = ex.call.method
	out.RequestURI = ex.call.uri()
	ex.url.Path, ex.url.RawQuery, _ = strings.Cut(out.RequestURI, "?")
	out.URL = &ex.url
	out.Trailer = nil
	out.Body, out.ContentLength, out.TransferEncoding = nil, 0, nil
	if ex.call.endpoint == endpointUpload {
		out.Header = pickHeader(r.Header, uploadHeaders)
	} else {
		out.Header = pickHeader(r.Header, downloadHeaders)
	}
	return out
}

// Headers that mean something to WeChat. Accept-Encoding is not among them: no
// compression is asked for, so none has to be undone.
var (
	downloadHeaders = []string{"Accept", "Accept-Language", "If-Match", "If-Modified-Since", "If-None-Match",
		"If-Range", "If-Unmodified-Since", "Range", "User-Agent"}
	uploadHeaders = []string{"Accept", "Accept-Language", "Content-Disposition", "Content-Encoding",
		"Content-Language", "Content-Md5", "User-Agent"}
)

func pickHeader(from http.Header, names []string) http.Header {
	// what is there and empty, the proxy does not add
	to := http.Header{"X-Forwarded-For": nil, "X-Forwarded-Proto": nil, "X-Forwarded-Host": nil}
	for _, name := range names {
		if v, ok := from[name]; ok {
			to[name] = v
		}
	}
	return to
}

// proxyFailed is for an error of the proxy's. What WeChat answered when no retry was
// left is the answer; what the operator's own handle_response routes return is theirs.
func (h *Handler) proxyFailed(r *http.Request, ex *exchange, err error) error {
	if ex.kept != nil && (ex.cause != nil || retriesUsedUp(err)) {
		ex.kept.write(ex.caller)
		return nil
	}
	if ex.cause == nil && ex.last != nil && !retriesUsedUp(err) {
		return err
	}
	var handlerErr caddyhttp.HandlerError
	if !errors.As(err, &handlerErr) {
		return err
	}
	return h.refuse(r, ex, refuseProxyError(handlerErr, ex.cause))
}

// retriesUsedUp reports whether a reply matched lb_retry_match once too often. The
// proxy's error has no type that could be asked for.
func retriesUsedUp(err error) bool {
	return err != nil && strings.Contains(err.Error(), "upstream response matched retry_match")
}

// refuseProxyError is for a request that did not get an answer from an upstream.
func refuseProxyError(err caddyhttp.HandlerError, cause error) *refusal {
	if err.StatusCode == statusClientGone {
		return refuseGone(err.Err)
	}
	if cause == nil {
		cause = err.Err
	}
	return refuseUpstream(timedOut(cause) || err.StatusCode == http.StatusGatewayTimeout, cause)
}

// refuse answers the caller in the shape that is configured.
func (h *Handler) refuse(r *http.Request, ex *exchange, refused *refusal) error {
	w := ex.caller.ResponseWriter
	ex.refusal = refused
	h.log(ex)
	if r.ContentLength != 0 {
		ex.caller.beforeEarlyAnswer()
	}
	ex.caller.unread = r.ContentLength != 0 && refused.status != statusClientGone
	if h.Errors == errorsCaddy {
		refused.setHeader(w.Header())
		return caddyhttp.Error(refused.status, refused)
	}
	refused.write(w, r)
	return nil
}

// log tells the operator of what is not the caller's own doing.
func (h *Handler) log(ex *exchange) {
	level := zapcore.DebugLevel
	if ex.refusal.status >= http.StatusInternalServerError {
		level = zapcore.ErrorLevel
	}
	if c := h.logger.Check(level, "request not passed on"); c != nil {
		fields := []zap.Field{
			zap.Int("status", ex.refusal.status),
			zap.Int("errcode", ex.refusal.errcode),
			zap.String("endpoint", string(ex.call.endpoint)),
			zap.Error(ex.refusal),
		}
		if ex.app != nil {
			fields = append(fields, appIDField(ex.app.id))
		}
		c.Write(fields...)
	}
}

// noNext stands behind the proxy, which is the end of the line.
var noNext caddyhttp.Handler = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// refuseCaller is for uploads that failed on the caller's side.
func refuseCaller(err error, limit int64) *refusal {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, replay.ErrTooLarge):
		return refuseTooLarge(limit)
	case errors.Is(err, replay.ErrNoMemory):
		return refuseNoMemory()
	case errors.As(err, &tooLarge):
		return refuseLimit(err)
	case timedOut(err):
		return refuseSlowCaller(err)
	}
	return refuseBrokenUpload(err)
}

// formOf says what seems to be wrong with an upload that WeChat refused.
func formOf(ex *exchange, code int) string {
	if ex.upload == nil || code != errcode.FileType && code != errcode.NoMedia || !ex.upload.Replayable() {
		return ""
	}
	head, err := ex.upload.Head(formPart)
	if err != nil {
		return ""
	}
	return formFault(code, head)
}
