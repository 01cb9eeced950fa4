package wechatmedia

// What the handler and the transport tell each other about one request.

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// exchange is one caller's request. The handler makes it; the transport, which
// the proxy may call once for each upstream it tries, fills it in. It belongs to
// the goroutine that serves the request. It is the context of the request to
// WeChat, and holds what every request needs, to be in one piece.
type exchange struct {
	context.Context // of the caller's request

	call call
	app  *app

	// settings of the handler
	maxUpload       int64 // bytes; of uploads of unknown length
	translateStatus bool
	cacheControl    string
	failover        bool // there are further upstreams

	tried []*reverseproxy.Upstream

	url   url.URL  // for WeChat, less the access token
	first attempt  // the first one; newAttempt makes the others
	last  *attempt // nil: there has been none

	caller  http.ResponseWriter
	request *http.Request

	upload     *upload
	connReused bool     // the upload's last attempt went out on a connection used before
	timedOut   bool     // why the last attempt failed; the proxy's error hides it
	refusal    *refusal // the gateway's own answer, in place of WeChat's
	verdict    verdict
	status     int // of the answer as it came from WeChat's side; 0: there is none
	retries    int
}

type exchangeKey struct{}

// Value implements context.Context.
func (ex *exchange) Value(key any) any {
	if key == (exchangeKey{}) {
		return ex
	}
	return ex.Context.Value(key)
}

func exchangeFrom(ctx context.Context) *exchange {
	ex, _ := ctx.Value(exchangeKey{}).(*exchange)
	return ex
}

func (ex *exchange) newAttempt() *attempt {
	if ex.last == nil {
		ex.last = &ex.first
	} else {
		ex.last = new(attempt)
	}
	return ex.last
}

// placeholder answers for {http.wechat_media.*}.
func (ex *exchange) placeholder(key string) (any, bool) {
	const prefix = "http.wechat_media."
	if len(key) <= len(prefix) || key[:len(prefix)] != prefix {
		return nil, false
	}
	switch key[len(prefix):] {
	case "endpoint":
		return string(ex.call.endpoint), true
	case "app_id":
		if ex.app == nil {
			return "", true
		}
		return ex.app.id, true
	case "media_id":
		return ex.call.mediaID, true
	case "errcode":
		return strconv.Itoa(ex.errcode()), true
	case "errmsg":
		if ex.refusal != nil {
			return ex.refusal.errmsg, true
		}
		return ex.verdict.errmsg, true
	case "retries":
		return strconv.Itoa(ex.retries), true
	}
	return nil, false
}

// etag stands for the bytes of a download: a media_id never gets others.
func (ex *exchange) etag() string {
	return `"` + string(ex.call.endpoint) + "-" + ex.call.mediaID + `"`
}

// setCacheHeader lets a download be kept, as the operator has it.
func (ex *exchange) setCacheHeader(h http.Header) {
	h.Set("Cache-Control", ex.cacheControl)
	h.Set("Etag", ex.etag())
}

// errcode is what the caller is told: the gateway's own or WeChat's; 0 is a success.
func (ex *exchange) errcode() int {
	if ex.refusal != nil {
		return ex.refusal.errcode
	}
	return ex.verdict.errcode
}

// refuse answers in WeChat's place.
func (ex *exchange) refuse(req *http.Request, r *refusal) *http.Response {
	ex.refusal = r
	return r.response(req)
}

// diedIdle reports whether an upload failed because the connection that it was
// given had been closed by WeChat meanwhile, as far as that can be known: as long
// as the last byte has not left, WeChat cannot have taken the upload.
// http.Transport itself starts over only if not a single byte has left.
func (ex *exchange) diedIdle() bool {
	reused := ex.upload != nil && ex.connReused && ex.upload.replayable() && !ex.upload.everSent()
	ex.connReused = false
	return reused
}

// readDeadline bounds each wait for the caller's next bytes, unless the server
// has a read timeout of its own. The deadline must not outlive the body: the
// server goes on reading, to notice when the caller leaves.
func (ex *exchange) readDeadline(timeout time.Duration) func(reading bool) {
	if ex.caller == nil || timeout <= 0 {
		return nil
	}
	if srv, ok := ex.request.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && srv.ReadTimeout > 0 {
		return nil
	}
	rc := http.NewResponseController(ex.caller)
	return func(reading bool) {
		var deadline time.Time
		if reading {
			deadline = time.Now().Add(timeout)
		}
		_ = rc.SetReadDeadline(deadline)
	}
}

// closeCaller makes an answer leave at once although the caller's body has not
// been read. Caddy's server, which has replaced the body with a reader of its
// own, would first drain up to 256 KiB of it, after asking for it with 100
// Continue. HTTP/2 and HTTP/3 end the one stream by themselves.
//
// A caller who is still sending needs the time to see the answer: closing the
// connection at once resets it, which can throw the answer away before it is read.
// net/http gives him that time when it knows that a limit of the body was hit.
func (ex *exchange) closeCaller() {
	if ex.caller == nil || ex.request.ProtoMajor != 1 || ex.request.ContentLength == 0 {
		return
	}
	ex.caller.Header().Set("Connection", "close")
	w := ex.caller
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	hit := http.MaxBytesReader(w, io.NopCloser(strings.NewReader("a body")), 0)
	_, _ = hit.Read(make([]byte, 1))
}

// done ends what still reads the caller's body, before the server takes it back.
func (ex *exchange) done() {
	if ex.upload == nil {
		return
	}
	ex.upload.abandon(func() {
		if ex.caller != nil {
			_ = http.NewResponseController(ex.caller).SetReadDeadline(time.Unix(1, 0))
		}
	})
}

// replacerFrom is the request's replacer, or an empty one.
func replacerFrom(ctx context.Context) *caddy.Replacer {
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		return repl
	}
	return caddy.NewEmptyReplacer()
}
