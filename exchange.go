package wechatmedia

// What the handler and its transport tell each other about one request.

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-wechat/caddy-wechat-media/internal/replay"
)

// exchange is one caller's request. The handler makes it; its transport, which the
// proxy may call once for each upstream it tries, fills it in. It belongs to the
// goroutine that serves the request.
type exchange struct {
	ctx       context.Context // of the caller's request
	transport *Transport      // the one whose request this is
	caller    *caller         // nil: the transport works without the handler; else &own
	own       caller

	call call
	app  *app

	// settings of the handler
	translateStatus bool
	cacheControl    string
	etag            string
	vary            []string
	failover        bool // there are further upstreams

	url     url.URL  // for WeChat, less the access token
	first   attempt  // the first one; newAttempt makes the others
	last    *attempt // nil: there has been none
	upload  *replay.Upload
	body    io.Reader // which it reads, without the handler
	form    string    // what seems to be wrong with an upload that WeChat refused
	kept    *answer   // the upstream's, in case no further upstream has a better one
	cause   error     // why the last round trip failed; nil: it did not
	refusal *refusal  // the gateway's own answer, in place of WeChat's
	verdict verdict
	status  int // of the answer as it came from WeChat's side; 0: there is none
	retries int
}

// exchangeVar is where the request's vars have the exchange of the last handler.
const exchangeVar = "wechat_media.exchange"

// enter makes ex the exchange of the request. With two handlers in one request,
// placeholders speak of the last one's.
func (ex *exchange) enter() {
	first := caddyhttp.GetVar(ex.ctx, exchangeVar) == nil
	caddyhttp.SetVar(ex.ctx, exchangeVar, ex)
	if first {
		ctx := ex.ctx
		replacerFrom(ctx).Map(func(key string) (any, bool) { return placeholder(ctx, key) })
	}
}

// exchangeOf returns the exchange that t's handler has begun, or nil. One of another
// transport, as a handle_response route may have it, is nothing to t.
func exchangeOf(ctx context.Context, t *Transport) *exchange {
	if ex, ok := caddyhttp.GetVar(ctx, exchangeVar).(*exchange); ok && ex.transport == t {
		return ex
	}
	return nil
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
func placeholder(ctx context.Context, key string) (any, bool) {
	name, ok := strings.CutPrefix(key, "http.wechat_media.")
	if !ok {
		return nil, false
	}
	ex, ok := caddyhttp.GetVar(ctx, exchangeVar).(*exchange)
	if !ok {
		return nil, false
	}
	switch name {
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
	case "form":
		return ex.form, true
	}
	return nil, false
}

// errcode is what the caller is told: the gateway's own or WeChat's; 0 is a success.
func (ex *exchange) errcode() int {
	if ex.refusal != nil {
		return ex.refusal.errcode
	}
	return ex.verdict.errcode
}

// setCacheHeader lets a download be kept, as the operator has it.
func (ex *exchange) setCacheHeader(h http.Header) {
	h.Set("Cache-Control", ex.cacheControl)
	h.Set("Etag", ex.etag)
	for _, name := range ex.vary {
		h.Add("Vary", name)
	}
}

// done ends what still reads the caller's body, before the server takes it back.
func (ex *exchange) done() {
	if ex.upload != nil {
		ex.upload.Abandon(ex.caller.interruptRead)
	}
}

// replacerFrom is the request's replacer, or an empty one.
func replacerFrom(ctx context.Context) *caddy.Replacer {
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		return repl
	}
	return caddy.NewEmptyReplacer()
}
