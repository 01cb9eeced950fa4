package tokensource

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// askServer lets s, whose URL is a path, talk to h.
func askServer(t *testing.T, s Server, h http.HandlerFunc) (token.Reply, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	s.URL = srv.URL + s.URL
	mustProvision(t, &s)
	return fetch(t, &s, token.Request{AppID: "wxapp", Rejected: "SENTINELrejected", BaseURL: "http://127.0.0.1:1"})
}

func TestServerRequest(t *testing.T) {
	t.Setenv("TOKEN_SERVER_KEY", "SENTINELkey\n")
	for name, tc := range map[string]struct {
		source Server
		check  func(r *http.Request, body string) bool
	}{
		"GET": {Server{}, func(r *http.Request, body string) bool {
			return r.Method == "GET" && r.RequestURI == "/token?app=1" && body == "" && r.Header.Get("Accept") == "application/json"
		}},
		"header": {Server{Headers: map[string]string{"authorization": "Bearer {env.TOKEN_SERVER_KEY}", "Host": "tokens.example", "Accept": "*/*"}},
			func(r *http.Request, _ string) bool {
				return r.Header.Get("Authorization") == "Bearer SENTINELkey" && r.Host == "tokens.example" && r.Header.Get("Accept") == "*/*"
			}},
		"POST": {Server{Method: "POST", Body: `key={env.TOKEN_SERVER_KEY}`, Headers: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}},
			func(r *http.Request, body string) bool {
				return r.Method == "POST" && body == "key=SENTINELkey" && r.ContentLength == 15 && r.Header.Get("Content-Type") == "application/x-www-form-urlencoded"
			}},
		"POST of JSON": {Server{Method: "POST", Body: `{"app":{"id":1},"key":"{env.TOKEN_SERVER_KEY}"}`},
			func(r *http.Request, body string) bool { return body == `{"app":{"id":1},"key":"SENTINELkey"}` }},
		"POST of nothing": {Server{Method: "POST"},
			func(r *http.Request, body string) bool { return r.ContentLength == 0 && r.TransferEncoding == nil }},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if !tc.check(r, string(body)) {
					t.Errorf("got %s %s %v %q", r.Method, r.RequestURI, r.Header, body)
				}
				fmt.Fprint(w, goodReply)
			}))
			defer srv.Close()
			s := tc.source
			s.URL = srv.URL + "/token?app=1"
			before := string(caddyconfig.JSON(s.Headers, nil)) + s.Body
			mustProvision(t, &s)
			if string(caddyconfig.JSON(s.Headers, nil))+s.Body != before || strings.Contains(string(caddyconfig.JSON(s, nil)), "SENTINEL") {
				t.Error("a secret was resolved into the config")
			}
			reply, err := fetch(t, &s, token.Request{})
			if err != nil || reply != (token.Reply{AccessToken: sentinelToken, ExpiresIn: 2 * time.Hour, RefreshIn: 4 * time.Minute}) {
				t.Errorf("got %v, %v", reply, err)
			}
			if traits := s.Traits(); traits.Identity != "server "+s.URL || traits.NeedsSecret || traits.AsksUpstream || traits.NotShared != "" || traits.Polls {
				t.Errorf("traits are %+v", traits)
			}
		})
	}
}

func TestServerReplies(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	inAnHour := now.Add(time.Hour)
	atExp := Server{Fields: Fields{ExpiresAtField: "exp"}}
	for name, tc := range map[string]struct {
		source Server
		body   string
		life   time.Duration // 0: an error
		kind   token.Kind
		text   string
	}{
		"relative":      {Server{}, `{"access_token":"SENTINELtoken","expires_in":"300"}`, 300 * time.Second, "", ""},
		"BOM":           {Server{}, "\ufeff" + `{"access_token":"SENTINELtoken","expires_in":300}`, 300 * time.Second, "", ""},
		"newline":       {Server{}, `{"access_token":" SENTINELtoken\r\n","expires_in":300}`, 300 * time.Second, "", ""},
		"nested":        {Server{Fields: Fields{TokenField: "data.token.value", ExpiresInField: "data.ttl"}}, `{"code":0,"data":{"ttl":60,"token":{"value":"SENTINELtoken"}}}`, time.Minute, "", ""},
		"absolute":      {atExp, fmt.Sprintf(`{"access_token":"SENTINELtoken","exp":%d}`, inAnHour.Unix()), time.Hour, "", ""},
		"milliseconds":  {atExp, fmt.Sprintf(`{"access_token":"SENTINELtoken","exp":%d}`, inAnHour.UnixMilli()), time.Hour, "", ""},
		"huge":          {Server{}, `{"access_token":"SENTINELtoken","expires_in":1e30}`, 24 * time.Hour, "", ""},
		"absolute huge": {atExp, `{"access_token":"SENTINELtoken","exp":1e30}`, 24 * time.Hour, "", ""},
		"base64":        {Server{}, `{"access_token":"SENTINELtoken+/==","expires_in":300}`, 300 * time.Second, "", ""},
		"past":          {atExp, fmt.Sprintf(`{"access_token":"SENTINELtoken","exp":%d}`, now.Add(-time.Hour).Unix()), 0, token.KindReply, "expired 1h0m"},
		"no number":     {atExp, `{"access_token":"SENTINELtoken","exp":"SENTINEL"}`, 0, token.KindReply, "no number in the field exp"},
		"no expiry":     {Server{}, `{"access_token":"SENTINELtoken"}`, 0, token.KindReply, "no field expires_in"},
		"no token":      {Server{Fields: Fields{TokenField: "data.token"}}, `{"access_token":"SENTINELtoken","expires_in":60}`, 0, token.KindReply, "no string in the field data.token"},
		"no object":     {Server{Fields: Fields{TokenField: "data.token"}}, `{"data":"SENTINELtoken","expires_in":60}`, 0, token.KindReply, "no string in the field data.token"},
		"object":        {Server{}, `{"access_token":{"SENTINEL":1},"expires_in":60}`, 0, token.KindReply, "no string in the field access_token"},
		"bad token":     {Server{}, `{"access_token":"SENTINEL token","expires_in":60}`, 0, token.KindReply, "unexpected characters"},
		"two lines":     {Server{}, `{"access_token":"SENTINEL\ntoken","expires_in":60}`, 0, token.KindReply, "unexpected characters"},
		"errcode":       {Server{}, `{"errcode":40164,"errmsg":"invalid ip 203.0.113.9"}`, 0, token.KindIP, "errcode 40164"},
		"truncated":     {Server{}, `{"access_token":"SENTINELtoken",`, 0, token.KindReply, "broken off"},
	} {
		for _, skew := range []time.Duration{0, time.Hour} { // the server's clock and its Date go together
			if skew != 0 && tc.life != time.Hour {
				continue // no clock in it
			}
			t.Run(fmt.Sprint(name, " ", skew), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					time.Sleep(time.Until(now))
					s := tc.source
					s.URL = "http://h/token"
					mustProvision(t, &s)
					reply, err := s.Fetch(t.Context(), token.Request{Client: &http.Client{Transport: roundTripFunc(func(*http.Request) (*http.Response, error) {
						body := strings.ReplaceAll(tc.body, fmt.Sprint(inAnHour.Unix()), fmt.Sprint(inAnHour.Add(skew).Unix()))
						return &http.Response{StatusCode: 200, Header: http.Header{"Date": {now.Add(skew).Format(http.TimeFormat)}},
							Body: io.NopCloser(strings.NewReader(body))}, nil
					})}})
					if tc.life > 0 {
						if err != nil || strings.TrimSuffix(reply.AccessToken, "+/==") != sentinelToken || reply.ExpiresIn != tc.life {
							t.Errorf("got %v, %v; want a life of %v", reply, err, tc.life)
						}
						return
					}
					checkNoSecret(t, err)
					if kind, _ := kindOf(err); err == nil || kind != tc.kind || !strings.Contains(err.Error(), tc.text) {
						t.Errorf("got %v, want %s: …%s", err, tc.kind, tc.text)
					}
				})
			})
		}
	}
}

// The server is asked again after the interval, unless the token is gone by then.
func TestServerRefresh(t *testing.T) {
	for _, tc := range []struct{ interval, life, want time.Duration }{
		{0, 2 * time.Hour, 4 * time.Minute},
		{0, 5 * time.Minute, 4 * time.Minute},
		{0, 4 * time.Minute, 0},
		{0, time.Minute, 0},
		{time.Minute, 61 * time.Second, time.Minute},
		{time.Hour, 7200 * time.Second, time.Hour},
	} {
		s := Server{}
		s.RefreshInterval.UnmarshalJSON([]byte(fmt.Sprint(int64(tc.interval))))
		reply, err := askServer(t, s, answers(200, fmt.Sprintf(`{"access_token":"SENTINELtoken","expires_in":%v}`, tc.life.Seconds())))
		if err != nil || reply.RefreshIn != tc.want || reply.ExpiresIn != tc.life {
			t.Errorf("%v: got %v, %v", tc, reply, err)
		}
	}
}

// Each answer that is none gets the words that help.
func TestServerHints(t *testing.T) {
	s := Server{URL: "/token", Fields: Fields{TokenField: "data.token"}}
	for _, tc := range []struct {
		status     int
		body       string
		text, hint string
	}{
		{401, `{"access_token":"SENTINELtoken","expires_in":60}`, "status 401", "check the key in header"},
		{403, `SENTINEL`, "status 403", "check the key in header"},
		{302, ``, "status 302", "write the URL that it redirects to"},
		{308, ``, "status 308", "write the URL that it redirects to"},
		{404, ``, "status 404", "check url"},
		{405, ``, "status 405", "check method"},
		{400, ``, "status 400", "check url, method, header and body"},
		{502, `<html>`, "status 502", "its own log"},
		{204, ``, "status 204", "check url"},
		{200, `<p>SENTINEL`, "no JSON but text/html", "in the field data.token (token_field)"},
		{200, `SENTINELtoken`, "no JSON but text/plain", "in the field data.token (token_field)"},
		{200, ``, "no JSON but nothing", "token_field"},
		{200, `["SENTINELtoken"]`, "no JSON but text/plain", "token_field"},
	} {
		_, err := askServer(t, s, func(w http.ResponseWriter, r *http.Request) {
			if tc.status >= 300 && tc.status < 400 {
				w.Header().Set("Location", "/SENTINEL")
			}
			answers(tc.status, tc.body)(w, r)
		})
		kind, hint := kindOf(err)
		if err == nil || kind != token.KindReply || !strings.Contains(err.Error(), tc.text) || !strings.Contains(hint, tc.hint) {
			t.Errorf("%d %q: got %s, %v (%s)", tc.status, tc.body, kind, err, hint)
		}
		if strings.Contains(hint, "WeChat") {
			t.Errorf("%d %q: the hint speaks of WeChat: %s", tc.status, tc.body, hint)
		}
	}
	for kind, hint := range s.Traits().Hints {
		if strings.Contains(hint, "WeChat's token endpoint") || !strings.Contains(hint, "token server") {
			t.Errorf("%s: %s", kind, hint)
		}
	}
}

func TestServerConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		source Server
		text   string
	}{
		"no URL":         {Server{}, "url is required"},
		"relative":       {Server{URL: "/token"}, "not an absolute"},
		"no HTTP":        {Server{URL: "ftp://h/token"}, "not an absolute"},
		"no URL at all":  {Server{URL: "http://SENTINEL\x7f"}, "not an absolute"},
		"unset":          {Server{URL: "{env.NOT_SET}"}, "url: {env.NOT_SET} is not set or empty"},
		"partly unset":   {Server{URL: "http://h/?key=SENTINEL{env.NOT_SET}"}, "url: a placeholder in it is not set or empty"},
		"unset header":   {Server{URL: "http://h", Headers: map[string]string{"X-Key": "{env.NOT_SET}"}}, "header X-Key: {env.NOT_SET} is not set or empty"},
		"unset in body":  {Server{URL: "http://h", Method: "POST", Body: `{"SENTINEL":"{env.NOT_SET}"}`}, "body: {env.NOT_SET} is not set or empty"},
		"method":         {Server{URL: "http://h", Method: "PUT"}, "neither GET nor POST"},
		"body with GET":  {Server{URL: "http://h", Body: "x"}, "method POST only"},
		"interval":       {Server{URL: "http://h", RefreshInterval: 5}, "refresh_interval is less than 1s"},
		"field":          {Server{URL: "http://h", Fields: Fields{TokenField: "data."}}, "token_field"},
		"header's name":  {Server{URL: "http://h", Headers: map[string]string{"X Key": "v"}}, "not a header field"},
		"header's value": {Server{URL: "http://h", Headers: map[string]string{"X-Key": "SENTINEL\r\nX: y"}}, "not a header field"},
	} {
		err := provision(&tc.source)
		checkNoSecret(t, err)
		if err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: got %v, want %s", name, err, tc.text)
		}
	}
}

func TestServerCaddyfile(t *testing.T) {
	checkUnmarshal(t, func() caddyfile.Unmarshaler { return new(Server) }, map[string]string{
		"server https://h/token": `{"url":"https://h/token"}`,
		`server https://h/token {
			method post
			header X-Key {env.KEY}
			header x-other: 1
			body "{\"a\":1}"
			token_field data.token
			expires_in_field data.ttl
			expires_at_field data.exp
			refresh_interval 1m
		}`: `{"url":"https://h/token","method":"POST","headers":{"X-Key":"{env.KEY}","X-Other":"1"},"body":"{\"a\":1}",` +
			`"token_field":"data.token","expires_in_field":"data.ttl","expires_at_field":"data.exp","refresh_interval":60000000000}`,
		"server":                              "error: write: token server <url>",
		"server \"\"":                         "error: write: token server <url>",
		"server a b":                          "error: write: token server <url>",
		"server u {\nmethod GET\nmethod G\n}": "error: method is already specified",
		"server u {\nmethod\n}":               "error: method: wrong arguments; write: method GET|POST",
		"server u {\nheader X-Key\n}":         "error: header: wrong arguments; write: header <field> <value>",
		"server u {\nheader x-key 1\nheader X-Key 2\n}":           "error: header: X-Key is already specified",
		"server u {\nrefresh_interval soon\n}":                    "error: refresh_interval: soon is no duration of at least 1s; write: refresh_interval <duration>",
		"server u {\nrefresh_interval -1s\n}":                     "error: refresh_interval: -1s is no duration of at least 1s",
		"server u {\nrefresh_interval\n}":                         "error: refresh_interval: wrong arguments; write: refresh_interval <duration>",
		"server u {\nrefresh_interval 1m\nrefresh_interval 1m\n}": "error: refresh_interval is already specified",
		"server u {\nheaders X 1\n}":                              "error: unrecognized option headers of token server; use method, header, body, refresh_interval, token_field, expires_in_field or expires_at_field",
		"server u {\nbody x {\ny\n}\n}":                           "error: body takes no block; write: body <body>",
	})
}
