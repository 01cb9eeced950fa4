package wechatmedia

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func mustProvision(t *testing.T, s interface {
	caddy.Provisioner
	caddy.Validator
}) {
	t.Helper()
	if err := s.Provision(caddy.Context{}); err != nil {
		t.Fatalf("provisioning: %v", err)
	}
	if err := s.Validate(); err != nil {
		t.Fatalf("validating: %v", err)
	}
}

func TestServerRequest(t *testing.T) {
	t.Setenv("TOKEN_SERVER_KEY", "SENTINELkey\n")
	for name, tc := range map[string]struct {
		source ServerTokenSource
		check  func(r *http.Request, body string) bool
	}{
		"GET": {ServerTokenSource{}, func(r *http.Request, body string) bool {
			return r.Method == "GET" && r.RequestURI == "/token?app=1" && body == "" && r.Header.Get("Accept") == "application/json"
		}},
		"header": {ServerTokenSource{Headers: map[string]string{"authorization": "Bearer {env.TOKEN_SERVER_KEY}", "Host": "tokens.example"}},
			func(r *http.Request, _ string) bool {
				return r.Header.Get("Authorization") == "Bearer SENTINELkey" && r.Host == "tokens.example"
			}},
		"POST": {ServerTokenSource{Method: "POST", Body: `key={env.TOKEN_SERVER_KEY}`, Headers: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}},
			func(r *http.Request, body string) bool {
				return r.Method == "POST" && body == "key=SENTINELkey" && r.ContentLength == 15 && r.Header.Get("Content-Type") == "application/x-www-form-urlencoded"
			}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if !tc.check(r, string(body)) {
					t.Errorf("got %s %s %v %q", r.Method, r.RequestURI, r.Header, body)
				}
				fmt.Fprint(w, `{"access_token":"SENTINELtoken","expires_in":7200}`)
			}))
			defer srv.Close()
			s := tc.source
			s.URL = srv.URL + "/token?app=1"
			before := string(caddyconfig.JSON(s.Headers, nil)) + s.Body
			mustProvision(t, &s)
			if string(caddyconfig.JSON(s.Headers, nil))+s.Body != before || strings.Contains(string(caddyconfig.JSON(s, nil)), "SENTINEL") {
				t.Error("a secret was resolved into the config")
			}
			reply, err := s.FetchToken(t.Context(), TokenRequest{Client: srv.Client()})
			if err != nil || reply != (TokenReply{AccessToken: sentinelToken, ExpiresIn: 2 * time.Hour, RefreshIn: 4 * time.Minute}) {
				t.Errorf("got %v, %v", reply, err)
			}
		})
	}
}

func TestServerReplies(t *testing.T) {
	now := time.Now()
	for name, tc := range map[string]struct {
		source ServerTokenSource
		body   string
		status int
		life   time.Duration // ±2 s
		kind   failureKind
		text   string
	}{
		"relative":      {ServerTokenSource{}, `{"access_token":"SENTINELtoken","expires_in":"300"}`, 200, 300 * time.Second, "", ""},
		"nested":        {ServerTokenSource{TokenFields: TokenFields{TokenField: "data.token.value", ExpiresInField: "data.ttl"}}, `{"code":0,"data":{"ttl":60,"token":{"value":"SENTINELtoken"}}}`, 200, time.Minute, "", ""},
		"absolute":      {ServerTokenSource{TokenFields: TokenFields{ExpiresAtField: "exp"}}, fmt.Sprintf(`{"access_token":"SENTINELtoken","exp":%d}`, now.Add(time.Hour).Unix()), 200, time.Hour, "", ""},
		"milliseconds":  {ServerTokenSource{TokenFields: TokenFields{ExpiresAtField: "exp"}}, fmt.Sprintf(`{"access_token":"SENTINELtoken","exp":%d}`, now.Add(time.Hour).UnixMilli()), 200, time.Hour, "", ""},
		"huge":          {ServerTokenSource{}, `{"access_token":"SENTINELtoken","expires_in":1e30}`, 200, 24 * time.Hour, "", ""},
		"absolute huge": {ServerTokenSource{TokenFields: TokenFields{ExpiresAtField: "exp"}}, `{"access_token":"SENTINELtoken","exp":1e30}`, 200, 24 * time.Hour, "", ""},
		"base64":        {ServerTokenSource{}, `{"access_token":"SENTINEL+/==","expires_in":300}`, 200, 300 * time.Second, "", ""},
		"past":          {ServerTokenSource{TokenFields: TokenFields{ExpiresAtField: "exp"}}, fmt.Sprintf(`{"access_token":"SENTINELtoken","exp":%d}`, now.Add(-time.Hour).Unix()), 200, 0, failureReply, "expired 1h0m"},
		"no number":     {ServerTokenSource{TokenFields: TokenFields{ExpiresAtField: "exp"}}, `{"access_token":"SENTINELtoken","exp":"SENTINEL"}`, 200, 0, failureReply, "no number in the field exp"},
		"no expiry":     {ServerTokenSource{}, `{"access_token":"SENTINELtoken"}`, 200, 0, failureReply, "no field expires_in"},
		"no token":      {ServerTokenSource{TokenFields: TokenFields{TokenField: "data.token"}}, `{"access_token":"SENTINELtoken","expires_in":60}`, 200, 0, failureReply, "no string in the field data.token"},
		"object":        {ServerTokenSource{}, `{"access_token":{"SENTINEL":1},"expires_in":60}`, 200, 0, failureReply, "no string in the field access_token"},
		"bad token":     {ServerTokenSource{}, `{"access_token":"SENTINEL token","expires_in":60}`, 200, 0, failureReply, "unexpected characters"},
		"errcode":       {ServerTokenSource{}, `{"errcode":40164,"errmsg":"invalid ip 203.0.113.9"}`, 200, 0, failureIP, "errcode 40164"},
		"401":           {ServerTokenSource{}, `{}`, 401, 0, failureReply, "status 401"},
		"HTML":          {ServerTokenSource{}, `<p>SENTINEL`, 200, 0, failureReply, "no JSON"},
		"truncated":     {ServerTokenSource{}, `{"access_token":"SENTINELtoken",`, 200, 0, failureReply, "broken off"},
	} {
		for _, skew := range []time.Duration{0, time.Hour} { // the server's clock and its Date go together
			if skew != 0 && (tc.source.ExpiresAtField == "" || tc.life != time.Hour) {
				continue // no clock in it
			}
			t.Run(fmt.Sprint(name, " ", skew), func(t *testing.T) {
				body := tc.body
				if skew != 0 {
					body = strings.ReplaceAll(body, fmt.Sprint(now.Add(time.Hour).Unix()), fmt.Sprint(now.Add(time.Hour+skew).Unix()))
				}
				srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
					w.WriteHeader(tc.status)
					_, _ = io.WriteString(w, body)
				}))
				defer srv.Close()
				s := tc.source
				s.URL = srv.URL
				mustProvision(t, &s)
				reply, err := s.FetchToken(t.Context(), TokenRequest{Client: srv.Client()})
				if tc.kind == "" {
					if err != nil || !strings.HasPrefix(reply.AccessToken, "SENTINEL") || (reply.ExpiresIn-tc.life).Abs() > 3*time.Second {
						t.Errorf("got %v, %v; want a life of %v", reply.ExpiresIn, err, tc.life)
					}
					return
				}
				if err == nil || classify(err).kind != tc.kind || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), "SENTINEL") {
					t.Errorf("got %v, want %s: …%s", err, tc.kind, tc.text)
				}
			})
		}
	}
}

func TestServerErrorsCarryNoSecret(t *testing.T) {
	s := ServerTokenSource{URL: "http://127.0.0.1:1/?key=SENTINELkey", Headers: map[string]string{"X-Key": sentinelSecret}}
	mustProvision(t, &s)
	if _, err := s.FetchToken(t.Context(), TokenRequest{Client: http.DefaultClient}); err == nil ||
		classify(err).kind != failureNetwork || strings.Contains(fmt.Sprintf("%v %+v", err, err), "SENTINEL") {
		t.Errorf("got %v", err)
	}
}

func TestServerConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		source ServerTokenSource
		text   string
	}{
		"no URL":         {ServerTokenSource{}, "url is required"},
		"relative":       {ServerTokenSource{URL: "/token"}, "not an absolute"},
		"no HTTP":        {ServerTokenSource{URL: "ftp://h/token"}, "not an absolute"},
		"unset":          {ServerTokenSource{URL: "{env.NOT_SET_ANYWHERE}"}, "url: {env.NOT_SET_ANYWHERE} is not set or empty"},
		"unset header":   {ServerTokenSource{URL: "http://h", Headers: map[string]string{"X-Key": "{env.NOT_SET_ANYWHERE}"}}, "header X-Key: {env.NOT_SET_ANYWHERE} is not set or empty"},
		"method":         {ServerTokenSource{URL: "http://h", Method: "PUT"}, "neither GET nor POST"},
		"body with GET":  {ServerTokenSource{URL: "http://h", Body: "x"}, "method POST only"},
		"interval":       {ServerTokenSource{URL: "http://h", RefreshInterval: 5}, "refresh_interval is less than 1s"},
		"field":          {ServerTokenSource{URL: "http://h", TokenFields: TokenFields{TokenField: "data."}}, "token_field"},
		"header's name":  {ServerTokenSource{URL: "http://h", Headers: map[string]string{"X Key": "v"}}, "not a header field"},
		"header's value": {ServerTokenSource{URL: "http://h", Headers: map[string]string{"X-Key": "v\r\nX: y"}}, "not a header field"},
	} {
		err := tc.source.Provision(caddy.Context{})
		if err == nil {
			err = tc.source.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: got %v, want %s", name, err, tc.text)
		}
	}
}

func TestServerCaddyfile(t *testing.T) {
	for input, want := range map[string]string{
		"server https://h/token": `{"url":"https://h/token"}`,
		`server https://h/token {
			method post
			header X-Key {env.KEY}
			header X-Other 1
			body "{\"a\":1}"
			token_field data.token
			expires_in_field data.ttl
			expires_at_field data.exp
			refresh_interval 1m
		}`: `{"url":"https://h/token","method":"POST","headers":{"X-Key":"{env.KEY}","X-Other":"1"},"body":"{\"a\":1}",` +
			`"token_field":"data.token","expires_in_field":"data.ttl","expires_at_field":"data.exp","refresh_interval":60000000000}`,
		"server":                                                  "error: write: token server <url>",
		"server a b":                                              "error: write: token server <url>",
		"server u {\nmethod GET\nmethod G\n}":                     "error: method is already specified",
		"server u {\nmethod\n}":                                   "error: method takes one argument",
		"server u {\nheader X-Key\n}":                             "error: write: header <field> <value>",
		"server u {\nheader x-key 1\nheader X-Key 2\n}":           "error: header X-Key is already specified",
		"server u {\nrefresh_interval soon\n}":                    "error: refresh_interval soon is not a duration",
		"server u {\nrefresh_interval -1s\n}":                     "error: refresh_interval -1s is not a duration",
		"server u {\nrefresh_interval 1m\nrefresh_interval 1m\n}": "error: refresh_interval is already specified",
		"server u {\nheaders X 1\n}":                              "error: unrecognized option headers of token server; use method",
		"server u {\nbody x {\ny\n}\n}":                           "error: body takes no block",
	} {
		var s ServerTokenSource
		checkUnmarshal(t, &s, input, want)
	}
}

// checkUnmarshal holds what s becomes against JSON, or an error.
func checkUnmarshal(t *testing.T, s caddyfile.Unmarshaler, input, want string) {
	t.Helper()
	err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
	if text, isErr := strings.CutPrefix(want, "error: "); isErr {
		if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want %s", input, err, text)
		}
	} else if got := string(caddyconfig.JSON(s, nil)); err != nil || got != want {
		t.Errorf("%q: got %s, %v; want %s", input, got, err, want)
	}
}
