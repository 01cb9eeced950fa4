package caddysandbox

// The directive.

import (
	"math"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// parseCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	wechat_sandbox [<matcher>] {
//	    app          <app_id> <app_secret>
//	    corp         <corp_id>[/<agent_id>] <secret>
//	    max_memory   <size>
//	    token_ttl    <duration>
//	    latency      <duration>
//	    idle_timeout <duration>
//	    keep_alive
//	}
//
// app and corp can be repeated.
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
		n, known := options[option]
		switch {
		case !known:
			return d.Errf("unrecognized subdirective %s; use app, corp, max_memory, token_ttl, latency, idle_timeout or keep_alive", option)
		case len(args) != n && option == "app":
			return d.Err("wrong arguments; write: app <app_id> <app_secret>")
		case len(args) != n && option == "corp":
			return d.Err("wrong arguments; write: corp <corp_id>[/<agent_id>] <secret>")
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
	if len(h.Apps)+len(h.Corps) == 0 {
		return d.Err(noAccount)
	}
	return nil
}

// options are the subdirectives, with the number of their arguments.
var options = map[string]int{
	"app": 2, "corp": 2, "max_memory": 1, "token_ttl": 1, "latency": 1, "idle_timeout": 1, "keep_alive": 0,
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
	case "corp":
		for _, c := range h.Corps {
			if c.CorpID == args[0] {
				return d.Errf("corp %s is configured twice", args[0])
			}
		}
		h.Corps = append(h.Corps, Corp{CorpID: args[0], CorpSecret: args[1]})
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
	case "idle_timeout":
		return duration(&h.IdleTimeout)
	case "keep_alive":
		already := h.KeepAlive
		h.KeepAlive = true
		return twice(already)
	}
	return nil
}
