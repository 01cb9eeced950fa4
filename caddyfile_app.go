package wechatmedia

// The grammar of an app and of its token source.

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// unmarshalCaddyfile reads an app from its line.
func (a *App) unmarshalCaddyfile(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 {
		return d.Err("wrong arguments; write: app <app_id> [<app_secret>]")
	}
	a.AppID = args[0]
	if len(args) == 2 {
		a.AppSecret = args[1]
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch option := d.Val(); option {
		case "token":
			if a.TokenRaw != nil {
				return d.Err("token is already specified")
			}
			if err := a.unmarshalSource(d); err != nil {
				return err
			}
		case "share_token":
			if a.ShareToken != nil {
				return d.Err("share_token is already specified")
			}
			on := true
			switch args := d.RemainingArgs(); {
			case len(args) == 0, len(args) == 1 && args[0] == "on":
			case len(args) == 1 && args[0] == "off":
				on = false
			default:
				return d.Err("wrong arguments; write: share_token [on|off]")
			}
			a.ShareToken = &on
		default:
			return d.Errf("unrecognized subdirective %s of app; use token or share_token", option)
		}
	}
	return nil
}

// unmarshalSource reads a token source, which is a module.
func (a *App) unmarshalSource(d *caddyfile.Dispenser) error {
	const namespace = "http.wechat.token_sources"
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	if _, err := caddy.GetModule(namespace + "." + name); err != nil {
		var known []string
		for _, mod := range caddy.GetModules(namespace) {
			known = append(known, mod.ID.Name())
		}
		return d.Errf("unknown token source %s; use %s", name, strings.Join(known, ", "))
	}
	mod, err := caddyfile.UnmarshalModule(d, namespace+"."+name)
	if err != nil {
		return err
	}
	source, ok := mod.(token.Source)
	if !ok {
		return d.Errf("module %s.%s (%T) is not a token.Source", namespace, name, mod)
	}
	a.TokenRaw = caddyconfig.JSONModuleObject(source, "source", name, nil)
	return nil
}
