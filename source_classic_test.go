package wechatmedia

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestClassicRequest(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.RequestURI != "/cgi-bin/token?appid=wxapp&grant_type=client_credential&secret=SENTINEL%26secret" {
			t.Errorf("got %s %s", r.Method, r.RequestURI)
		}
		fmt.Fprint(w, `{"access_token":"SENTINELtoken","expires_in":7200}`)
	}))
	defer srv.Close()
	req := TokenRequest{AppID: "wxapp", AppSecret: "SENTINEL&secret", Client: srv.Client(), BaseURLs: []string{srv.URL + "/"}}
	reply, err := new(ClassicTokenSource).FetchToken(t.Context(), req)
	if err != nil || reply != (TokenReply{AccessToken: sentinelToken, ExpiresIn: 2 * time.Hour}) {
		t.Errorf("got %v, %v", reply, err)
	}
}

// The secret is in the URL, which net/http puts into its errors.
func TestClassicErrorsCarryNoSecret(t *testing.T) {
	redirect := httptest.NewServer(http.RedirectHandler("/?secret="+sentinelSecret, http.StatusFound))
	defer redirect.Close()
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"errcode":40125,"errmsg":"invalid appsecret %s"}`, sentinelSecret)
	}))
	defer refusing.Close()
	for name, tc := range map[string]struct {
		url  string
		kind failureKind
	}{
		"refused":  {"http://127.0.0.1:1", failureNetwork},
		"no host":  {"http://nowhere.invalid", failureNetwork},
		"bad URL":  {"http://h\x7f", failureSource},
		"redirect": {redirect.URL, failureReply},
		"errcode":  {refusing.URL, failureSecret},
	} {
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: 5 * time.Second}
		_, err := new(ClassicTokenSource).FetchToken(t.Context(), TokenRequest{AppID: "wxapp", AppSecret: sentinelSecret, Client: client, BaseURLs: []string{tc.url}})
		if err == nil || classify(err).kind != tc.kind {
			t.Errorf("%s: got %v, of kind %s; want %s", name, err, classify(err).kind, tc.kind)
			continue
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(fmt.Sprintf("%v %+v", e, e), "SENTINEL") {
				t.Errorf("%s: %v carries the secret", name, e)
			}
		}
	}
}

func TestClassicCaddyfile(t *testing.T) {
	for input, want := range map[string]string{
		"classic":                  "",
		"classic {\n}":             "",
		"classic now":              "takes no argument",
		"classic {\nforce\n}":      "unrecognized option force of token classic",
		"classic {\nforce {\n}\n}": "unrecognized option force of token classic",
	} {
		err := new(ClassicTokenSource).UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", input, err, want)
		}
	}
	if s := any(new(ClassicTokenSource)); !s.(SecretRequirer).NeedsSecret() || !s.(ShareRequirer).NeedsSharing() {
		t.Error("it must have a secret and be shared")
	}
}
