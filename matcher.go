package wechatmedia

// The matcher wechat_token: is a usable token at hand? For a readiness probe.

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(MatchToken))
}

// MatchToken matches requests while a usable access token is at hand, for a readiness
// probe on the site itself. It fetches nothing and waits for nothing.
//
//	@ready {
//		path /readyz
//		wechat_token
//	}
type MatchToken struct {
	// The apps, as their `app` lines have them, that must have a token. Placeholders
	// such as `{env.WECHAT_APP_ID}` are replaced when the config is loaded.
	// Default: all apps of the running config, of which there must be one.
	Apps []string `json:"apps,omitempty"`

	apps []string
}

// CaddyModule returns the Caddy module information.
func (*MatchToken) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.wechat_token",
		New: func() caddy.Module { return new(MatchToken) },
	}
}

// Provision sets up m.
func (m *MatchToken) Provision(caddy.Context) error {
	for _, configured := range m.Apps {
		id, err := resolve(caddy.NewReplacer(), "app_id", configured)
		if err != nil {
			return fmt.Errorf("wechat_token: %w", err)
		}
		m.apps = append(m.apps, id)
	}
	return nil
}

// MatchWithError implements caddyhttp.RequestMatcherWithError.
func (m *MatchToken) MatchWithError(*http.Request) (bool, error) {
	if len(m.apps) == 0 {
		return allUsable(managersOf("")), nil
	}
	for _, id := range m.apps {
		if !allUsable(managersOf(id)) {
			return false, nil
		}
	}
	return true, nil
}

// allUsable reports whether there are managers, and each has a token.
func allUsable(managers []*pooledManager) bool {
	for _, m := range managers {
		if !m.Usable() {
			return false
		}
	}
	return len(managers) > 0
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	wechat_token [<app_id>...]
func (m *MatchToken) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		m.Apps = append(m.Apps, d.RemainingArgs()...)
		if err := noBlock(d, "wechat_token"); err != nil {
			return err
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner                 = (*MatchToken)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchToken)(nil)
	_ caddyfile.Unmarshaler             = (*MatchToken)(nil)
)
