package wechatmedia

// The token source stable: WeChat's stable_token, which all may call.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(new(StableTokenSource))
}

// StableTokenSource gets tokens from
// [`POST /cgi-bin/stable_token`](https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken).
// Everybody who asks gets the same token until its last 5 minutes, in which WeChat
// replaces it; the old one goes on working until it expires. So any number of
// gateways can use this source side by side, and nothing that uses
// `/cgi-bin/token` for the same app is disturbed. It needs the app's AppSecret.
type StableTokenSource struct {
	// Whether a token that WeChat rejects, and yet hands out again, may be
	// replaced by force. WeChat allows that 20 times a day for an app, 30 seconds
	// apart, and ends the token for everybody else who uses it. Default: false.
	ForceRefresh bool `json:"force_refresh,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*StableTokenSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.wechat.token_sources.stable",
		New: func() caddy.Module { return new(StableTokenSource) },
	}
}

// FetchToken implements TokenSource.
func (s *StableTokenSource) FetchToken(ctx context.Context, req TokenRequest) (TokenReply, error) {
	reply, err := s.fetch(ctx, req)
	if err != nil {
		return TokenReply{}, withoutSecrets(fmt.Errorf("requesting stable token: %w", err), req.AppSecret, req.Rejected)
	}
	return reply, nil
}

func (s *StableTokenSource) fetch(ctx context.Context, req TokenRequest) (TokenReply, error) {
	payload, err := json.Marshal(struct {
		GrantType    string `json:"grant_type"`
		AppID        string `json:"appid"`
		Secret       string `json:"secret"`
		ForceRefresh bool   `json:"force_refresh,omitempty"`
	}{"client_credential", req.AppID, req.AppSecret, req.ForceRefresh && s.ForceRefresh})
	if err != nil {
		return TokenReply{}, err
	}
	body, err := doTokenRequest(ctx, req.Client, req.BaseURLs, func(ctx context.Context, baseURL string) (*http.Request, error) {
		// bytes.Reader gives it a Content-Length: WeChat answers 412 to a chunked one
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, baseURL+"/cgi-bin/stable_token", bytes.NewReader(payload))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json")
		return r, nil
	})
	if err != nil {
		return TokenReply{}, err
	}
	return parseWechatReply(body)
}

// NeedsSecret implements SecretRequirer.
func (*StableTokenSource) NeedsSecret() bool { return true }

// AllowsForceRefresh implements ForceRefresher.
func (s *StableTokenSource) AllowsForceRefresh() bool { return s.ForceRefresh }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	token stable {
//	    force_refresh
//	}
func (s *StableTokenSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume source name
	if d.NextArg() {
		return d.Errf("token stable takes no argument %q; write: token stable", d.Val())
	}
	for d.NextBlock(0) {
		option := d.Val()
		switch option {
		case "force_refresh":
			if s.ForceRefresh {
				return d.Errf("%s is already specified", option)
			}
			if d.NextArg() {
				return d.Errf("%s takes no argument; leave %q away", option, d.Val())
			}
			s.ForceRefresh = true
		default:
			return d.Errf("unrecognized option %s of token stable; use force_refresh", option)
		}
		if err := noSourceBlock(d, option); err != nil {
			return err
		}
	}
	return nil
}

// noSourceBlock refuses a block behind an option that has none.
func noSourceBlock(d *caddyfile.Dispenser, option string) error {
	if d.NextBlock(d.Nesting()) {
		return d.Errf("%s takes no block", option)
	}
	return nil
}

// Interface guards
var (
	_ TokenSource           = (*StableTokenSource)(nil)
	_ SecretRequirer        = (*StableTokenSource)(nil)
	_ ForceRefresher        = (*StableTokenSource)(nil)
	_ caddyfile.Unmarshaler = (*StableTokenSource)(nil)
)
