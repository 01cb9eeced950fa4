package tokensource

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

func TestStableRequest(t *testing.T) {
	const plain = `{"grant_type":"client_credential","appid":"wxapp","secret":"SENTINEL+secret/1 2"}`
	for _, tc := range []struct {
		allowed, force bool
		body           string
	}{
		{false, false, plain},
		{false, true, plain},
		{true, false, plain},
		{true, true, strings.TrimSuffix(plain, "}") + `,"force_refresh":true}`},
	} {
		s := &Stable{ForceRefresh: tc.allowed}
		reply, err := ask(t, s, token.Request{AppID: "wxapp", Force: tc.force}, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if r.Method != "POST" || r.RequestURI != "/cgi-bin/stable_token" || r.ContentLength != int64(len(body)) || r.TransferEncoding != nil ||
				r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Accept") != "application/json" || string(body) != tc.body {
				t.Errorf("got %s %s %v %s", r.Method, r.RequestURI, r.Header, body)
			}
			fmt.Fprint(w, goodReply)
		})
		if err != nil || reply != (token.Reply{AccessToken: sentinelToken, ExpiresIn: 2 * time.Hour}) {
			t.Errorf("got %v, %v", reply, err)
		}
		if traits := s.Traits(); traits.Identity != "stable" || traits.MayForce != tc.allowed || !traits.NeedsSecret || !traits.AsksUpstream ||
			traits.NeedsSharing || traits.NotShared != "" || traits.Polls {
			t.Errorf("traits are %+v", traits)
		}
	}
}

// What the token endpoints of WeChat and WeCom answer is looked at in one way.
func TestReplies(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		life   time.Duration
		kind   token.Kind
		text   string
	}{
		"300":                 {200, `{"access_token":"SENTINELtoken","expires_in":300}`, 300 * time.Second, "", ""},
		"string":              {200, `{"access_token":"SENTINELtoken","expires_in":"345"}`, 345 * time.Second, "", ""},
		"BOM":                 {200, "\ufeff" + `{"access_token":"SENTINELtoken","expires_in":345}`, 345 * time.Second, "", ""},
		"errcode 0":           {200, `{"access_token":"SENTINELtoken","expires_in":345,"errcode":0,"errmsg":"ok"}`, 345 * time.Second, "", ""},
		"huge":                {200, `{"access_token":"SENTINELtoken","expires_in":99999999999999999999}`, 2 * time.Hour, "", ""},
		"beyond all numbers":  {200, `{"access_token":"SENTINELtoken","expires_in":1e999}`, 2 * time.Hour, "", ""},
		"missing":             {200, `{"access_token":"SENTINELtoken"}`, 0, token.KindReply, "no field expires_in"},
		"null":                {200, `{"access_token":"SENTINELtoken","expires_in":null}`, 0, token.KindReply, "no field expires_in"},
		"zero":                {200, `{"access_token":"SENTINELtoken","expires_in":0}`, 0, token.KindReply, "a life of 0 s in the field expires_in"},
		"negative":            {200, `{"access_token":"SENTINELtoken","expires_in":-5}`, 0, token.KindReply, "a life of -5 s"},
		"no number":           {200, `{"access_token":"SENTINELtoken","expires_in":"SENTINEL"}`, 0, token.KindReply, "no number"},
		"NaN":                 {200, `{"access_token":"SENTINELtoken","expires_in":"NaN"}`, 0, token.KindReply, "no number"},
		"no token":            {200, `{"expires_in":7200}`, 0, token.KindReply, "no access_token"},
		"empty token":         {200, `{"access_token":"","expires_in":7200}`, 0, token.KindReply, "no access_token"},
		"token no string":     {200, `{"access_token":["SENTINEL"],"expires_in":7200}`, 0, token.KindReply, "another shape"},
		"strange token":       {200, `{"access_token":"SENTINEL&x=1","expires_in":7200}`, 0, token.KindReply, "unexpected characters"},
		"long token":          {200, `{"access_token":"` + strings.Repeat("a", 2049) + `","expires_in":7200}`, 0, token.KindReply, "2049 bytes"},
		"errcode":             {200, `{"errcode":40125,"errmsg":"invalid appsecret SENTINEL+secret/1 2, rid: 1"}`, 0, token.KindSecret, "errcode 40125: invalid appsecret [redacted], rid: 1"},
		"escaped":             {200, `{"errcode":40125,"errmsg":"SENTINEL%2Bsecret%2f1+2 or SENTINEL+secret/1%202, and SENTINELrejected"}`, 0, token.KindSecret, "40125: [redacted] or [redacted], and [redacted]"},
		"errcode as a string": {200, `{"errcode":"40164","errmsg":"invalid ip 203.0.113.9"}`, 0, token.KindIP, "40164"},
		"busy":                {200, `{"errcode":-1,"errmsg":"system error"}`, 0, token.KindBusy, "-1"},
		"quota":               {200, `{"errcode":45009,"errmsg":"reach max api daily quota limit"}`, 0, token.KindQuota, "45009"},
		"HTML with 200":       {200, `<html>SENTINEL log in`, 0, token.KindReply, "no JSON but text/html with status 200"},
		"empty":               {200, ``, 0, token.KindReply, "no JSON"},
		"truncated":           {200, `{"access_token":"SENTINELtoken","expi`, 0, token.KindReply, "broken off"},
		"too long":            {200, `{"access_token":"SENTINELtoken","expires_in":7200,"x":"` + strings.Repeat("x", 64<<10) + `"}`, 0, token.KindReply, "more than 65536 bytes"},
		"412":                 {412, ``, 0, token.KindReply, "status 412"},
		"redirect":            {302, goodReply, 0, token.KindReply, "status 302"},
		"502":                 {502, goodReply, 0, token.KindReply, "status 502"},
	} {
		for kindOfToken, source := range map[string]token.Source{"stable token": new(Stable), "token": new(Classic), "WeCom token": new(WeCom)} {
			t.Run(name+", "+kindOfToken, func(t *testing.T) {
				reply, err := ask(t, source, token.Request{AppID: "wxapp", Rejected: "SENTINELrejected"}, answers(tc.status, tc.body))
				if tc.kind == "" {
					if err != nil || reply != (token.Reply{AccessToken: sentinelToken, ExpiresIn: tc.life}) {
						t.Errorf("got %v, %v", reply, err)
					}
					return
				}
				if err == nil {
					t.Fatal("no error")
				}
				if kind, _ := kindOf(err); kind != tc.kind || !strings.Contains(err.Error(), tc.text) || !strings.HasPrefix(err.Error(), "requesting "+kindOfToken+": ") {
					t.Errorf("got %s: %v; want %s: …%s", kind, err, tc.kind, tc.text)
				}
			})
		}
	}
}

// net/http quotes what is not HTTP.
func TestGarbage(t *testing.T) {
	garbage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, _ := http.NewResponseController(w).Hijack()
		_, _ = io.WriteString(c, `{"access_token":"SENTINELtoken"}`+"\r\n\r\n")
		_ = c.Close()
	}))
	defer garbage.Close()
	torn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, goodReply)
	}))
	defer torn.Close()
	for _, url := range []string{garbage.URL, torn.URL} {
		for _, source := range []token.Source{new(Stable), new(Classic), new(WeCom)} {
			_, err := fetch(t, source, token.Request{AppID: "wxapp", BaseURL: url})
			if kind, _ := kindOf(err); kind != token.KindNetwork {
				t.Errorf("%T got %s: %v", source, kind, err)
			}
		}
	}
}

func TestStableCaddyfile(t *testing.T) {
	checkUnmarshal(t, func() caddyfile.Unmarshaler { return new(Stable) }, map[string]string{
		"stable":                     `{}`,
		"stable {\n}":                `{}`,
		"stable {\nforce_refresh\n}": `{"force_refresh":true}`,
		"stable now":                 "error: takes no argument \"now\"; write: token stable",
		"stable {\nforce_refresh\nforce_refresh\n}": "error: force_refresh is already specified",
		"stable {\nforce_refresh on\n}":             "error: force_refresh: wrong arguments; write: force_refresh",
		"stable {\nforce_refresh {\nx\n}\n}":        "error: force_refresh takes no block",
		"stable {\nforce\n}":                        "error: unrecognized option force of token stable; use force_refresh",
	})
}
