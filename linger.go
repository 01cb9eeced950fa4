package wechatmedia

// The directive wechat_linger: what the gateway does for callers that it refuses, for
// those whom another handler of the site refuses.

import (
	"io"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Linger{})
	httpcaddyfile.RegisterHandlerDirective("wechat_linger", parseLinger)
	httpcaddyfile.RegisterDirectiveOrder("wechat_linger", httpcaddyfile.Before, "tracing")
}

// Linger lets callers see an answer that leaves before all of their upload has been
// read, such as the 401 of `respond`, `basic_auth` or `forward_auth`. Many clients send
// all of a request before they read, and see a broken connection otherwise. The answer
// leaves at once; then the rest of the upload is read and thrown away, for 30 s, 64 MiB
// and 5 s without a byte (1 s over HTTP/2 and 3) at the most. It stands in front of the
// handlers that it is for, and has no options.
type Linger struct{}

// CaddyModule returns the Caddy module information.
func (Linger) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.wechat_linger",
		New: func() caddy.Module { return new(Linger) },
	}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (Linger) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Body == nil || r.ContentLength == 0 {
		return next.ServeHTTP(w, r)
	}
	early := &earlyAnswer{body: &watchedBody{ReadCloser: r.Body, length: r.ContentLength}}
	early.init(w, r, nil)
	r.Body = early.body
	err := next.ServeHTTP(early, r)
	switch {
	case early.early:
		early.flush()
	case err == nil || early.body.ended():
		return err
	default: // an error route answers, behind which nothing can be read
		early.prepare()
	}
	if !early.waits() {
		early.readAway()
	}
	return err
}

// watchedBody notes how far a request has been read, from whatever goroutine.
type watchedBody struct {
	io.ReadCloser
	length  int64
	read    atomic.Int64
	stopped atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	if err != nil {
		b.stopped.Store(true)
	}
	return n, err
}

// ended reports whether nothing more is to come.
func (b *watchedBody) ended() bool {
	return b.stopped.Load() || b.length > 0 && b.read.Load() >= b.length
}

// earlyAnswer notes whether an answer leaves before the request has been read.
type earlyAnswer struct {
	caller
	body  *watchedBody
	early bool
	wrote bool
}

// prepare gets ready for an answer to a request that has not been read.
func (w *earlyAnswer) prepare() {
	w.asked = w.body.read.Load() > 0
	w.beforeEarlyAnswer()
}

// WriteHeader passes the status on.
func (w *earlyAnswer) WriteHeader(status int) {
	if !w.wrote && status >= http.StatusOK {
		w.wrote = true
		if !w.body.ended() {
			w.early = true
			w.prepare()
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write writes part of the answer.
func (w *earlyAnswer) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// parseLinger sets up the handler from Caddyfile tokens. Syntax:
//
//	wechat_linger [<matcher>]
func parseLinger(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	return Linger{}, new(Linger).UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up l from Caddyfile tokens; see parseLinger.
func (*Linger) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	return noBlock(d, "wechat_linger")
}

// Interface guards
var (
	_ caddyhttp.MiddlewareHandler = Linger{}
	_ caddyfile.Unmarshaler       = (*Linger)(nil)
)
