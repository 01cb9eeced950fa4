package wechatmedia

// Benchmarks of what a request costs, without a network:
//
//	go test -run '^$' -bench . -benchmem .

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// wireStub answers in the place of the network: tokens, and a picture of 32 KiB.
type wireStub struct{ media []byte }

func (s wireStub) RoundTrip(r *http.Request) (*http.Response, error) {
	h := http.Header{"Content-Type": {"application/json"}}
	body := []byte(`{"access_token":"` + strings.Repeat("t", 136) + `","expires_in":7200}`)
	if !strings.HasSuffix(r.URL.Path, "token") {
		body = s.media
		h = http.Header{
			"Content-Type":        {"image/jpeg"},
			"Content-Disposition": {`attachment; filename="MEDIA_ID.jpg"`},
			"Cache-Control":       {"no-cache, must-revalidate"},
			"Content-Length":      {fmt.Sprint(len(body))},
			"Date":                {"Sun, 06 Jan 2013 10:20:18 GMT"},
		}
	}
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	return &http.Response{StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r}, nil
}

// provisioned returns a handler of the given config, whose HTTP transport is the stub.
func provisioned(t testing.TB, id, config string) caddyhttp.MiddlewareHandler {
	t.Helper()
	t.Setenv("TEST_WECHAT_SECRET", testSecret)
	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(ctx)
	t.Cleanup(cancel)
	mod, err := ctx.LoadModuleByID(id, json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	var rt http.RoundTripper
	if h, ok := mod.(*Handler); ok {
		rt = h.proxy.Transport
	} else {
		rt = mod.(*reverseproxy.Handler).Transport
	}
	inner, ok := rt.(*reverseproxy.HTTPTransport)
	if !ok {
		inner = rt.(*Transport).HTTPTransport
	}
	inner.Transport.RegisterProtocol("http", wireStub{media: make([]byte, 32<<10)})
	if h, ok := mod.(*Handler); ok {
		for _, a := range h.transport.apps { // no config starts here
			a.attached.Start()
		}
	}
	return mod.(caddyhttp.MiddlewareHandler)
}

// nullWriter takes a reply and forgets it.
type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

// serve has a handler answer a request as Caddy's server would.
func serve(t testing.TB, h caddyhttp.MiddlewareHandler, r *http.Request) {
	w := &nullWriter{h: make(http.Header, 8)}
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, w, new(caddyhttp.Server))
	if err := h.ServeHTTP(w, r, noNext); err != nil {
		t.Fatal(err)
	}
}

func gatewayConfig() string {
	return `{"reverse_proxy":{"upstreams":[{"dial":"127.0.0.1:1"}],"transport":{"protocol":"wechat",
		"apps":[{"app_id":"` + testAppID + `","app_secret":"{env.TEST_WECHAT_SECRET}","token":{"source":"` + testSource + `"}}]}}}`
}

// what the gateway is built on, with the same settings
const proxyConfig = `{"upstreams":[{"dial":"127.0.0.1:1"}],"transport":{"protocol":"http","versions":["1.1"],"compression":false,
		"keep_alive":{"max_idle_conns_per_host":512}},"headers":{"request":{"set":{"Host":["{http.reverse_proxy.upstream.hostport}"]},
		"delete":["Via","X-Forwarded-For","X-Forwarded-Proto","X-Forwarded-Host"]}}}`

func download(target string) *http.Request {
	r := httptest.NewRequest("GET", target, nil)
	r.Header.Set("User-Agent", "bench")
	r.Header.Set("Accept", "*/*")
	return r
}

// The gateway's own code costs a download few allocations over the proxy that it
// is built on.
func TestAllocationsOfADownload(t *testing.T) {
	allocations := func(h caddyhttp.MiddlewareHandler, target string) float64 {
		r := download(target)
		least := math.Inf(1) // sync.Pool forgets at random under -race
		for range 10 {
			least = min(least, testing.AllocsPerRun(50, func() { serve(t, h, r) }))
		}
		return least
	}
	gateway := allocations(provisioned(t, "http.handlers.wechat_media", gatewayConfig()), gatewayTarget)
	proxy := allocations(provisioned(t, "http.handlers.reverse_proxy", proxyConfig), proxyTarget)
	t.Logf("%.0f, and %.0f of the proxy", gateway, proxy)
	if gateway > proxy+10 {
		t.Errorf("%.0f allocations, and %.0f of the proxy", gateway, proxy)
	}
}

var (
	gatewayTarget = "http://gateway/media/" + strings.Repeat("m", 64)
	proxyTarget   = "http://gateway/cgi-bin/media/get?access_token=" + strings.Repeat("t", 136) + "&media_id=" + strings.Repeat("m", 64)
)

// BenchmarkDownload compares a download through the gateway with the same through
// the proxy that it is built on. The difference is the gateway's own code.
func BenchmarkDownload(b *testing.B) {
	b.Run("gateway", func(b *testing.B) {
		benchmarkServe(b, provisioned(b, "http.handlers.wechat_media", gatewayConfig()), gatewayTarget)
	})
	b.Run("reverse_proxy", func(b *testing.B) {
		benchmarkServe(b, provisioned(b, "http.handlers.reverse_proxy", proxyConfig), proxyTarget)
	})
}

func benchmarkServe(b *testing.B, h caddyhttp.MiddlewareHandler, target string) {
	r := download(target)
	serve(b, h, r) // fetches the token
	b.ReportAllocs()
	for b.Loop() {
		serve(b, h, r)
	}
}

func BenchmarkParseCall(b *testing.B) {
	for name, target := range map[string]string{
		"rest":   "/media/" + strings.Repeat("m", 64),
		"native": "/cgi-bin/media/get?access_token=" + strings.Repeat("t", 136) + "&media_id=" + strings.Repeat("m", 64),
	} {
		b.Run(name, func(b *testing.B) {
			u, err := url.ParseRequestURI(target)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, refused := parseCall(platform.WeChat, nil, "GET", u); refused != nil {
					b.Fatal(refused)
				}
			}
		})
	}
}

func BenchmarkExamine(b *testing.B) {
	for name, h := range map[string]http.Header{
		"media": {"Content-Type": {"image/jpeg"}, "Content-Disposition": {"attachment"}},
		"error": {"Content-Type": {"application/json; encoding=utf-8"}},
	} {
		b.Run(name, func(b *testing.B) {
			body := []byte(`{"errcode":40007,"errmsg":"invalid media_id rid: 12345678-12345678-12345678"}`)
			b.ReportAllocs()
			for b.Loop() {
				examine(&http.Response{StatusCode: 200, Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}, nil)
			}
		})
	}
}
