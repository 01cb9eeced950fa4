package tokensource

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

func TestClassicRequest(t *testing.T) {
	reply, err := ask(t, new(Classic), token.Request{AppID: "wxapp"}, func(w http.ResponseWriter, r *http.Request) {
		want := "/cgi-bin/token?appid=wxapp&grant_type=client_credential&secret=" + url.QueryEscape(sentinelSecret)
		if r.Method != "GET" || r.RequestURI != want || r.Header.Get("Accept") != "application/json" {
			t.Errorf("got %s %s %v", r.Method, r.RequestURI, r.Header)
		}
		fmt.Fprint(w, goodReply)
	})
	if err != nil || reply != (token.Reply{AccessToken: sentinelToken, ExpiresIn: 2 * time.Hour}) {
		t.Errorf("got %v, %v", reply, err)
	}
	if traits := new(Classic).Traits(); traits.Identity != "classic" || !traits.NeedsSecret || !traits.NeedsSharing || !traits.AsksUpstream || traits.MayForce {
		t.Errorf("traits are %+v", traits)
	}
}

// The secret is in the URL, which net/http puts into its errors, and which a proxy may
// quote.
func TestQueryErrorsCarryNoSecret(t *testing.T) {
	redirect := httptest.NewServer(http.RedirectHandler("/?secret="+url.QueryEscape(sentinelSecret), http.StatusFound))
	defer redirect.Close()
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"errcode":40125,"errmsg":"invalid appsecret %s in %s"}`, sentinelSecret, r.RequestURI)
	}))
	defer refusing.Close()
	hanging := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _, _ := http.NewResponseController(w).Hijack()
		_ = c.Close()
	}))
	defer hanging.Close()
	for name, tc := range map[string]struct {
		url  string
		kind token.Kind
	}{
		"refused":  {"http://127.0.0.1:1", token.KindNetwork},
		"closed":   {hanging.URL, token.KindNetwork},
		"bad URL":  {"http://h\x7f", token.KindSource},
		"redirect": {redirect.URL, token.KindReply},
		"errcode":  {refusing.URL, token.KindSecret},
	} {
		for _, source := range []token.Source{new(Classic), new(WeCom)} {
			_, err := fetch(t, source, token.Request{AppID: "wxapp", BaseURL: tc.url})
			if kind, _ := kindOf(err); err == nil || kind != tc.kind {
				t.Errorf("%s: got %v, of kind %s; want %s", name, err, kind, tc.kind)
			}
		}
	}
}

func TestClassicCaddyfile(t *testing.T) {
	checkUnmarshal(t, func() caddyfile.Unmarshaler { return new(Classic) }, map[string]string{
		"classic":                  `{}`,
		"classic {\n}":             `{}`,
		"classic now":              "error: takes no argument \"now\"; write: token classic",
		"classic {\nforce\n}":      "error: unrecognized option force of token classic; it has none",
		"classic {\nforce {\n}\n}": "error: unrecognized option force of token classic; it has none",
	})
}
