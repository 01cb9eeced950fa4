package wechatmedia

// How token requests leave the machine: through the media transport, with its
// egress proxy, local address and TLS trust, to the same hosts.

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// defaultBaseURL is where tokens come from when the upstreams are not known
// before a request is.
const defaultBaseURL = "https://api.weixin.qq.com"

// tokenClient returns the client for token requests. It follows no redirect, for
// the request carries the secret.
func (t *Transport) tokenClient() *http.Client {
	return &http.Client{
		Transport:     tokenRoundTripper{t.HTTPTransport},
		Timeout:       tokenRequestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// tokenRoundTripper lends Caddy's transport the context that it expects of a
// request which came in through its server.
type tokenRoundTripper struct{ *reverseproxy.HTTPTransport }

func (rt tokenRoundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := context.WithValue(req.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
	res, err := rt.HTTPTransport.RoundTrip(req.WithContext(ctx))
	var dial reverseproxy.DialError // hides what it is about
	if errors.As(err, &dial) {
		err = &wireError{dial.Error(), nil}
	}
	return res, err
}

// baseURLs lists the upstreams of the reverse_proxy that t is part of.
func (t *Transport) baseURLs(ctx caddy.Context) []string {
	scheme := "http"
	if t.TLSEnabled() {
		scheme = "https"
	}
	var urls []string
	repl := caddy.NewReplacer()
	for _, mod := range ctx.Modules() {
		proxy, ok := mod.(*reverseproxy.Handler)
		if !ok {
			continue
		}
		urls = nil // the innermost one counts
		for _, upstream := range proxy.Upstreams {
			addr, err := caddy.ParseNetworkAddress(repl.ReplaceKnown(upstream.Dial, ""))
			if err != nil || addr.IsUnixNetwork() || strings.Contains(addr.Host, "{") {
				continue
			}
			hostport := addr.JoinHostPort(0)
			hostport = strings.TrimSuffix(hostport, map[string]string{"http": ":80", "https": ":443"}[scheme])
			urls = append(urls, scheme+"://"+hostport)
		}
	}
	if len(urls) == 0 {
		urls = []string{defaultBaseURL}
	}
	return urls
}
