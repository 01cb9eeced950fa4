package wechatmedia

// The transport module: its configuration, and how it comes to life. What it does
// with a request is in roundtrip.go.

import (
	"cmp"
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

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/internal/replay"
	"github.com/caddy-wechat/caddy-wechat-media/internal/wire"
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
	defaultConns                 = 1024
	defaultSpares                = 128

	// defaultIdleTimeout is less than the 20 s or so after which WeChat is reported to
	// close idle connections. https://juejin.cn/post/6865277186438496269
	defaultIdleTimeout = 15 * time.Second
)

// Transport sends requests to WeChat with an access token that it fetches,
// keeps fresh and puts into the query itself. When WeChat rejects the token
// (errcode 40001, 40014 or 42001, with status 200), it gets another one and
// sends the request once more.
//
// It is an HTTP transport in every other respect and takes all of that
// transport's options, with other defaults: HTTP/1.1 only, no compression, 1024
// connections of which 512 to each upstream may be idle, for `15s`, `5s` for the TLS
// handshake, and `60s` without a byte in either direction (`read_timeout` and
// `write_timeout` count only while WeChat is waited for, so a slow caller does not
// end a transfer). Reply headers may take `30s`, and as long as the upload's length
// takes at 32 KiB/s.
//
// Connections are made ahead, so that a request waits for one round trip and not for
// the three or four that a new connection takes.
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
	// accepted the token, for all requests together. It is taken as bytes arrive. An
	// upload beyond it is streamed once, and a rejection is passed on to its caller;
	// one of unknown length, which has to be gathered before it can be sent, is
	// answered with 503. Default: 67108864 (64 MiB).
	ReplayBuffer int64 `json:"replay_buffer,omitempty"`

	// Memory, in bytes, that an upload may take beside ReplayBuffer when that has no room
	// for it, and it only passes through: 8, 32, 128 or 256 KiB, of which the largest counts that
	// fits. 8 MiB more, for all of them together, speed up those that flow fast. Connections on both
	// sides have their own. Default: 32768 (32 KiB).
	CallerBuffer int64 `json:"caller_buffer,omitempty"`

	// How many connections there may be in all, to whatever upstream, those made ahead and
	// those being made included. A request for which there is none within a second is answered with 503.
	// Default: 1024, or max_conns_per_host if that is more; max_conns_per_host is
	// as much if it is not set.
	MaxConns int `json:"max_conns,omitempty"`

	// How many connections to each upstream may be kept ready for requests to come.
	// There are as many as recent requests have taken; while there are none, as many as
	// there were at once, 32 at the most; after a minute of that, none. -1 makes none.
	// Default: 128, which is what 32 callers at 30 ms use whose connections close after
	// each reply.
	SpareConnections int `json:"spare_connections,omitempty"`

	apps     []*app
	byID     map[string]*app
	platform *platform.Platform
	budget   *replay.Budget
	dialer   *wire.Dialer

	proxy           *reverseproxy.Handler // which t is the transport of
	dynamic         string                // the configuration of its dynamic upstreams
	retriesByStatus bool                  // the proxy may take an answer for a reason to ask again
	elsewhere       http.RoundTripper     // for token calls to other hosts than the upstreams

	egress      bool          // requests may go through a proxy
	stall       time.Duration // for the reply's next bytes
	headerWait  time.Duration // for the reply's headers
	connectWait time.Duration // for a connection
	told        onceInAWhile

	running     bool // the config has started
	servesMedia bool // under the handler, which counts requests
	ctx         caddy.Context
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
	if err := t.findProxy(ctx); err != nil {
		return err
	}
	if err := t.checkUpstreams(); err != nil {
		return err
	}
	t.setDefaults()
	elsewhere, egress := t.withoutUpstream(), t.hasEgressProxy()
	writeStall := t.takeTimeouts()
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return err
	}
	if err := elsewhere.Provision(ctx); err != nil {
		return err
	}
	t.elsewhere = elsewhere
	t.provisionWire(writeStall, egress)
	t.budget = replay.NewBudget(t.ReplayBuffer)
	if err := t.provisionApps(ctx); err != nil {
		return err
	}
	t.warn()
	return t.startWithConfig(ctx)
}

// findProxy finds the reverse_proxy that t is the transport of: the innermost one, be
// it a handler's own or one that stands in a handle_response of its.
func (t *Transport) findProxy(ctx caddy.Context) error {
	var alone, inHandler bool
	for _, mod := range ctx.Modules() {
		switch mod := mod.(type) {
		case *Handler:
			inHandler = true
		case *reverseproxy.Handler:
			t.proxy, alone, inHandler = mod, !inHandler, false
		}
	}
	if t.proxy == nil {
		return errors.New("transport wechat works in a reverse_proxy only")
	}
	t.dynamic = string(t.proxy.DynamicUpstreamsRaw)
	t.retriesByStatus = t.proxy.LoadBalancing != nil && len(t.proxy.LoadBalancing.RetryMatchRaw) > 0
	if alone {
		t.showOwnStatus(t.proxy)
	}
	return nil
}

// withoutUpstream is the HTTP transport less what is about the upstreams, for token
// servers: another name, and nobody who reads PROXY headers.
func (t *Transport) withoutUpstream() *reverseproxy.HTTPTransport {
	elsewhere := *t.HTTPTransport
	elsewhere.ProxyProtocol, elsewhere.Versions = "", []string{"1.1"}
	elsewhere.KeepAlive = &reverseproxy.KeepAlive{IdleConnTimeout: caddy.Duration(defaultIdleTimeout)}
	elsewhere.ResponseHeaderTimeout, elsewhere.ReadTimeout, elsewhere.WriteTimeout = 0, 0, 0 // the client has a timeout
	tls := reverseproxy.TLSConfig{HandshakeTimeout: caddy.Duration(defaultHandshakeTimeout)}
	if t.TLS != nil {
		tls = *t.TLS
		tls.ServerName, tls.ExceptPorts = "", nil
	}
	elsewhere.TLS = &tls
	return &elsewhere
}

// provisionApps provisions the apps, which are of one platform.
func (t *Transport) provisionApps(ctx caddy.Context) error {
	t.byID = make(map[string]*app, len(t.Apps))
	way := tokenWay{
		client: t.tokenClient(), baseURL: "http://" + issuerHost, local: t.isLocal(),
		issuer: t.issuerOf, check: t.checkTokenWay, observe: t.observeToken,
	}
	for _, configured := range t.Apps {
		a, err := configured.provision(ctx, way)
		if a != nil {
			t.apps = append(t.apps, a) // Cleanup releases it
		}
		if err != nil {
			return err
		}
		if t.byID[a.id] != nil {
			return fmt.Errorf("app %s is configured twice", a.id)
		}
		t.byID[a.id] = a
		if a.platform != t.apps[0].platform {
			return errMixedPlatforms
		}
	}
	t.platform = t.apps[0].platform
	t.addShortNames()
	return nil
}

// addShortNames lets agents of WeCom be selected by the corp's id or the agent's
// alone, if that is unambiguous.
func (t *Transport) addShortNames() {
	short := make(map[string]*app)
	for _, a := range t.apps {
		corp, agent, ok := strings.Cut(a.id, "/")
		if !ok {
			continue
		}
		for _, name := range []string{corp, agent} {
			if other, ok := short[name]; ok && other != a {
				a = nil // ambiguous
			}
			short[name] = a
			a = t.byID[corp+"/"+agent]
		}
	}
	for name, a := range short {
		if a != nil && t.byID[name] == nil {
			t.byID[name] = a
		}
	}
}

// warn tells of what is valid, and hardly meant.
func (t *Transport) warn() {
	for _, u := range t.proxy.Upstreams {
		addr, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceKnown(u.Dial, ""))
		if err == nil && !t.TLSEnabled() && (addr.Host == t.platform.Domain || strings.HasSuffix(addr.Host, "."+t.platform.Domain)) {
			t.logger.Warn("secrets and tokens go to "+t.platform.Name+" in the clear; write https://", zap.String("upstream", u.Dial))
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
	if t.CallerBuffer == 0 {
		t.CallerBuffer = replay.DefaultBeside
	}
	if t.SpareConnections == 0 {
		t.SpareConnections = defaultSpares
	}
	if len(t.Versions) == 0 {
		// one large body a connection: HTTP/2 measured 1.5 times the CPU
		t.Versions = []string{"1.1"}
	}
	if t.Compression == nil {
		t.Compression = new(bool)
	}
	t.MaxConns = cmp.Or(t.MaxConns, max(defaultConns, t.MaxConnsPerHost))
	t.MaxConnsPerHost = cmp.Or(t.MaxConnsPerHost, t.MaxConns)
	t.KeepAlive = cmp.Or(t.KeepAlive, new(reverseproxy.KeepAlive))
	if t.KeepAlive.MaxIdleConnsPerHost == 0 {
		t.KeepAlive.MaxIdleConnsPerHost = defaultIdleConnsPerHost
	}
	if t.KeepAlive.IdleConnTimeout == 0 {
		t.KeepAlive.IdleConnTimeout = caddy.Duration(defaultIdleTimeout)
	}
	if t.TLS != nil {
		if t.TLS.HandshakeTimeout == 0 {
			t.TLS.HandshakeTimeout = caddy.Duration(defaultHandshakeTimeout)
		}
		// what does not depend on the request is one name, as for any other connection
		t.TLS.ServerName = caddy.NewReplacer().ReplaceKnown(t.TLS.ServerName, "")
	}
}

// checkUpstreams refuses what is no address as soon as that is known, instead of with
// the first request.
func (t *Transport) checkUpstreams() error {
	for i, u := range t.proxy.Upstreams {
		dial := caddy.NewReplacer().ReplaceKnown(u.Dial, "")
		addr, err := caddy.ParseNetworkAddress(dial)
		switch {
		case strings.Contains(dial, "{"): // a request may tell
		case err == nil && addr.IsUnixNetwork():
		case err != nil || !strings.HasPrefix(addr.Network, "tcp") || addr.StartPort == 0 || addr.PortRangeSize() != 1:
			return fmt.Errorf("upstream %d: %s stands for %q, which is no address; write <host>:<port>, and for https "+
				"transport wechat { tls }", i+1, u.Dial, dial)
		}
	}
	return nil
}

// takeTimeouts takes over the clocks that Caddy would run on the connection, and for
// the time between upload and reply; see attempt.go.
func (t *Transport) takeTimeouts() (writes time.Duration) {
	take := func(from *caddy.Duration, standard time.Duration) time.Duration {
		d := cmp.Or(time.Duration(*from), standard)
		*from = 0
		return max(0, d)
	}
	t.stall = take(&t.ReadTimeout, defaultStallTimeout)
	writes = take(&t.WriteTimeout, defaultStallTimeout)
	t.headerWait = take(&t.ResponseHeaderTimeout, defaultResponseHeaderTimeout)
	t.connectWait = cmp.Or(time.Duration(t.DialTimeout), 3*time.Second)
	if t.TLS != nil {
		t.connectWait += time.Duration(t.TLS.HandshakeTimeout)
	}
	return writes
}

// Validate ensures that t can work.
func (t *Transport) Validate() error {
	if t.ReplayBuffer < 0 {
		return fmt.Errorf("replay_buffer is %d bytes; it cannot be negative", t.ReplayBuffer)
	}
	if err := t.checkCallerBuffer(); err != nil {
		return err
	}
	if t.MaxConns < 0 {
		return fmt.Errorf("max_conns is %d; it cannot be negative", t.MaxConns)
	}
	if t.AppSelector != "" && !strings.Contains(t.AppSelector, "{") {
		return fmt.Errorf("app_selector %q has no placeholder; write for example {http.request.header.X-Wechat-Appid}", t.AppSelector)
	}
	if t.SpareConnections < -1 {
		return fmt.Errorf("spare_connections is %d; it cannot be negative", t.SpareConnections)
	}
	return nil
}

func (t *Transport) checkCallerBuffer() error {
	if t.CallerBuffer < replay.MinBeside {
		return fmt.Errorf("caller_buffer is %d bytes; %d (8KiB) is the least", t.CallerBuffer, replay.MinBeside)
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
	return errors.Join(
		t.events.On("started", onEvent{t.start}),
		// A server that stops waits for connections that nothing came over yet, and a server of
		// the same config may be in WeChat's place.
		t.events.On("stopping", onEvent{t.dialer.Close}))
}

// onEvent handles an event, of which nothing matters but that it happened. Caddy logs it as JSON.
type onEvent struct{ do func() }

// Handle implements caddyevents.Handler.
func (e onEvent) Handle(context.Context, caddy.Event) error {
	e.do()
	return nil
}

func (t *Transport) start() {
	t.running = true
	replayLimits.Add(t.ReplayBuffer)
	for _, a := range t.apps {
		t.startMetrics(a)
		a.attached.Start()
	}
}

// Cleanup releases what t acquired. Requests that outlast the config's grace
// period may still use it.
func (t *Transport) Cleanup() error {
	if t.running {
		replayLimits.Add(-t.ReplayBuffer)
	}
	var errs []error
	for _, a := range t.apps {
		errs = append(errs, a.release())
	}
	if t.dialer != nil {
		t.dialer.Close()
	}
	if elsewhere, ok := t.elsewhere.(*reverseproxy.HTTPTransport); ok {
		errs = append(errs, elsewhere.Cleanup())
	}
	return errors.Join(append(errs, t.HTTPTransport.Cleanup())...)
}

// RequestHeaderOps names the upstream as the host, whatever the caller called
// the gateway, and takes away what a proxy tells about itself and its callers, and the
// wish for compression: what is compressed cannot be examined, nor the token be taken
// out of it. Operations of the operator's own come after these.
func (t *Transport) RequestHeaderOps() *headers.HeaderOps {
	return &headers.HeaderOps{
		Set:    http.Header{"Host": {"{http.reverse_proxy.upstream.hostport}"}},
		Delete: []string{"Accept-Encoding", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"},
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
