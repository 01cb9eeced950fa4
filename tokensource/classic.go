package tokensource

// The token source classic: WeChat's older token endpoint, which needs a keeper.

import (
	"context"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/token"
)

func init() {
	caddy.RegisterModule(new(Classic))
}

// Classic gets tokens from
// [`GET /cgi-bin/token`](https://developers.weixin.qq.com/doc/subscription/api/base/api_getaccesstoken).
// Every call issues a new token and ends the one before within 5 minutes, and an
// account has 2000 calls a day. So the token is always shared through Caddy's
// storage, and nothing but gateways on that storage may call the endpoint for the
// same app. Prefer `stable` unless something requires this one. It needs the
// app's AppSecret.
type Classic struct{}

// CaddyModule returns the Caddy module information.
func (*Classic) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.wechat.token_sources.classic",
		New: func() caddy.Module { return new(Classic) },
	}
}

// Traits implements token.Source.
func (*Classic) Traits() token.Traits {
	return token.Traits{Identity: "classic", NeedsSecret: true, NeedsSharing: true, AsksUpstream: true, Platform: platform.WeChat.Name}
}

// Fetch implements token.Source.
func (*Classic) Fetch(ctx context.Context, req token.Request) (token.Reply, error) {
	query := url.Values{"grant_type": {"client_credential"}, "appid": {req.AppID}, "secret": {req.AppSecret}}
	reply, err := request(ctx, req, platform.WeChat.TokenPath+"?"+query.Encode(), nil)
	return reply, failed("token", err, req)
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	token classic
func (*Classic) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return noArgs(d, "classic")
}

// Interface guards
var (
	_ caddy.Module          = (*Classic)(nil)
	_ token.Source          = (*Classic)(nil)
	_ caddyfile.Unmarshaler = (*Classic)(nil)
)
