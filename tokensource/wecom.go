package tokensource

// The token source wecom: WeCom's tokens, one for each agent of a corp.

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/token"
)

func init() {
	caddy.RegisterModule(new(WeCom))
}

// WeCom gets tokens from WeCom's (企业微信)
// [`GET /cgi-bin/gettoken`](https://developer.work.weixin.qq.com/document/path/91039). The app is a corp, or an agent of one, written as
// `<corp_id>` or `<corp_id>/<agent_id>`, and its secret is the agent's. Everybody who
// asks gets the same token while it lives, and nobody can have it replaced, so any
// number of gateways can use this source side by side. An address that sends 2,000
// wrong calls in an hour is blocked for an hour: failures that only the operator can
// do something about are tried again minutes apart, which stays far below that.
type WeCom struct{}

// CaddyModule returns the Caddy module information.
func (*WeCom) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.wechat.token_sources.wecom",
		New: func() caddy.Module { return new(WeCom) },
	}
}

// Traits implements token.Source.
func (*WeCom) Traits() token.Traits {
	return token.Traits{
		Identity: "wecom", NeedsSecret: true, AsksUpstream: true, Platform: platform.WeCom.Name,
		Hints: map[token.Kind]string{
			token.KindSecret:  "the secret is not the agent's; copy it again from the WeCom admin, and restart, or reload with --force if it comes from a file",
			token.KindAppID:   "there is no such corp or agent; copy the corp_id again from the WeCom admin, and restart, or reload with --force if it comes from a file",
			token.KindIP:      "add {this machine's public IP address} to the trusted addresses of the agent in the WeCom admin",
			token.KindAccount: "the corp may not get access tokens; look for notices in the WeCom admin",
			token.KindQuota:   "WeCom allows no more token calls for now; see who else asks for tokens of this agent, and consider share_token",
			token.KindBusy:    "WeCom is busy; nothing to do",
			token.KindRequest: "WeCom does not understand the request for a token; an egress proxy may have changed it",
			token.KindReply:   "what answered is not WeCom's token endpoint, or it is broken; check the upstreams and the egress proxy",
		},
	}
}

// Fetch implements token.Source.
func (*WeCom) Fetch(ctx context.Context, req token.Request) (token.Reply, error) {
	corpID, _, _ := strings.Cut(req.AppID, "/")
	query := url.Values{"corpid": {corpID}, "corpsecret": {req.AppSecret}}
	reply, err := request(ctx, req, platform.WeCom.TokenPath+"?"+query.Encode(), nil)
	return reply, failed("WeCom token", classifyWeCom(err), req)
}

// classifyWeCom gives a refusal the kind that its errcode has at WeCom.
func classifyWeCom(err error) error {
	var refused *token.ErrcodeError
	if !errors.As(err, &refused) {
		return err
	}
	f := &token.Failure{Kind: platform.WeCom.Meaning(refused.Errcode).Kind, Errcode: refused.Errcode, Err: err}
	if f.Kind == token.KindReply { // WeCom's own, but none that is known
		f.Hint = "look errcode up in WeCom's documentation, https://developer.work.weixin.qq.com/document/path/90313"
	}
	return f
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	token wecom
func (*WeCom) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return noArgs(d, "wecom")
}

// Interface guards
var (
	_ caddy.Module          = (*WeCom)(nil)
	_ token.Source          = (*WeCom)(nil)
	_ caddyfile.Unmarshaler = (*WeCom)(nil)
)
