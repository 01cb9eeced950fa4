package wechatmedia

// The request path: what a request means, for which app, and whether it is
// refused or proxied.

import (
	"errors"
	"mime"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The values of Handler.Errors.
const (
	errorsWechat = "wechat"
	errorsCaddy  = "caddy"
)

// ServeHTTP answers every request that it is given; next is never called.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	repl := replacerFrom(r.Context())
	ex := &exchange{
		Context: r.Context(), caller: w, request: r,
		translateStatus: h.TranslateStatus, cacheControl: h.CacheControl,
		failover: len(h.proxy.Upstreams) > 1 || h.proxy.DynamicUpstreams != nil,
	}
	repl.Map(ex.placeholder)
	defer countRequest(ex)

	c, refused := parseCall(r.Method, r.URL)
	ex.call = c
	if refused != nil {
		return h.refuse(w, r, ex, refused)
	}
	if c.endpoint == endpointToken || c.endpoint == endpointStableToken {
		if !h.SDKTokens {
			return h.refuse(w, r, ex, refuseNoEndpoint())
		}
		ex.status = http.StatusOK
		return answerToken(w)
	}
	if ex.app, refused = h.transport.selectApp(repl); refused != nil {
		return h.refuse(w, r, ex, refused)
	}
	if c.endpoint == endpointUpload {
		if refused = h.checkUpload(r, ex); refused != nil {
			return h.refuse(w, r, ex, refused)
		}
		return h.pass(w, r, ex)
	}
	ex.closeCaller() // a body that comes with it will not be read
	if h.CacheControl != "" && slices.Contains(r.Header["If-None-Match"], ex.etag()) {
		// the same media_id is the same bytes: no need to ask WeChat
		ex.setCacheHeader(w.Header())
		ex.status = http.StatusNotModified
		w.WriteHeader(ex.status)
		return nil
	}
	return h.pass(w, r, ex)
}

// checkUpload refuses what WeChat would refuse, before a byte of it is read.
func (h *Handler) checkUpload(r *http.Request, ex *exchange) *refusal {
	limit, ok := h.limits[ex.call.mediaType]
	if !ok {
		return refuseType("allowed here: " + strings.Join(h.Types, ", "))
	}
	ex.maxUpload = limit
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil || mediaType != "multipart/form-data":
		return refuseNoMedia("send multipart/form-data with a part named media")
	case params["boundary"] == "":
		return refuseNoMedia("the Content-Type has no boundary")
	case r.ContentLength == 0:
		return refuseNoMedia("the body is empty")
	case r.ContentLength > limit:
		return refuseTooLarge(limit)
	}
	return nil
}

// pass hands the request to the proxy and shapes what the proxy could not do.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, ex *exchange) error {
	defer ex.done()
	out := h.outgoing(r, ex)
	rw := w
	if h.Errors == errorsCaddy {
		rw = &refusalInterceptor{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, ex: ex}
	}
	err := h.proxy.ServeHTTP(rw, out, noNext)
	if err != nil {
		if refused := refuseProxyError(err, ex.timedOut); refused != nil {
			return h.refuse(w, r, ex, refused)
		}
		return err // of the operator's own handle_response routes
	}
	if ex.refusal != nil {
		h.log(ex)
		if h.Errors == errorsCaddy {
			return h.refuse(w, r, ex, ex.refusal)
		}
	}
	return nil
}

// outgoing is the request for WeChat, less the access token. Everything in it is
// made or chosen here. RequestURI, which the proxy's debug log shows, is no
// exception: a caller may have put a token of its own into it.
func (h *Handler) outgoing(r *http.Request, ex *exchange) *http.Request {
	out := r.WithContext(ex)
	out.Method = ex.call.method
	out.RequestURI = ex.call.uri()
	ex.url.Path, ex.url.RawQuery, _ = strings.Cut(out.RequestURI, "?")
	out.URL = &ex.url
	out.Trailer = nil
	if ex.call.endpoint == endpointUpload {
		out.Header = pickHeader(r.Header, uploadHeaders)
		out.Header.Set("Content-Type", unquoteBoundary(r.Header.Get("Content-Type")))
	} else {
		out.Header = pickHeader(r.Header, downloadHeaders)
		out.Body, out.ContentLength, out.TransferEncoding = http.NoBody, 0, nil
	}
	return out
}

// Headers that mean something to WeChat. Accept-Encoding is not among them: no
// compression is asked for, so none has to be undone.
var (
	downloadHeaders = []string{"Accept", "Accept-Language", "If-Match", "If-Modified-Since", "If-None-Match",
		"If-Range", "If-Unmodified-Since", "Range", "User-Agent"}
	uploadHeaders = []string{"Accept", "Accept-Language", "Content-Disposition", "Content-Encoding",
		"Content-Language", "Content-Length", "Content-Md5", "Content-Type", "User-Agent"}
)

func pickHeader(from http.Header, names []string) http.Header {
	to := make(http.Header) // most callers send few of them
	for _, name := range names {
		if v, ok := from[name]; ok {
			to[name] = v
		}
	}
	return to
}

// unquoteBoundary writes the boundary of a multipart Content-Type without quotes,
// where it can do without: WeChat takes a quoted one, as .NET sends it, for part
// of the boundary and finds no media (41005).
func unquoteBoundary(contentType string) string {
	if !strings.Contains(contentType, `"`) {
		return contentType
	}
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return contentType
	}
	boundary := params["boundary"]
	if strings.ContainsAny(boundary, " \t\",;\\") {
		return contentType
	}
	return mediaType + "; boundary=" + boundary
}

// refuseProxyError turns an error of the proxy into the gateway's own; nil for
// one that did not come from reaching the upstream.
func refuseProxyError(err error, timedOut bool) *refusal {
	var handlerErr caddyhttp.HandlerError
	if !errors.As(err, &handlerErr) {
		return nil
	}
	switch handlerErr.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return refuseUpstream(timedOut || handlerErr.StatusCode == http.StatusGatewayTimeout, handlerErr.Err)
	case statusClientGone:
		return &refusal{status: statusClientGone, errcode: errcodeBusy, errmsg: "the caller left", cause: handlerErr.Err}
	}
	return nil
}

// refuse answers the caller in the shape that is configured.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, ex *exchange, refused *refusal) error {
	if ex.refusal != refused {
		ex.refusal = refused
		h.log(ex)
	}
	if ex.upload == nil || ex.upload.unread() {
		ex.closeCaller()
	}
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

// refusalInterceptor keeps a reply of the transport's own from the caller, so
// that the handler can return it as an error.
type refusalInterceptor struct {
	*caddyhttp.ResponseWriterWrapper
	ex *exchange
}

func (w *refusalInterceptor) WriteHeader(status int) {
	if w.ex.refusal == nil || status < http.StatusOK {
		w.ResponseWriterWrapper.WriteHeader(status)
		return
	}
	for _, name := range []string{"Content-Length", "Content-Type", "Via"} {
		w.Header().Del(name)
	}
}

func (w *refusalInterceptor) Write(p []byte) (int, error) {
	if w.ex.refusal != nil {
		return len(p), nil
	}
	return w.ResponseWriterWrapper.Write(p)
}
