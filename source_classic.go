package wechatmedia

// The token source classic: WeChat's older /cgi-bin/token, which needs a keeper.

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(new(ClassicTokenSource))
}

// ClassicTokenSource gets tokens from
// [`GET /cgi-bin/token`](https://developers.weixin.qq.com/doc/subscription/api/base/api_getaccesstoken).
// Every call issues a new token and ends the one before within 5 minutes, and an
// account has 2000 calls a day. So the token is always shared through Caddy's
// storage, and nothing but gateways on that storage may call the endpoint for the
// same app. Prefer `stable` unless something requires this one. It needs the
// app's AppSecret.
type ClassicTokenSource struct{}

// CaddyModule returns the Caddy module information.
func (*ClassicTokenSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.wechat.token_sources.classic",
		New: func() caddy.Module { return new(ClassicTokenSource) },
	}
}

// FetchToken implements TokenSource.
func (*ClassicTokenSource) FetchToken(ctx context.Context, req TokenRequest) (TokenReply, error) {
	query := url.Values{"grant_type": {"client_credential"}, "appid": {req.AppID}, "secret": {req.AppSecret}}.Encode()
	body, err := doTokenRequest(ctx, req.Client, req.BaseURLs, func(ctx context.Context, baseURL string) (*http.Request, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, baseURL+"/cgi-bin/token?"+query, nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Accept", "application/json")
		return r, nil
	})
	var reply TokenReply
	if err == nil {
		reply, err = parseWechatReply(body)
	}
	if err != nil {
		return TokenReply{}, withoutSecrets(fmt.Errorf("requesting token: %w", err), req.AppSecret, req.Rejected)
	}
	return reply, nil
}

// NeedsSecret implements SecretRequirer.
func (*ClassicTokenSource) NeedsSecret() bool { return true }

// NeedsSharing implements ShareRequirer.
func (*ClassicTokenSource) NeedsSharing() bool { return true }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	token classic
func (*ClassicTokenSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume source name
	if d.NextArg() {
		return d.Errf("token classic takes no argument %q; write: token classic", d.Val())
	}
	for d.NextBlock(0) {
		return d.Errf("unrecognized option %s of token classic; it has none", d.Val())
	}
	return nil
}

// Interface guards
var (
	_ TokenSource           = (*ClassicTokenSource)(nil)
	_ SecretRequirer        = (*ClassicTokenSource)(nil)
	_ ShareRequirer         = (*ClassicTokenSource)(nil)
	_ caddyfile.Unmarshaler = (*ClassicTokenSource)(nil)
)
