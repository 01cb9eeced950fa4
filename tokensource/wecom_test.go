package tokensource

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// The agent tells secrets apart here, and means nothing to WeCom.
func TestWeComRequest(t *testing.T) {
	for _, appID := range []string{"ww0123456789abcdef", "ww0123456789abcdef/1000002"} {
		reply, err := ask(t, new(WeCom), token.Request{AppID: appID}, func(w http.ResponseWriter, r *http.Request) {
			want := "/cgi-bin/gettoken?corpid=ww0123456789abcdef&corpsecret=" + url.QueryEscape(sentinelSecret)
			if r.Method != "GET" || r.RequestURI != want {
				t.Errorf("got %s %s", r.Method, r.RequestURI)
			}
			fmt.Fprint(w, `{"errcode":0,"errmsg":"ok","access_token":"SENTINELtoken","expires_in":7200}`)
		})
		if err != nil || reply != (token.Reply{AccessToken: sentinelToken, ExpiresIn: 2 * time.Hour}) {
			t.Errorf("got %v, %v", reply, err)
		}
	}
	if traits := new(WeCom).Traits(); traits.Identity != "wecom" || traits.Platform != "WeCom" || !traits.NeedsSecret || !traits.AsksUpstream || traits.NeedsSharing || traits.MayForce {
		t.Errorf("traits are %+v", traits)
	}
}

func TestWeComReplies(t *testing.T) {
	for name, tc := range map[string]struct {
		body       string
		kind       token.Kind
		text, hint string
	}{
		"address": {`{"errcode":60020,"errmsg":"not allow to access from your ip, hint: [1], from ip: 203.0.113.9, more info at https://open.work.weixin.qq.com/devtool/query?e=60020"}`,
			token.KindIP, "errcode 60020: not allow", "add 203.0.113.9 to the trusted addresses of the agent in the WeCom admin"},
		"no address": {`{"errcode":60020,"errmsg":"not allow"}`, token.KindIP, "60020", "add this machine's public IP address to the trusted addresses"},
		"secret":     {`{"errcode":40001,"errmsg":"invalid credential SENTINEL%2bsecret%2F1%202"}`, token.KindSecret, "errcode 40001: invalid credential [redacted]", "WeCom admin"},
		"old secret": {`{"errcode":40091,"errmsg":"invalid secret"}`, token.KindSecret, "40091", "the secret is not the agent's"},
		"corp":       {`{"errcode":40013,"errmsg":"invalid corpid"}`, token.KindAppID, "40013", "corp_id"},
		"quota":      {`{"errcode":45033,"errmsg":"concurrency"}`, token.KindQuota, "45033", "share_token"},
		"busy":       {`{"errcode":-1,"errmsg":"system error"}`, token.KindBusy, "-1", "WeCom is busy"},
		"unknown":    {`{"errcode":301002,"errmsg":"?"}`, token.KindReply, "301002", "look errcode up in WeCom's"},
		"no token":   {`{"errcode":0,"errmsg":"ok"}`, token.KindReply, "no access_token", ""},
		"no expiry":  {`{"errcode":0,"access_token":"SENTINELtoken"}`, token.KindReply, "no field expires_in", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask(t, new(WeCom), token.Request{AppID: "ww1/2"}, answers(200, tc.body))
			kind, _ := kindOf(err)
			hint := told(t, new(WeCom), 200, tc.body).Hint
			if err == nil || kind != tc.kind || !strings.HasPrefix(err.Error(), "requesting WeCom token: ") ||
				!strings.Contains(err.Error(), tc.text) || !strings.Contains(hint, tc.hint) {
				t.Errorf("got %s: %v (%s); want %s: …%s (%s)", kind, err, hint, tc.kind, tc.text, tc.hint)
			}
		})
	}
}

func TestWeComCaddyfile(t *testing.T) {
	checkUnmarshal(t, func() caddyfile.Unmarshaler { return new(WeCom) }, map[string]string{
		"wecom":                   `{}`,
		"wecom 1000002":           "error: takes no argument \"1000002\"; write: token wecom",
		"wecom {\nagent_id 1\n}":  "error: unrecognized option agent_id of token wecom; it has none",
		"wecom {\nagent_id {\n}}": "error: unrecognized option agent_id of token wecom; it has none",
	})
}
