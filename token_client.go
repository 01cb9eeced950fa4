package wechatmedia

// How token calls leave. They go through the very reverse_proxy that the transport is
// part of, so that everything an operator writes for media holds for them too: unix
// sockets, dynamic upstreams, Host, server name, PROXY protocol, egress proxies,
// failover. What is secret in them does not pass through the proxy: RoundTrip puts it
// in, as it does with the access token.

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
)

const (
	// issuerHost stands for the upstreams in the URL of a token call.
	issuerHost = "upstream.invalid"

	// tokenRequestTimeout bounds one token call, all upstreams together.
	tokenRequestTimeout = 10 * time.Second

	// maxTokenReply is the most that is taken of an answer, in bytes; a token source
	// takes less.
	maxTokenReply = 128 << 10
)

// tokenCall is a token call on its way through the proxy.
type tokenCall struct {
	req   *http.Request // as the token source has made it
	tries int
	res   *http.Response
	err   error
}

type tokenCallKey struct{}

func tokenCallOf(ctx context.Context) *tokenCall {
	call, _ := ctx.Value(tokenCallKey{}).(*tokenCall)
	return call
}

// tokenClient returns the client for token calls. It follows no redirect, for the
// request carries the secret.
func (t *Transport) tokenClient() *http.Client {
	return &http.Client{
		Transport:     tokenTransport{t},
		Timeout:       tokenRequestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// tokenTransport sends what is for the upstreams through the proxy, and what is for
// another host, as a token server, the way that http.Transport finds.
type tokenTransport struct{ *Transport }

func (t tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != issuerHost {
		ctx := callContext(req.Context(), caddy.NewReplacer())
		return t.elsewhere.RoundTrip(req.WithContext(ctx))
	}
	call := &tokenCall{req: req}
	ctx := callContext(context.WithValue(req.Context(), tokenCallKey{}, call), caddy.NewReplacer())
	proxied := (&http.Request{
		Method: req.Method, URL: cleanURL(req), RequestURI: req.URL.Path, Header: make(http.Header), Host: issuerHost,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	err := t.tokenProxy().ServeHTTP(discardWriter{}, proxied, noNext)
	switch {
	case call.res != nil:
		return call.res, nil
	case call.err != nil:
		return nil, call.err
	case err != nil:
		return nil, &net.OpError{Op: "dial", Net: "upstream", Err: errors.New("no upstream is available")}
	}
	return nil, errors.New("the proxy did not send the token call")
}

// callContext is a request's context as Caddy's server makes it. There is no caller:
// the address is this machine's.
func callContext(ctx context.Context, repl *caddy.Replacer) context.Context {
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, repl)
	ctx = context.WithValue(ctx, caddyhttp.ServerCtxKey, new(caddyhttp.Server))
	ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, http.Request{})
	return context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{
		caddyhttp.ClientIPVarKey:            "127.0.0.1",
		caddyhttp.TrustedProxyVarKey:        false,
		"reverse_proxy.proxy_protocol_info": reverseproxy.ProxyProtocolInfo{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)},
	})
}

// tokenProxy is the proxy less what it does with replies, and what it makes of their
// failures: a token endpoint that is down says nothing about WeChat's media.
func (t *Transport) tokenProxy() *reverseproxy.Handler {
	proxy := *t.proxy
	proxy.HandleResponse, proxy.Rewrite, proxy.HealthChecks = nil, nil, nil
	proxy.RequestBuffers, proxy.ResponseBuffers = 0, 0
	lb := *cmp.Or(proxy.LoadBalancing, new(reverseproxy.LoadBalancing))
	lb.RetryMatch, lb.TryDuration = nil, 0
	lb.Retries = t.tokenHosts() - 1
	lb.SelectionPolicy = &tokenSelection{operators: lb.SelectionPolicy}
	proxy.LoadBalancing = &lb
	return &proxy
}

// tokenSelection sends a token call where the operator's policy says, and from there
// on to hosts that have not been tried: a policy that relies on hosts being found to be
// down would stay with the first one, and one that finds all of them busy has none.
type tokenSelection struct {
	operators reverseproxy.Selector
	others    FailoverSelection
}

// Select implements reverseproxy.Selector.
func (s *tokenSelection) Select(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	if seen := s.others.triedBy(r); len(seen.upstreams) == 0 {
		if upstream := s.operators.Select(pool, r, w); upstream != nil {
			seen.upstreams = append(seen.upstreams, upstream)
			return upstream
		}
	}
	return s.others.Select(pool, r, w)
}

// tokenHosts is how many upstreams a token call may try.
func (t *Transport) tokenHosts() int {
	const dynamic = 2
	if t.proxy.DynamicUpstreams != nil {
		return dynamic
	}
	return max(1, len(t.proxy.Upstreams))
}

// sendTokenCall is what RoundTrip does with a token call: it sends the true one to
// where the proxy has directed it. The next upstream is tried only if this one was not
// reached, for then it has decided nothing.
func (t *Transport) sendTokenCall(call *tokenCall, req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if deadline, ok := ctx.Deadline(); ok { // leaves time for the others
		left := max(1, t.tokenHosts()-call.tries)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	call.tries++
	out, err := t.trueCall(call, req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	res, err := t.send(out)
	if err != nil {
		call.err = dialCause(withoutURL(err))
		return nil, reverseproxy.NewDialError(errors.New("the token call failed"))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxTokenReply))
	if err != nil {
		call.err = err
		return nil, reverseproxy.NewDialError(errors.New("the token call failed"))
	}
	call.err = nil
	res.Body = io.NopCloser(bytes.NewReader(body))
	call.res = res
	return &http.Response{StatusCode: res.StatusCode, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: http.NoBody, Request: req}, nil
}

// dialCause is what an error of dialing is about, which its type hides.
func dialCause(err error) error {
	var dial reverseproxy.DialError
	if errors.As(err, &dial) {
		return &net.OpError{Op: "dial", Net: "upstream", Err: errors.New(strings.TrimPrefix(dial.Error(), "dial "))}
	}
	return err
}

// trueCall is the call with what is secret in it, and the headers that the operator
// adds with header_up.
func (t *Transport) trueCall(call *tokenCall, directed *http.Request) (*http.Request, error) {
	out := call.req.Clone(directed.Context())
	out.URL.Scheme, out.URL.Host = "", directed.URL.Host
	out.Host = directed.Host
	for name, values := range directed.Header {
		if _, ok := out.Header[name]; !ok {
			out.Header[name] = values
		}
	}
	if call.req.GetBody != nil {
		body, err := call.req.GetBody()
		if err != nil {
			return nil, err
		}
		out.Body = body
	}
	t.SetScheme(out)
	t.mendHost(out)
	return out, nil
}

// cleanURL is where a token call goes, less what is secret in it.
func cleanURL(req *http.Request) *url.URL { return &url.URL{Path: req.URL.Path} }

// discardWriter is the caller of a token call: the answer is in the call.
type discardWriter struct{}

func (discardWriter) Header() http.Header         { return make(http.Header) }
func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (discardWriter) WriteHeader(int)             {}

// issuerOf names where token calls end up: the domain, if all upstreams are the
// platform's own, or else the upstreams themselves. A sandbox is another world.
func (t *Transport) issuerOf(p *platform.Platform) string {
	var dials []string
	for _, upstream := range t.proxy.Upstreams {
		dials = append(dials, caddy.NewReplacer().ReplaceKnown(upstream.Dial, ""))
	}
	own := !slices.ContainsFunc(dials, func(dial string) bool {
		addr, err := caddy.ParseNetworkAddress(dial)
		return err != nil || addr.Host != p.Domain && !strings.HasSuffix(addr.Host, "."+p.Domain)
	})
	switch {
	case t.dynamic != "":
		return t.dynamic
	case own:
		return p.Domain
	}
	slices.Sort(dials)
	return strings.Join(dials, ",")
}

// isLocal reports whether all upstreams are on this machine, as a sandbox is.
func (t *Transport) isLocal() bool {
	if t.dynamic != "" || len(t.proxy.Upstreams) == 0 {
		return false
	}
	return !slices.ContainsFunc(t.proxy.Upstreams, func(u *reverseproxy.Upstream) bool {
		addr, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceKnown(u.Dial, ""))
		if err != nil || addr.IsUnixNetwork() {
			return err != nil
		}
		ip, err := netip.ParseAddr(addr.Host)
		return addr.Host != "localhost" && (err != nil || !ip.IsLoopback())
	})
}

var placeholders = regexp.MustCompile(`\{[a-zA-Z_][^{}"\s]*\}`)

// ofRequest finds a placeholder that only a request has a value for, such as one of a
// map; what upstreams and the environment say is known without.
func ofRequest(text string) string {
	repl := caddy.NewReplacer()
	for _, p := range placeholders.FindAllString(text, -1) {
		key := strings.Trim(p, "{}")
		if _, known := repl.Get(key); !known && !strings.HasPrefix(key, "http.reverse_proxy.upstream.") {
			return p
		}
	}
	return ""
}

// checkTokenWay refuses a way that depends on the request: a token call has none, and
// must not go where nobody has said that it should.
func (t *Transport) checkTokenWay(string) error {
	places := map[string]string{"tls_server_name": "", "dynamic": t.dynamic, "header_up Host": t.hostOps()}
	if t.TLS != nil {
		places["tls_server_name"] = t.TLS.ServerName
	}
	for i, u := range t.proxy.Upstreams {
		places[fmt.Sprintf("upstream %d", i+1)] = u.Dial
	}
	for place, text := range places {
		if placeholder := ofRequest(text); placeholder != "" {
			return fmt.Errorf("%s: %s depends on the request, and a token call has none; name a fixed one, or use "+
				"token server or token file", place, placeholder)
		}
	}
	return nil
}

// hostOps is what header_up makes of the Host.
func (t *Transport) hostOps() string {
	if t.proxy.Headers == nil || t.proxy.Headers.Request == nil {
		return ""
	}
	ops := t.proxy.Headers.Request
	return strings.Join(append(append([]string(nil), ops.Set["Host"]...), ops.Add["Host"]...), " ")
}
