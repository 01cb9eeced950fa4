package sandbox

// Controls, and who may use them.

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestControl(t *testing.T) {
	w := newWorld(t, Options{})
	token := w.stable(false).AccessToken
	for _, tc := range []struct {
		method, target string
		status         int
	}{
		{"POST", "/sandbox/revoke?appid=" + appID, 200},
		{"POST", "/sandbox/expire?appid=" + appID, 200},
		{"POST", "/sandbox/revoke", 400},
		{"POST", "/sandbox/latency?endpoint=get&duration=1ms", 200},
		{"POST", "/sandbox/latency?endpoint=get&duration=x", 400},
		{"POST", "/sandbox/latency?endpoint=nothing&duration=1s", 400},
		{"POST", "/sandbox/rate?endpoint=get&bytes_per_second=1000", 200},
		{"POST", "/sandbox/cut?endpoint=get&after=10&times=2", 200},
		{"POST", "/sandbox/cut?endpoint=get&after=-1", 400},
		{"POST", "/sandbox/busy?endpoint=upload&times=2", 200},
		{"POST", "/sandbox/busy?endpoint=upload&times=x", 400},
		{"POST", "/sandbox/latency?endpoint=get&duration=1m1s", 400},
		{"POST", "/sandbox/latency?endpoint=other&duration=1s", 400},
		{"POST", "/sandbox/refuse?endpoint=gettoken&errcode=45033&times=2", 200},
		{"POST", "/sandbox/refuse?endpoint=gettoken", 400},
		{"POST", "/sandbox/refuse?endpoint=gettoken&errcode=x", 400},
		{"POST", "/sandbox/revoke?appid=ww0123456789abcdef/1000001", 200},
		{"POST", "/sandbox/reset", 200},
		{"POST", "/sandbox/nothing", 404},
		{"GET", "/sandbox/reset", 405},
		{"GET", "/sandbox/status", 200},
	} {
		if res, got := w.do(tc.method, tc.target, "", nil); res.StatusCode != tc.status || bytes.Contains(got, []byte(token)) {
			t.Errorf("%s %s: %d %s", tc.method, tc.target, res.StatusCode, got)
		}
	}
	if got := w.check(token); got != 40001 {
		t.Errorf("the token was not revoked: %d", got)
	}
	if w.check(w.stable(false).AccessToken) != 0 {
		t.Error("a reset leaves something")
	}
}

// Controls are for people and scripts on the machine itself: not for other machines,
// and not for web pages, which can reach it, too.
func TestWhoMayControl(t *testing.T) {
	s := New(Options{Apps: map[string]string{appID: secret}})
	for name, tc := range map[string]struct {
		remote, host string
		header       http.Header
		want         int
	}{
		"curl":                            {"127.0.0.1:1234", "localhost:8081", nil, 200},
		"curl by address":                 {"127.0.0.1:1234", "127.0.0.1:8081", nil, 200},
		"another loopback address":        {"127.0.0.2:1234", "127.8.8.8", nil, 200},
		"over IPv6":                       {"[::1]:1234", "[::1]:8081", nil, 200},
		"IPv6 without a port":             {"[::1]:1234", "[::1]", nil, 200},
		"mapped":                          {"[::ffff:127.0.0.1]:1234", "LOCALHOST", nil, 200},
		"typed into a browser":            {"127.0.0.1:1234", "localhost:8081", http.Header{"Sec-Fetch-Site": {"none"}}, 200},
		"a page of its own":               {"127.0.0.1:1234", "localhost:8081", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://localhost:8081"}}, 200},
		"another machine":                 {"192.0.2.1:1234", "localhost:8081", nil, 403},
		"no address":                      {"@", "localhost:8081", nil, 403},
		"a name that resolves here":       {"127.0.0.1:1234", "evil.example:8081", nil, 403},
		"a name that begins well":         {"127.0.0.1:1234", "localhost.evil.example", nil, 403},
		"an address as a name":            {"127.0.0.1:1234", "127.0.0.1.evil.example", nil, 403},
		"no host":                         {"127.0.0.1:1234", "", nil, 403},
		"another site":                    {"127.0.0.1:1234", "localhost:8081", http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403},
		"another port, same site":         {"127.0.0.1:1234", "localhost:8081", http.Header{"Sec-Fetch-Site": {"same-site"}}, 403},
		"another origin":                  {"127.0.0.1:1234", "localhost:8081", http.Header{"Origin": {"https://evil.example"}}, 403},
		"another port's origin":           {"127.0.0.1:1234", "localhost:8081", http.Header{"Origin": {"http://localhost:8080"}}, 403},
		"a sandboxed frame":               {"127.0.0.1:1234", "localhost:8081", http.Header{"Origin": {"null"}}, 403},
		"through a proxy":                 {"127.0.0.1:1234", "localhost:8081", http.Header{"X-Forwarded-For": {"192.0.2.1"}}, 403},
		"through a proxy of another make": {"127.0.0.1:1234", "localhost:8081", http.Header{"Forwarded": {"for=192.0.2.1"}}, 403},
	} {
		for _, target := range []string{"POST /sandbox/busy?endpoint=get&times=1", "GET /sandbox/status"} {
			method, path, _ := strings.Cut(target, " ")
			r := httptest.NewRequest(method, path, nil)
			r.RemoteAddr, r.Host = tc.remote, tc.host
			for name, values := range tc.header {
				r.Header[name] = values
			}
			rec := httptest.NewRecorder()
			s.ServeHTTP(rec, r)
			if rec.Code != tc.want {
				t.Errorf("%s: %s: %d %s", name, target, rec.Code, rec.Body)
			}
		}
		// the endpoints themselves are for everybody: a gateway's Host is WeChat's
		r := httptest.NewRequest("GET", "/cgi-bin/token", nil)
		r.RemoteAddr, r.Host = tc.remote, tc.host
		r.Header = tc.header
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, r)
		if !strings.Contains(rec.Body.String(), "41002") {
			t.Errorf("%s: an endpoint answers %d %s", name, rec.Code, rec.Body)
		}
	}
}
