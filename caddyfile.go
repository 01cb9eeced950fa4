// Package wechatmedia is a Caddy plugin that turns a site into a gateway to the
// temporary media of WeChat and WeCom: callers upload and download pictures, voice
// and video without ever holding an AppSecret or an access token.
//
// # Caddyfile
//
// The directive wechat_media, with its options and those of reverse_proxy:
//
//	wechat_media [<matcher>] [<upstreams...>] {
//	    app <app_id> [<app_secret>] {
//	        token <source> [<args...>] {
//	            ...
//	        }
//	        share_token [on|off]
//	    }
//	    app_selector     <placeholder>
//	    types            <type...>
//	    max_upload_size  [<type>] <size>
//	    replay_buffer    <size>
//	    sdk_tokens
//	    translate_status
//	    cache_control    <value>
//	    errors           wechat|caddy
//
//	    # and every subdirective of reverse_proxy
//	}
//
// app can be repeated; the first one is the default. Options of the HTTP transport
// go into a block `transport wechat { ... }`; `transport http` means the same here.
//
// The directive
//
//	wechat_media http://127.0.0.1:9000 {
//	    app  wx0123456789abcdef {env.WECHAT_APP_SECRET}
//	    types image voice
//	    lb_try_duration 5s
//	}
//
// is equivalent to a wechat_media handler whose `types` are image and voice, and
// whose `reverse_proxy` is what this one would be:
//
//	reverse_proxy http://127.0.0.1:9000 {
//	    lb_try_duration 5s
//	    transport wechat {
//	        app wx0123456789abcdef {env.WECHAT_APP_SECRET}
//	    }
//	}
package wechatmedia

// The grammar of the wechat_media directive and of the wechat transport.

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
)

func init() {
	httpcaddyfile.RegisterDirective("wechat_media", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("wechat_media", httpcaddyfile.Before, "reverse_proxy")
}

// parseDirective sets up the handler behind its matcher, whose paths name no media.
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next()
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	handler, err := parseCaddyfile(h)
	if err != nil {
		return nil, err
	}
	var paths []string
	_ = json.Unmarshal(matcher["path"], &paths)
	for _, p := range paths {
		if p = strings.TrimRight(p, "/*"); p != "" && !strings.ContainsAny(p, "*{") {
			handler.Mounts = append(handler.Mounts, p)
		}
	}
	return h.NewRoute(matcher, handler), nil
}

// parseCaddyfile sets up the handler from Caddyfile tokens; the package comment has
// the grammar.
func parseCaddyfile(h httpcaddyfile.Helper) (*Handler, error) {
	h.Reset()
	h.Next() // consume directive name
	line := h.Dispenser.NewFromNextSegment()
	own, err := takeOwn(line, misplacedOptions, "app", "app_selector", "types", "max_upload_size", "replay_buffer",
		"sdk_tokens", "translate_status", "cache_control", "errors")
	if err != nil {
		return nil, err
	}

	handler := new(Handler)
	transport := new(Transport)
	for _, d := range own {
		d.Next()
		if transportOption(d.Val()) {
			err = transport.unmarshalOption(d)
		} else {
			err = handler.unmarshalOption(d)
		}
		if err != nil {
			return nil, err
		}
	}

	proxy := new(reverseproxy.Handler)
	if err := proxy.UnmarshalCaddyfile(line); err != nil {
		return nil, err
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(h.WithDispenser(line)); err != nil {
		return nil, err
	}
	if err := mergeTransport(h, proxy, transport); err != nil {
		return nil, err
	}
	handler.ReverseProxy = proxy
	return handler, nil
}

// takeOwn removes the named subdirectives from the block of the directive that d
// is at, and returns them, each with its arguments and block. It resets d.
func takeOwn(d *caddyfile.Dispenser, misplaced map[string]string, names ...string) ([]*caddyfile.Dispenser, error) {
	var own []*caddyfile.Dispenser
	d.Next()
	d.RemainingArgs()
	for d.NextBlock(0) {
		if place, ok := misplaced[d.Val()]; ok {
			return nil, d.Errf("%s goes into %s", d.Val(), place)
		}
		isOwn := slices.Contains(names, d.Val())
		segment := d.NextSegment()
		if !isOwn {
			continue
		}
		own = append(own, caddyfile.NewDispenser(segment))
		n := len(segment)
		if d.Val() == "}" && segment[n-1].Text != "}" {
			n += 2 // NextSegment passes an empty block, and leaves it out
		}
		d.DeleteN(n)
	}
	d.Reset()
	return own, nil
}

// misplacedOptions are often looked for in the directive's own block.
var misplacedOptions = func() map[string]string {
	places := map[string]string{"token": "the block of an app: app <app_id> [<app_secret>] { ... }"}
	places["share_token"] = places["token"]
	for _, option := range []string{"caller_buffer", "compression", "dial_fallback_delay", "dial_timeout", "expect_continue_timeout", "forward_proxy_url",
		"keepalive", "keepalive_idle_conns", "keepalive_idle_conns_per_host", "keepalive_interval", "local_address", "max_conns", "max_conns_per_host",
		"max_response_header", "network_proxy", "proxy_protocol", "read_buffer", "read_timeout", "resolvers", "response_header_timeout",
		"spare_connections", "tls", "tls_client_auth", "tls_curves", "tls_except_ports", "tls_insecure_skip_verify", "tls_renegotiation",
		"tls_server_name", "tls_timeout", "tls_trust_pool", "versions", "write_buffer", "write_timeout"} {
		places[option] = "a block: transport wechat { ... }"
	}
	return places
}()

// misplacedInTransport are often looked for in the transport's block.
var misplacedInTransport = func() map[string]string {
	places := map[string]string{"token": misplacedOptions["token"], "share_token": misplacedOptions["token"]}
	for _, option := range []string{"types", "max_upload_size", "sdk_tokens", "translate_status", "cache_control", "errors"} {
		places[option] = "the block of wechat_media"
	}
	for _, option := range []string{"header_up", "header_down"} {
		places[option] = "the block around this one"
	}
	return places
}()

// mergeTransport makes the proxy's transport ours: what the block says of the HTTP
// transport, and of the scheme of the upstreams, stays.
func mergeTransport(h httpcaddyfile.Helper, proxy *reverseproxy.Handler, own *Transport) error {
	merged := make(map[string]json.RawMessage)
	if proxy.TransportRaw != nil {
		if err := json.Unmarshal(proxy.TransportRaw, &merged); err != nil {
			return h.Errf("decoding transport: %v", err)
		}
		var protocol string
		_ = json.Unmarshal(merged["protocol"], &protocol)
		if protocol != "wechat" && protocol != "http" {
			return h.Errf("transport %s cannot reach WeChat; write: transport wechat", protocol)
		}
	}
	merged["protocol"] = caddyconfig.JSON("wechat", nil)

	var inBlock []*App // of a transport block with apps of its own
	if merged["apps"] != nil {
		if err := json.Unmarshal(merged["apps"], &inBlock); err != nil {
			return h.Errf("decoding apps: %v", err)
		}
	}
	own.Apps = append(own.Apps, inBlock...)
	if len(own.Apps) == 0 {
		return h.Err("no app is configured; write: app <app_id> {env.WECHAT_APP_SECRET}")
	}
	if err := checkAppsDiffer(h.Dispenser, own.Apps); err != nil {
		return err
	}
	merged["apps"] = caddyconfig.JSON(own.Apps, nil)
	if own.AppSelector != "" {
		merged["app_selector"] = caddyconfig.JSON(own.AppSelector, nil)
	}
	if own.ReplayBuffer != 0 {
		merged["replay_buffer"] = caddyconfig.JSON(own.ReplayBuffer, nil)
	}
	proxy.TransportRaw = caddyconfig.JSON(merged, nil)
	return nil
}

func checkAppsDiffer(d *caddyfile.Dispenser, apps []*App) error {
	seen := make(map[string]bool, len(apps))
	for _, a := range apps {
		if seen[a.AppID] {
			return d.Errf("app %s is configured twice", a.AppID)
		}
		seen[a.AppID] = true
	}
	return nil
}

// unmarshalOption reads one subdirective of the handler's own.
func (h *Handler) unmarshalOption(d *caddyfile.Dispenser) error {
	option := d.Val()
	switch option {
	case "types":
		if h.Types != nil {
			return d.Errf("%s is already specified", option)
		}
		if h.Types = d.RemainingArgs(); len(h.Types) == 0 {
			return d.ArgErr()
		}
		for _, mediaType := range h.Types {
			if err := checkMediaType(d, mediaType); err != nil {
				return err
			}
		}
	case "max_upload_size":
		return h.unmarshalMaxUploadSize(d)
	case "sdk_tokens":
		return flag(d, &h.SDKTokens)
	case "translate_status":
		return flag(d, &h.TranslateStatus)
	case "cache_control":
		return single(d, &h.CacheControl)
	case "errors":
		if err := single(d, &h.Errors); err != nil {
			return err
		}
		if h.Errors != errorsWechat && h.Errors != errorsCaddy {
			return d.Errf("errors %q is neither %s nor %s", h.Errors, errorsWechat, errorsCaddy)
		}
	}
	return noBlock(d, option)
}

func (h *Handler) unmarshalMaxUploadSize(d *caddyfile.Dispenser) error {
	option := d.Val()
	args := d.RemainingArgs()
	mediaType := "*"
	switch len(args) {
	case 1:
	case 2:
		mediaType = args[0]
		if err := checkMediaType(d, mediaType); err != nil {
			return err
		}
	default:
		return d.ArgErr()
	}
	size, err := parseSize(d, option, args[len(args)-1])
	if err != nil {
		return err
	}
	if err := checkUploadSize(size); err != nil {
		return d.WrapErr(err)
	}
	if _, ok := h.MaxUploadSize[mediaType]; ok {
		return d.Errf("%s of %s is already specified", option, mediaType)
	}
	if h.MaxUploadSize == nil {
		h.MaxUploadSize = make(map[string]int64)
	}
	h.MaxUploadSize[mediaType] = size
	return noBlock(d, option)
}

// checkMediaType refuses what no platform has; which one it is, is not known yet.
func checkMediaType(d *caddyfile.Dispenser, mediaType string) error {
	var known []string
	for _, p := range platform.All {
		if _, ok := p.Limit(mediaType); ok {
			return nil
		}
		known = append(known, p.TypeNames()+" ("+p.Name+")")
	}
	return d.Errf("%q is not a media type; use %s", mediaType, strings.Join(known, " or "))
}

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens. Syntax:
//
//	transport wechat {
//	    app <app_id> [<app_secret>] {
//	        token <source> [<args...>] {
//	            ...
//	        }
//	        share_token [on|off]
//	    }
//	    app_selector  <placeholder>
//	    replay_buffer <size>
//	    caller_buffer <size>
//	    max_conns     <n>
//	    spare_connections <n>
//
//	    # and every option of transport http
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume transport name
	if d.NextArg() {
		return d.ArgErr()
	}
	segment := d.NewFromNextSegment()
	own, err := takeOwn(segment, misplacedInTransport, "app", "app_selector", "replay_buffer", "caller_buffer", "max_conns", "spare_connections")
	if err != nil {
		return err
	}
	for _, option := range own {
		option.Next()
		if err := t.unmarshalOption(option); err != nil {
			return err
		}
	}
	if err := checkAppsDiffer(d, t.Apps); err != nil {
		return err
	}
	return t.HTTPTransport.UnmarshalCaddyfile(segment)
}

// transportOption reports whether an option of the directive is the transport's.
func transportOption(name string) bool {
	return name == "app" || name == "app_selector" || name == "replay_buffer"
}

// unmarshalOption reads one subdirective of the transport's own.
func (t *Transport) unmarshalOption(d *caddyfile.Dispenser) error {
	option := d.Val()
	switch option {
	case "app":
		a := new(App)
		if err := a.unmarshalCaddyfile(d); err != nil {
			return err
		}
		t.Apps = append(t.Apps, a)
		return nil
	case "app_selector":
		if err := single(d, &t.AppSelector); err != nil {
			return err
		}
		if !strings.Contains(t.AppSelector, "{") {
			return d.Errf("app_selector %q has no placeholder; write for example {header.X-Wechat-Appid}", t.AppSelector)
		}
	case "replay_buffer":
		return unmarshalSize(d, &t.ReplayBuffer)
	case "caller_buffer":
		if err := unmarshalSize(d, &t.CallerBuffer); err != nil {
			return err
		}
		if err := t.checkCallerBuffer(); err != nil {
			return d.WrapErr(err)
		}
		return nil
	case "max_conns":
		return unmarshalConns(d, &t.MaxConns, 1)
	case "spare_connections":
		if err := unmarshalConns(d, &t.SpareConnections, 0); err != nil {
			return err
		}
		if t.SpareConnections == 0 {
			t.SpareConnections = -1
		}
		return nil
	}
	return noBlock(d, option)
}

// unmarshalSize reads the size of an option that may stand once.
func unmarshalSize(d *caddyfile.Dispenser, into *int64) error {
	var text string
	option := d.Val()
	if err := single(d, &text); err != nil {
		return err
	}
	if *into != 0 {
		return d.Errf("%s is already specified", option)
	}
	size, err := parseSize(d, option, text)
	if err != nil {
		return err
	}
	*into = size
	return nil
}

// unmarshalConns reads the number of connections of an option that may stand once.
func unmarshalConns(d *caddyfile.Dispenser, into *int, least int) error {
	var text string
	option := d.Val()
	if err := single(d, &text); err != nil {
		return err
	}
	if *into != 0 {
		return d.Errf("%s is already specified", option)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least {
		return d.Errf("%s %s is not a number of connections from %d on; write for example 16", option, text, least)
	}
	*into = n
	return nil
}

// single reads the one argument of an option that may stand once.
func single(d *caddyfile.Dispenser, into *string) error {
	option := d.Val()
	if *into != "" {
		return d.Errf("%s is already specified", option)
	}
	if !d.AllArgs(into) || *into == "" {
		return d.ArgErr()
	}
	return noBlock(d, option)
}

// flag reads an option without arguments.
func flag(d *caddyfile.Dispenser, into *bool) error {
	option := d.Val()
	if *into {
		return d.Errf("%s is already specified", option)
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	*into = true
	return noBlock(d, option)
}

func noBlock(d *caddyfile.Dispenser, option string) error {
	if d.NextBlock(d.Nesting()) {
		return d.Errf("%s takes no block", option)
	}
	return nil
}

// parseSize reads a positive size such as 64MiB.
func parseSize(d *caddyfile.Dispenser, option, value string) (int64, error) {
	size, err := humanize.ParseBytes(value)
	if err != nil || size == 0 {
		return 0, d.Errf("%s %s is not a size; write for example 8MiB", option, value)
	}
	if size > math.MaxInt64 {
		return 0, d.Errf("%s %s is too large", option, value)
	}
	return int64(size), nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Transport)(nil)
)
