package tokensource

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// However a server quotes what it was sent, no error has a key in it.
func TestServerErrorsCarryNoKey(t *testing.T) {
	const key = "SENTINEL/k+y=" // escaped in URLs
	escaped := url.QueryEscape(key)
	basic := base64.StdEncoding.EncodeToString([]byte("user:" + key))
	for name, tc := range map[string]struct {
		user   string
		source Server
	}{
		"header":       {"", Server{Headers: map[string]string{"X-Key": key}}},
		"scheme":       {"", Server{Headers: map[string]string{"Authorization": "Bearer " + key}}},
		"basic":        {"", Server{Headers: map[string]string{"Authorization": "Basic " + basic}}},
		"query":        {"", Server{URL: "/?id=1&key=" + escaped}},
		"lone query":   {"", Server{URL: "/?" + escaped}},
		"userinfo":     {"user:" + escaped + "@", Server{}},
		"user alone":   {"SENTINELuser@", Server{}},
		"path":         {"", Server{URL: "/SENTINELpath0123456789/token"}},
		"body":         {"", Server{Method: "POST", Body: key}},
		"form":         {"", Server{Method: "POST", Body: "a=1&key=" + escaped}},
		"JSON":         {"", Server{Method: "POST", Body: `{"a":[1,{"key":"` + key + `"}]}`}},
		"long, parted": {"", Server{Headers: map[string]string{"X-Key": strings.Repeat("SENTINEL", 5) + "+" + strings.Repeat("SENTINEL", 2)}}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(quoteRequest))
			defer srv.Close()
			s := tc.source
			s.URL = strings.Replace(srv.URL, "//", "//"+tc.user, 1) + s.URL
			mustProvision(t, &s)
			_, err := fetch(t, &s, token.Request{})
			if kind, _ := kindOf(err); kind != token.KindIP || strings.Contains(err.Error(), "dXNlcjp") {
				t.Errorf("got %s: %v", kind, err)
			}
			srv.Close()
			_, err = fetch(t, &s, token.Request{})
			if kind, _ := kindOf(err); kind != token.KindNetwork {
				t.Errorf("got %s: %v", kind, err)
			}
		})
	}
}

// quoteRequest refuses a request with all that it had, in each way to write it.
func quoteRequest(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))
	user, password, _ := r.BasicAuth()
	query, _ := url.QueryUnescape(r.URL.RawQuery)
	sent := []string{r.RequestURI, string(body), r.Header.Get("X-Key"), r.Header.Get("Authorization"), user, password,
		r.URL.Path, query, r.URL.Query().Get("key"), form.Get("key")}
	var said strings.Builder
	for _, s := range sent {
		lower := strings.NewReplacer("%2F", "%2f", "%2B", "%2b", "%3D", "%3d").Replace(url.QueryEscape(s))
		fmt.Fprintln(&said, s, url.QueryEscape(s), lower, url.PathEscape(s), url.QueryEscape(url.QueryEscape(s)))
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"errcode": 40164, "errmsg": said.String()})
}

func TestWrittenOut(t *testing.T) {
	const key = "SENTINELkey0123456789"
	for name, tc := range map[string]struct {
		source Server
		want   []string
	}{
		"nothing":      {Server{URL: "https://tokens.example/v1/wechat/access_token?appid=wx0123456789abcdef&grant_type=client_credential"}, nil},
		"placeholders": {Server{URL: "https://{env.USER}:{env.A_LONG_PASSWORD_0}@h/?key={env.TOKEN_SERVER_KEY_0123}", Body: `{"key":"{file./run/secrets/token_server_key_0}"}`, Headers: map[string]string{"Authorization": "Bearer {env.TOKEN_SERVER_KEY}"}}, nil},
		"other fields": {Server{URL: "http://h", Headers: map[string]string{"User-Agent": key, "X-Key": "short"}}, nil},
		"headers":      {Server{URL: "http://h", Headers: map[string]string{"Authorization": "Bearer " + key, "X-Api-Key": "SENTINELcorrecthorse"}}, []string{"header Authorization", "header X-Api-Key"}},
		"query":        {Server{URL: "http://h/?id=1&key=" + key}, []string{"url"}},
		"lone query":   {Server{URL: "http://h/?" + key}, []string{"url"}},
		"beside":       {Server{URL: "http://h/?key=" + key + "{env.REST}"}, []string{"url"}},
		"password":     {Server{URL: "http://user:short@h/"}, []string{"url"}},
		"user alone":   {Server{URL: "http://" + key + "@h/"}, []string{"url"}},
		"body":         {Server{URL: "http://h/", Body: `{"key":"` + key + `"}`}, []string{"body"}},
		"ids in body":  {Server{URL: "http://h/", Body: `{"appid":"wx0123456789abcdef","corp":"ww0123456789abcdef","grant":"client_credential"}`}, nil},
	} {
		if got := tc.source.writtenOut(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

// The operator is told which setting it is, and the log does not become one more place
// that has the key.
func TestWarning(t *testing.T) {
	for _, tc := range []struct{ key, want string }{
		{"SENTINELkey0123456789", "header X-Key"}, {"{env.TOKEN_SERVER_KEY}", ""},
	} {
		t.Setenv("TOKEN_SERVER_KEY", "SENTINELkey0123456789")
		log := captureStderr(t, func() {
			s := Server{URL: "http://h", Headers: map[string]string{"X-Key": tc.key}}
			if err := s.Provision(caddy.Context{}); err != nil {
				t.Error(err)
			}
		})
		if strings.Contains(log, "SENTINEL") || (tc.want == "") != (log == "") || !strings.Contains(log, tc.want) {
			t.Errorf("the log is %q", log)
		}
	}
}

// captureStderr returns what f writes to where a Caddy without a config logs to. It must
// fit into a pipe.
func captureStderr(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = w
	f()
	os.Stderr = stderr
	_ = w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return string(out)
}
