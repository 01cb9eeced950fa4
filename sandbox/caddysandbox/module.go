// Package caddysandbox is the Caddy directive wechat_sandbox: a thin layer on package
// sandbox, which does the work and knows nothing of Caddy.
package caddysandbox

// The module and its directive.

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

func init() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterHandlerDirective("wechat_sandbox", parseCaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("wechat_sandbox", httpcaddyfile.Before, "reverse_proxy")
}

// Handler answers as WeChat's token and temporary-media endpoints do, for trying
// out and testing a gateway without a network and without an account. Media live
// in memory, within bounds, for three days, and across config reloads that leave
// the sandbox's own settings alone.
//
// Under `/sandbox/`, callers on the same machine can ask for faults: `POST`
// `/sandbox/revoke?appid=…`, `/sandbox/latency?endpoint=…&duration=…`,
// `/sandbox/rate?endpoint=…&bytes_per_second=…`,
// `/sandbox/cut?endpoint=…&after=…&times=…`, `/sandbox/busy?endpoint=…&times=…`,
// `/sandbox/expire?appid=…`, `/sandbox/reset`; `GET /sandbox/status` counts.
//
// It is not for the internet: whoever reaches it can fill its memory.
type Handler struct {
	// The accounts. At least one is required.
	Apps []App `json:"apps,omitempty"`

	// Memory, in bytes, for media and for uploads under way; the oldest media go
	// when it is used up. Default: 268435456 (256 MiB).
	MaxMemory int64 `json:"max_memory,omitempty"`

	// How long a token lives. Default: `2h`.
	TokenTTL caddy.Duration `json:"token_ttl,omitempty"`

	// How long to wait before each answer. Default: none.
	Latency caddy.Duration `json:"latency,omitempty"`

	// Whether connections stay open after a download; WeChat's documented replies
	// close them. Default: false.
	KeepAlive bool `json:"keep_alive,omitempty"`

	server *sandbox.Server
	key    string
}

// App is an account of the sandbox. Placeholders such as `{env.*}` are replaced
// when the config is loaded.
type App struct {
	AppID     string `json:"app_id"`
	AppSecret string `json:"app_secret"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.wechat_sandbox",
		New: func() caddy.Module { return new(Handler) },
	}
}

// servers outlive configs, so that a reload does not lose uploaded media. The
// keys are digests of settings, secrets included.
var servers = caddy.NewUsagePool()

// Provision sets up h.
func (h *Handler) Provision(caddy.Context) error {
	opts := sandbox.Options{
		Apps: make(map[string]string), MaxMemory: h.MaxMemory, TokenTTL: time.Duration(h.TokenTTL),
		Latency: time.Duration(h.Latency), KeepAlive: h.KeepAlive,
	}
	repl := caddy.NewReplacer()
	for _, a := range h.Apps {
		id, err := repl.ReplaceOrErr(a.AppID, true, true)
		if err != nil || id == "" {
			return fmt.Errorf("app_id: %s is not set or empty", a.AppID)
		}
		secret, err := repl.ReplaceOrErr(a.AppSecret, true, true)
		if err != nil || secret == "" {
			return fmt.Errorf("app %s: app_secret is not set or empty", id)
		}
		if _, ok := opts.Apps[id]; ok {
			return fmt.Errorf("app %s is configured twice", id)
		}
		opts.Apps[id] = secret
	}
	settings, err := json.Marshal([]any{opts.Apps, opts.MaxMemory, opts.TokenTTL, opts.Latency, opts.KeepAlive})
	if err != nil {
		return err
	}
	key := fmt.Sprintf("%x", sha256.Sum256(settings))
	server, _, err := servers.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &pooledServer{sandbox.New(opts)}, nil
	})
	if err != nil {
		return err
	}
	h.server, h.key = server.(*pooledServer).Server, key
	return nil
}

// pooledServer needs no end of its own: it is memory.
type pooledServer struct{ *sandbox.Server }

// Destruct implements caddy.Destructor.
func (*pooledServer) Destruct() error { return nil }

// Validate ensures that h can work.
func (h *Handler) Validate() error {
	switch {
	case len(h.Apps) == 0:
		return errors.New("no app is configured; write: app <app_id> <app_secret>")
	case h.MaxMemory < 0:
		return fmt.Errorf("max_memory is %d bytes; it cannot be negative", h.MaxMemory)
	case h.TokenTTL < 0 || h.TokenTTL > 0 && time.Duration(h.TokenTTL) < time.Second:
		return fmt.Errorf("token_ttl is %s; it cannot be less than 1s", time.Duration(h.TokenTTL))
	case h.Latency < 0:
		return fmt.Errorf("latency is %s; it cannot be negative", time.Duration(h.Latency))
	}
	return nil
}

// Cleanup lets go of the server.
func (h *Handler) Cleanup() error {
	if h.key == "" {
		return nil
	}
	_, err := servers.Delete(h.key)
	return err
}

// ServeHTTP answers every request; next is never called.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	// what comes in has a token in its query, as requests to WeChat do
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	h.server.ServeHTTP(w, r)
	return nil
}

// parseCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	wechat_sandbox [<matcher>] {
//	    app        <app_id> <app_secret>
//	    max_memory <size>
//	    token_ttl  <duration>
//	    latency    <duration>
//	    keep_alive
//	}
//
// app can be repeated.
func parseCaddyfile(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h := new(Handler)
	return h, h.UnmarshalCaddyfile(helper.Dispenser)
}

// UnmarshalCaddyfile sets up h from Caddyfile tokens; see parseCaddyfile.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		option := d.Val()
		args := d.RemainingArgs()
		want := map[string]int{"app": 2, "max_memory": 1, "token_ttl": 1, "latency": 1}
		n, known := want[option]
		switch {
		case !known && option != "keep_alive":
			return d.Errf("unrecognized subdirective %s; use app, max_memory, token_ttl, latency or keep_alive", option)
		case len(args) != n && option == "app":
			return d.Err("wrong arguments; write: app <app_id> <app_secret>")
		case len(args) != n:
			return d.ArgErr()
		}
		if err := h.unmarshalOption(d, option, args); err != nil {
			return err
		}
		if d.NextBlock(d.Nesting()) {
			return d.Errf("%s takes no block", option)
		}
	}
	if len(h.Apps) == 0 {
		return d.Err("no app is configured; write: app <app_id> <app_secret>")
	}
	return nil
}

func (h *Handler) unmarshalOption(d *caddyfile.Dispenser, option string, args []string) error {
	twice := func(already bool) error {
		if already {
			return d.Errf("%s is already specified", option)
		}
		return nil
	}
	duration := func(into *caddy.Duration) error {
		if err := twice(*into != 0); err != nil {
			return err
		}
		v, err := caddy.ParseDuration(args[0])
		if err != nil || v <= 0 {
			return d.Errf("%s %s is not a duration; write for example 30s", option, args[0])
		}
		*into = caddy.Duration(v)
		return nil
	}
	switch option {
	case "app":
		for _, a := range h.Apps {
			if a.AppID == args[0] {
				return d.Errf("app %s is configured twice", args[0])
			}
		}
		h.Apps = append(h.Apps, App{AppID: args[0], AppSecret: args[1]})
	case "max_memory":
		size, err := humanize.ParseBytes(args[0])
		if err != nil || size == 0 || size > math.MaxInt64 {
			return d.Errf("max_memory %s is not a size; write for example 256MiB", args[0])
		}
		already := h.MaxMemory != 0
		h.MaxMemory = int64(size)
		return twice(already)
	case "token_ttl":
		return duration(&h.TokenTTL)
	case "latency":
		return duration(&h.Latency)
	case "keep_alive":
		already := h.KeepAlive
		h.KeepAlive = true
		return twice(already)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
