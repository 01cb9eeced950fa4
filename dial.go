package wechatmedia

// How connections to WeChat are made: by Caddy's own dialing, with what internal/wire
// adds to it.

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-wechat/caddy-wechat-media/internal/wire"
)

// provisionWire has the transport make its connections through internal/wire. What is
// not HTTP/1.1 multiplexes, and needs neither spares nor bulk reads.
func (t *Transport) provisionWire(writeStall time.Duration, egress bool) {
	rt := t.HTTPTransport.Transport
	options := wire.Options{
		Dial: rt.DialContext, TLS: rt.TLSClientConfig, HandshakeTimeout: rt.TLSHandshakeTimeout,
		Stall: writeStall, IdleTimeout: time.Duration(t.KeepAlive.IdleConnTimeout), MaxSpares: max(0, t.SpareConnections),
		MaxConns: t.MaxConns, CloseIdle: rt.CloseIdleConnections,
		Key: t.destinationOf, Detach: detachDial, Observe: observeSpare,
	}
	ownTLS := t.ownTLS()
	if egress && ownTLS {
		options.Proxy = egressOf(rt.Proxy)
	}
	if !slices.Equal(t.Versions, []string{"1.1"}) || egress && (!ownTLS || len(t.TLS.ExceptPorts) > 0) {
		options.MaxSpares = 0 // http.Transport sees to the proxy
	}
	t.egress = egress
	t.dialer = wire.NewDialer(options)
	rt.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return t.dialer.DialContext(ownVars(ctx, t.egress), network, addr)
	}
	if ownTLS {
		rt.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return t.dialer.DialTLSContext(ownVars(ctx, t.egress), network, addr)
		}
		proxy := rt.Proxy
		rt.Proxy = func(req *http.Request) (*url.URL, error) {
			if req.URL.Scheme == "https" {
				return nil, nil // DialTLSContext sees to it
			}
			return proxy(req)
		}
	}
}

// hasEgressProxy reports whether requests may go through an egress proxy: one of the
// transport's, or one that the environment names.
func (t *Transport) hasEgressProxy() bool {
	env := httpproxy.FromEnvironment()
	return t.NetworkProxyRaw != nil || t.ForwardProxyURL != "" || env.HTTPSProxy != "" || env.HTTPProxy != ""
}

// ownTLS reports whether TLS is made by internal/wire: Caddy's own is needed where it
// depends on the request, and for HTTP/2.
func (t *Transport) ownTLS() bool {
	rt := t.HTTPTransport.Transport
	return t.TLS != nil && rt.DialTLSContext == nil && slices.Equal(t.Versions, []string{"1.1"})
}

// egressOf asks for the proxy of a connection as http.Transport does for a
// request's.
func egressOf(proxy func(*http.Request) (*url.URL, error)) func(context.Context, *url.URL) (*url.URL, error) {
	return func(ctx context.Context, u *url.URL) (*url.URL, error) {
		return proxy((&http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: make(http.Header)}).WithContext(ctx))
	}
}

// send is the last step of all requests. Caddy's dialing finds out from the vars that
// there is an egress proxy, which is written there meanwhile: each has its own.
func (t *Transport) send(out *http.Request) (*http.Response, error) {
	if t.egress {
		out = out.WithContext(ownVars(out.Context(), false))
	}
	return t.HTTPTransport.RoundTrip(out)
}

// ownVars gives a connection being made vars of its own: it may outlive the request
// that it is made for, whose handlers go on writing to theirs. proxied says whether an
// egress proxy that is in them is this connection's.
func ownVars(ctx context.Context, proxied bool) context.Context {
	vars, _ := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	own := make(map[string]any)
	for _, key := range []string{"reverse_proxy.proxy_protocol_info", "reverse_proxy.proxy"} {
		if v, ok := vars[key]; ok && (proxied || key != "reverse_proxy.proxy") {
			own[key] = v
		}
	}
	return context.WithValue(ctx, caddyhttp.VarsCtxKey, own)
}

// detachDial is the context of a connection that is made for requests to come.
func detachDial(ctx context.Context) context.Context {
	ctx = context.WithoutCancel(ctx)
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	return ownVars(ctx, true)
}

// destinationOf names what a connection leads to; nothing, if that is not the same for
// every request.
func (t *Transport) destinationOf(ctx context.Context, network, addr string) string {
	if t.ProxyProtocolEnabled() || t.TLS != nil && strings.Contains(t.TLS.ServerName, "{") {
		return ""
	}
	if di, ok := reverseproxy.GetDialInfo(ctx); ok {
		network, addr = di.Network, di.Address
	}
	if network == "tcp" {
		return addr
	}
	return network + " " + addr
}
