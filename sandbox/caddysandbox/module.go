// Package caddysandbox is the Caddy directive wechat_sandbox: a thin layer on package
// sandbox, which does the work and knows nothing of Caddy.
package caddysandbox

// The module and its directive.

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

func init() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterHandlerDirective("wechat_sandbox", parseCaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("wechat_sandbox", httpcaddyfile.Before, "reverse_proxy")
}

// Handler answers as WeChat's token and temporary-media endpoints do, and WeCom's, for
// trying out and testing a gateway without a network and without an account. Media live
// in memory, within bounds, for three days, and across config reloads that leave
// the sandbox's own settings alone.
//
// Under `/sandbox/`, callers on the same machine can ask for faults: `POST`
// `/sandbox/revoke?appid=…`, `/sandbox/latency?endpoint=…&duration=…` (at most `1m`),
// `/sandbox/rate?endpoint=…&bytes_per_second=…`,
// `/sandbox/cut?endpoint=…&after=…&times=…`, `/sandbox/busy?endpoint=…&times=…`,
// `/sandbox/refuse?endpoint=…&errcode=…&times=…`, `/sandbox/expire?appid=…`,
// `/sandbox/reset`; `GET /sandbox/status` counts. Web pages can not, nor can callers who
// use another host than `localhost` or a loopback address.
//
// In the site's access log, tokens and secrets are left out of the URLs.
//
// It is not for the internet: whoever reaches it can fill its memory.
type Handler struct {
	// WeChat's accounts. At least one of these or of WeCom's is required.
	Apps []App `json:"apps,omitempty"`

	// WeCom's accounts.
	Corps []Corp `json:"corps,omitempty"`

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

	// How long a connection stays open that nothing happens on. Over HTTP/3 it is the
	// server's `idle_timeout`. Default: `20s`, as WeChat's.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	server    *sandbox.Server
	key       string
	idle      *idleCloser
	accessLog *zap.Logger
}

// App is an account of the sandbox. Placeholders such as `{env.*}` are replaced
// when the config is loaded.
type App struct {
	AppID     string `json:"app_id"`
	AppSecret string `json:"app_secret"`
}

// Corp is an account of the sandbox as WeCom has them. Placeholders such as `{env.*}`
// are replaced when the config is loaded.
type Corp struct {
	// The corp's id, and behind a slash the agent's, if several secrets of one corp are
	// to be told apart: `ww0123456789abcdef/1000002`.
	CorpID string `json:"corp_id"`

	// The agent's secret; no two of a corp are the same.
	CorpSecret string `json:"corp_secret"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.wechat_sandbox",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up h.
func (h *Handler) Provision(ctx caddy.Context) error {
	opts := sandbox.Options{
		MaxMemory: h.MaxMemory, TokenTTL: time.Duration(h.TokenTTL), Latency: time.Duration(h.Latency), KeepAlive: h.KeepAlive,
	}
	var err error
	if opts.Apps, opts.Corps, err = h.accounts(); err != nil {
		return err
	}
	settings, err := json.Marshal([]any{opts.Apps, opts.Corps, opts.MaxMemory, opts.TokenTTL, opts.Latency, opts.KeepAlive})
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

	h.accessLog = ctx.Logger(new(caddyhttp.App)).Named("log.access")
	if h.IdleTimeout == 0 {
		h.IdleTimeout = caddy.Duration(sandbox.IdleTimeout)
	}
	h.idle = &idleCloser{limit: time.Duration(h.IdleTimeout)}
	if ctx.Context != nil {
		if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
			h.idle.attach(server)
		}
	}
	return nil
}

// accounts returns the secrets by id.
func (h *Handler) accounts() (apps, corps map[string]string, err error) {
	repl := caddy.NewReplacer()
	apps, corps = make(map[string]string), make(map[string]string)
	ofCorp := make(map[string]string)
	add := func(to map[string]string, kind, id, secret string) error {
		name, err := repl.ReplaceOrErr(id, true, true)
		if err != nil || name == "" {
			return fmt.Errorf("%s_id: %s is not set or empty", kind, id)
		}
		if secret, err = repl.ReplaceOrErr(secret, true, true); err != nil || secret == "" {
			return fmt.Errorf("%s %s: %s_secret is not set or empty", kind, name, kind)
		}
		if apps[name] != "" || corps[name] != "" {
			return fmt.Errorf("%s %s is configured twice", kind, name)
		}
		to[name] = secret
		return nil
	}
	for _, a := range h.Apps {
		if err := add(apps, "app", a.AppID, a.AppSecret); err != nil {
			return nil, nil, err
		}
	}
	for _, c := range h.Corps {
		if err := add(corps, "corp", c.CorpID, c.CorpSecret); err != nil {
			return nil, nil, err
		}
	}
	for id, secret := range corps {
		corpID, _, _ := strings.Cut(id, "/")
		if other, ok := ofCorp[corpID+" "+secret]; ok {
			return nil, nil, fmt.Errorf("corp %s has the secret of %s", max(id, other), min(id, other))
		}
		ofCorp[corpID+" "+secret] = id
	}
	return apps, corps, nil
}

// servers outlive configs, so that a reload does not lose uploaded media. The
// keys are digests of settings, secrets included.
var servers = caddy.NewUsagePool()

// pooledServer needs no end of its own: it is memory.
type pooledServer struct{ *sandbox.Server }

// Destruct implements caddy.Destructor.
func (*pooledServer) Destruct() error { return nil }

// Validate ensures that h can work.
func (h *Handler) Validate() error {
	switch {
	case len(h.Apps)+len(h.Corps) == 0:
		return errors.New(noAccount)
	case h.MaxMemory < 0:
		return fmt.Errorf("max_memory is %d bytes; it cannot be negative", h.MaxMemory)
	case h.TokenTTL < 0 || h.TokenTTL > 0 && time.Duration(h.TokenTTL) < time.Second:
		return fmt.Errorf("token_ttl is %s; it cannot be less than 1s", time.Duration(h.TokenTTL))
	case h.Latency < 0:
		return fmt.Errorf("latency is %s; it cannot be negative", time.Duration(h.Latency))
	case h.IdleTimeout < 0:
		return fmt.Errorf("idle_timeout is %s; it cannot be negative", time.Duration(h.IdleTimeout))
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

const noAccount = "no account is configured; write: app <app_id> <app_secret>, or for WeCom: corp <corp_id>[/<agent_id>] <secret>"

// ServeHTTP answers every request; next is never called.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	h.idle.serves(r)
	h.serveLogged(w, r)
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
