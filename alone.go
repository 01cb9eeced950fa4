package wechatmedia

// The transport without the handler, in a reverse_proxy of the operator's: app, upload and
// refusals are its own business.

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-wechat/caddy-wechat-media/internal/replay"
)

var errNotKept = errors.New("the upload was not kept for sending it again")

// roundTripAlone is for a transport without the handler: app and upload are its own
// business.
func (t *Transport) roundTripAlone(req *http.Request) (*http.Response, error) {
	ex := t.exchangeAlone(req)
	app, refused := t.selectApp(replacerFrom(ex.ctx))
	if refused != nil {
		closeBody(req)
		return t.refuse(ex, req, refused)
	}
	ex.app = app
	if ex.upload == nil {
		return t.serve(ex, req)
	}
	var res *http.Response
	err := gather(ex.upload)
	switch {
	case err != nil:
		res, err = t.refuse(ex, req, refuseCaller(err, t.ReplayBuffer))
	case ex.upload.Length() == 0:
		ex.upload = nil
		return t.serve(ex, req)
	default:
		res, err = t.serve(ex, req)
	}
	if err != nil {
		ex.leaveUpload()
		return nil, err
	}
	res.Body = &uploadsAnswer{res.Body, ex}
	return res, nil
}

// aloneVar is where the request's vars have the exchange of a transport without the
// handler.
const aloneVar = "wechat_transport.exchange"

// exchangeAlone returns the exchange of a request, which the proxy may send to several
// upstreams: its body is read from its caller once.
func (t *Transport) exchangeAlone(req *http.Request) *exchange {
	ctx := req.Context()
	if ex, ok := caddyhttp.GetVar(ctx, aloneVar).(*exchange); ok && ex.transport == t && ex.upload != nil && ex.body == req.Body {
		return ex
	}
	ex := &exchange{ctx: ctx, transport: t}
	if req.Body != nil && req.ContentLength != 0 {
		ex.body = req.Body
		ex.upload = replay.New(req.Body, replay.Options{Length: req.ContentLength, Most: t.ReplayBuffer, Budget: t.budget, Beside: t.CallerBuffer})
		caddyhttp.SetVar(ctx, aloneVar, ex)
	}
	return ex
}

// leaveUpload ends what still reads the caller's body, before the server takes it back.
// What nobody reads stays for the next upstream, as long as the request lasts.
func (ex *exchange) leaveUpload() {
	if !ex.reads() {
		context.AfterFunc(ex.ctx, ex.upload.Finish)
		return
	}
	reader, _ := caddyhttp.IdleTimeoutsFromContext(ex.ctx)
	if reader == nil { // no idle timeout: nothing can end a read
		ex.upload.Finish()
		return
	}
	ex.upload.Abandon(func() { _ = reader.SetReadDeadline(time.Unix(1, 0)) })
}

// reads reports whether somebody may be reading the caller's body.
func (ex *exchange) reads() bool {
	return ex.upload.Unread() && ex.last != nil && ex.last.connected()
}

// uploadsAnswer is the body of the answer to an upload.
type uploadsAnswer struct {
	io.ReadCloser
	ex *exchange
}

// Close closes the body, and leaves the upload.
func (b *uploadsAnswer) Close() error {
	defer b.ex.leaveUpload()
	return b.ReadCloser.Close()
}

// A refusal without the handler has a status of its own until the proxy has looked at
// it: with the true one it would be counted by an unhealthy_status of the operator's.
const (
	statusOfOwn       = 299
	statusPlaceholder = "http.wechat_transport.status"
)

// showOwnStatus has the proxy give refusals their true status.
func (t *Transport) showOwnStatus(proxy *reverseproxy.Handler) {
	proxy.HandleResponse = slices.Insert(slices.Clone(proxy.HandleResponse), 0, caddyhttp.ResponseHandler{
		Match:      &caddyhttp.ResponseMatcher{StatusCode: []int{statusOfOwn}},
		StatusCode: "{" + statusPlaceholder + "}",
	})
}

// statusAlone is for an upstream whose status happens to be the one of our own.
func (t *Transport) statusAlone(ex *exchange, res *http.Response) {
	if res.StatusCode == statusOfOwn {
		replacerFrom(ex.ctx).Set(statusPlaceholder, statusOfOwn)
	}
}
