package wechatmedia

// The transport module: its configuration, and how it comes to life. What it does
// with a request is in roundtrip.go.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	caddy.RegisterModule(new(Transport))
}

// Defaults of the transport. The timeouts exist because nothing may hang for
// ever; the rest because they measured best against a TLS upstream.
const (
	defaultReplayBuffer          = 64 << 20 // bytes
	defaultHandshakeTimeout      = 5 * time.Second
	defaultResponseHeaderTimeout = 30 * time.Second
	defaultStallTimeout          = 60 * time.Second
	defaultIdleConnsPerHost      = 512
	tokenRequestTimeout          = 10 * time.Second
)

// Transport sends requests to WeChat with an access token that it fetches,
// keeps fresh and puts into the query itself. When WeChat rejects the token
// (errcode 40001, 40014 or 42001, with status 200), it gets another one and
// sends the request once more.
//
// It is an HTTP transport in every other respect and takes all of that
// transport's options, with other defaults: HTTP/1.1 only, no compression, 512
// idle connections to each upstream, `5s` for the TLS handshake, `30s` for reply
// headers, and `60s` without a byte in either direction (`read_timeout` and
// `write_timeout` count only while WeChat is waited for, so a slow caller does not
// end a transfer; of an upload, they are for each piece of up to 128 KiB).
//
// The `wechat_media` handler uses it for temporary media. On its own it makes
// reverse_proxy a private gateway to all of WeChat's API, for callers that are
// trusted with it:
//
//	reverse_proxy https://api.weixin.qq.com {
//		transport wechat {
//			app wx0123456789abcdef {env.WECHAT_APP_SECRET}
//		}
//	}
type Transport struct {
	*reverseproxy.HTTPTransport

	// The WeChat accounts that can be used; the first one is the default.
	// At least one is required.
	Apps []*App `json:"apps,omitempty"`

	// A placeholder that says which app a request is for, by its app_id, e.g.
	// `{http.request.header.X-Wechat-Appid}`. An empty value means the first
	// app, an unknown one is refused. Default: the first app.
	AppSelector string `json:"app_selector,omitempty"`

	// Memory, in bytes, for keeping the bodies of uploads until WeChat has
	// accepted the token, for all requests together; each upload takes its length,
	// rounded up to 128 KiB. An upload beyond it is streamed once, and a rejection
	// is passed on to its caller; one of unknown length, which has to be gathered
	// before it can be sent, is answered with 503. Default: 67108864 (64 MiB).
	ReplayBuffer int64 `json:"replay_buffer,omitempty"`

	apps   []*app
	byID   map[string]*app
	budget *budget
	stall  time.Duration
	ctx    caddy.Context

	servesMedia bool // under the handler, which counts requests
	events      *caddyevents.App
	logger      *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.wechat",
		New: func() caddy.Module { return &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)} },
	}
}

// Provision sets up t. It makes no network call: tokens are fetched when the
// config has started.
func (t *Transport) Provision(ctx caddy.Context) error {
	t.logger = ctx.Logger()
	t.ctx = ctx
	if err := registerMetrics(ctx); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	if len(t.Apps) == 0 {
		return errors.New("no app is configured; write: app <app_id> {env.WECHAT_APP_SECRET}")
	}
	t.setDefaults()
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return err
	}

	t.useBulkConns()

	t.budget = &budget{limit: t.ReplayBuffer}
	t.byID = make(map[string]*app, len(t.Apps))
	wire := tokenWire{client: t.tokenClient(), baseURLs: t.baseURLs(ctx), observe: t.observeToken}
	for _, a := range t.Apps {
		provisioned, err := a.provision(ctx, wire)
		if err != nil {
			return err
		}
		t.apps = append(t.apps, provisioned)
		if t.byID[provisioned.id] != nil {
			return fmt.Errorf("app %s is configured twice", provisioned.id)
		}
		t.byID[provisioned.id] = provisioned
	}
	t.warn(wire.baseURLs)
	return t.startWithConfig(ctx)
}

// warn tells of what is valid, and hardly meant.
func (t *Transport) warn(baseURLs []string) {
	for _, u := range baseURLs {
		if strings.HasPrefix(u, "http://") && strings.HasSuffix(u, "weixin.qq.com") {
			t.logger.Warn("secrets and tokens go to WeChat in the clear; write https://", zap.String("upstream", u))
		}
	}
	if len(t.apps) > 1 && t.AppSelector == "" {
		t.logger.Warn("only the first of several apps can be used; write app_selector with a placeholder that names the app",
			appIDField(t.apps[0].id), zap.Int("apps", len(t.apps)))
	}
}

func (t *Transport) setDefaults() {
	if t.ReplayBuffer == 0 {
		t.ReplayBuffer = defaultReplayBuffer
	}
	if len(t.Versions) == 0 {
		// one large body a connection: HTTP/2 measured 1.5 times the CPU
		t.Versions = []string{"1.1"}
	}
	if t.Compression == nil {
		t.Compression = new(bool)
	}
	if t.KeepAlive == nil {
		t.KeepAlive = new(reverseproxy.KeepAlive)
	}
	if t.KeepAlive.MaxIdleConnsPerHost == 0 {
		t.KeepAlive.MaxIdleConnsPerHost = defaultIdleConnsPerHost
	}
	if t.TLS != nil && t.TLS.HandshakeTimeout == 0 {
		t.TLS.HandshakeTimeout = caddy.Duration(defaultHandshakeTimeout)
	}
	if t.ResponseHeaderTimeout == 0 {
		t.ResponseHeaderTimeout = caddy.Duration(defaultResponseHeaderTimeout)
	}

	// the watchdog does what these two stand for; see watchdog.go
	t.stall = defaultStallTimeout
	for _, timeout := range []*caddy.Duration{&t.ReadTimeout, &t.WriteTimeout} {
		if *timeout != 0 {
			t.stall = time.Duration(*timeout)
		}
		*timeout = 0
	}
}

// Validate ensures that t can work.
func (t *Transport) Validate() error {
	if t.ReplayBuffer < 0 {
		return fmt.Errorf("replay_buffer is %d bytes; it cannot be negative", t.ReplayBuffer)
	}
	return nil
}

// startWithConfig has tokens fetched once the config runs, so that no request
// has to wait for one.
func (t *Transport) startWithConfig(ctx caddy.Context) error {
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	t.events = events.(*caddyevents.App)
	return t.events.On("started", onStarted(func() {
		for _, a := range t.apps {
			t.startMetrics(a)
			a.tokens.start()
		}
	}))
}

// onStarted is an event handler without a use for the event.
type onStarted func()

// Handle implements caddyevents.Handler.
func (f onStarted) Handle(context.Context, caddy.Event) error { f(); return nil }

// Cleanup releases what t acquired. Requests that outlast the config's grace
// period may still use it.
func (t *Transport) Cleanup() error {
	var errs []error
	for _, a := range t.apps {
		errs = append(errs, a.release())
	}
	return errors.Join(append(errs, t.HTTPTransport.Cleanup())...)
}

// RequestHeaderOps names the upstream as the host, whatever the caller called
// the gateway, and takes away what a proxy tells about itself and its callers.
// Operations of the operator's own come after these.
func (t *Transport) RequestHeaderOps() *headers.HeaderOps {
	return &headers.HeaderOps{
		Set:    http.Header{"Host": {"{http.reverse_proxy.upstream.hostport}"}},
		Delete: []string{"Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"},
	}
}

// RequiresContentLength says what WeChat demands, so that the proxy does not
// ask for chunked framing, as it does to carry trailers.
func (t *Transport) RequiresContentLength() bool { return true }

// selectApp returns the app that a request is for.
func (t *Transport) selectApp(repl *caddy.Replacer) (*app, *refusal) {
	if t.AppSelector == "" {
		return t.apps[0], nil
	}
	id, err := repl.ReplaceOrErr(t.AppSelector, false, true)
	if err != nil {
		return nil, refuseApp() // there is no such placeholder, so nobody knows which app is meant
	}
	if id == "" {
		return t.apps[0], nil
	}
	if a := t.byID[id]; a != nil {
		return a, nil
	}
	return nil, refuseApp()
}

func appIDField(id string) zap.Field { return zap.String("app_id", id) }

// Interface guards
var (
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.Validator                                  = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ reverseproxy.ContentLengthRequiredTransport      = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
)
