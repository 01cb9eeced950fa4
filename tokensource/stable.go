package tokensource

// The token source stable: WeChat's stable_token, which all may call.

import (
	"context"
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/token"
)

func init() {
	caddy.RegisterModule(new(Stable))
}

// Stable gets tokens from
// [`POST /cgi-bin/stable_token`](https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken).
// Everybody who asks gets the same token until its last 5 minutes, in which WeChat
// replaces it; the old one goes on working until it expires. So any number of
// gateways can use this source side by side, and nothing that uses
// `/cgi-bin/token` for the same app is disturbed. It needs the app's AppSecret.
type Stable struct {
	// Whether a token that WeChat rejects, and yet hands out again, may be
	// replaced by force. WeChat allows that 20 times a day for an app, 30 seconds
	// apart, and ends the token for everybody else who uses it. Default: false.
	ForceRefresh bool `json:"force_refresh,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Stable) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.wechat.token_sources.stable",
		New: func() caddy.Module { return new(Stable) },
	}
}

// Traits implements token.Source.
func (s *Stable) Traits() token.Traits {
	return token.Traits{Identity: "stable", NeedsSecret: true, MayForce: s.ForceRefresh, AsksUpstream: true, Platform: platform.WeChat.Name}
}

// Fetch implements token.Source.
func (s *Stable) Fetch(ctx context.Context, req token.Request) (token.Reply, error) {
	payload, err := json.Marshal(struct {
		GrantType    string `json:"grant_type"`
		AppID        string `json:"appid"`
		Secret       string `json:"secret"`
		ForceRefresh bool   `json:"force_refresh,omitempty"`
	}{"client_credential", req.AppID, req.AppSecret, req.Force && s.ForceRefresh})
	if err != nil {
		return token.Reply{}, err
	}
	reply, err := request(ctx, req, "/cgi-bin/stable_token", payload)
	return reply, failed("stable token", err, req)
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	token stable {
//	    force_refresh
//	}
func (s *Stable) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return noArgs(d, "stable", option{usage: "force_refresh", read: flag(&s.ForceRefresh)})
}

// Interface guards
var (
	_ caddy.Module          = (*Stable)(nil)
	_ token.Source          = (*Stable)(nil)
	_ caddyfile.Unmarshaler = (*Stable)(nil)
)
