package wechatmedia

// Configurations as an operator writes them: options of reverse_proxy beside ours.

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

const sentinelToken = "SENTINEL+access/token=0123456789abcdefghijklmnopqrstuvwxyz"

// quoting is a host that hands out a token which looks different escaped, and makes
// something of the requests that carry it.
func quoting(t testing.TB, media http.HandlerFunc) *httptest.Server {
	t.Helper()
	return upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/token-server") {
			fmt.Fprintf(rw, `{"access_token":%q,"expires_in":7200}`, sentinelToken)
			return
		}
		if got := r.URL.Query().Get("access_token"); got != sentinelToken {
			t.Errorf("the token arrived as %q", got)
		}
		media(rw, r)
	}))
}

// quotingBlock is a directive that has the token of a quoting host.
func quotingBlock(url string, options ...string) string {
	return "wechat_media " + url + " {\napp " + testAppID + " {\ntoken server " + url + "/token-server\n}\n" + strings.Join(options, "\n") + "\n}"
}

// lowerEscapes writes %2B as %2b.
func lowerEscapes(s string) string {
	return regexp.MustCompile("%..").ReplaceAllStringFunc(s, strings.ToLower)
}

// escapedAs has every character that is neither letter nor digit escaped.
func escapedAs(format, s string) string {
	return regexp.MustCompile("[^A-Za-z0-9]").ReplaceAllStringFunc(s, func(c string) string { return fmt.Sprintf(format, c[0]) })
}

// carriesToken reports whether a text has the token in it, in whatever form.
func carriesToken(text string) bool {
	for range 3 {
		if strings.Contains(text, "SENTINEL") {
			return true
		}
		text = unescape(text)
	}
	return false
}

// What an upstream makes of the request's URL reaches no caller: redirects and their
// bodies, error pages, messages, headers, interim replies and trailers.
func TestNothingQuotesTheToken(t *testing.T) {
	for name, quote := range map[string]http.HandlerFunc{
		"redirect": func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "https://example.com/?"+r.URL.RawQuery, http.StatusFound)
		},
		"redirect, escaped twice": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Location", "/login?next="+strings.ReplaceAll(r.URL.RawQuery, "%", "%25"))
			rw.WriteHeader(http.StatusFound)
		},
		"redirect, lower case": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Location", "/?"+lowerEscapes(r.URL.RawQuery))
			rw.WriteHeader(http.StatusTemporaryRedirect)
			fmt.Fprintf(rw, "<a href='/?%s'>", lowerEscapes(r.URL.RawQuery))
		},
		"error page": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/html")
			rw.WriteHeader(http.StatusBadGateway)
			fmt.Fprintf(rw, "<h1>502</h1> %s <p>%s", r.RequestURI, r.URL.Query().Get("access_token"))
		},
		"error page in pieces": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/plain")
			rw.WriteHeader(http.StatusInternalServerError)
			for _, c := range r.RequestURI {
				_, _ = fmt.Fprintf(rw, "%c", c)
				_ = http.NewResponseController(rw).Flush()
			}
		},
		"large error page": func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(rw, strings.Repeat("x", 200_000)+r.RequestURI+strings.Repeat("y", 200_000))
		},
		"error page to be saved": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Disposition", "attachment; filename=error.html")
			rw.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(rw, r.RequestURI)
		},
		"page that is compressed": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/html")
			rw.Header().Set("Content-Encoding", "gzip")
			zipped := gzip.NewWriter(rw)
			_, _ = io.WriteString(zipped, r.RequestURI)
			_ = zipped.Close()
		},
		"page of scripts": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/html")
			for _, format := range append(escapes, strings.ToUpper(escapes[0]), `\u%04X`, `\x%02X`, "&#x%X;") {
				_, _ = io.WriteString(rw, escapedAs(format, r.URL.Query().Get("access_token")))
				_ = http.NewResponseController(rw).Flush()
			}
		},
		"errmsg": func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, `{"errcode":40007,"errmsg":"bad request %s"}`, r.RequestURI)
		},
		"header": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("X-Request", r.RequestURI)
			rw.Header().Set("Content-Disposition", "attachment")
		},
		"interim reply": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Link", "<"+r.RequestURI+">; rel=preload")
			rw.WriteHeader(http.StatusEarlyHints)
			rw.Header().Del("Link")
			rw.Header().Set("Content-Disposition", "attachment")
			_, _ = io.WriteString(rw, "media")
		},
		"trailer": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Trailer", "X-Url")
			rw.Header().Set("Content-Disposition", "attachment")
			_, _ = io.WriteString(rw, "media")
			rw.Header().Set("X-Url", r.RequestURI)
			rw.Header().Set(http.TrailerPrefix+"X-Another", r.RequestURI)
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := quoting(t, quote)
			for shape, directive := range map[string]string{
				"handler": quotingBlock(up.URL, "translate_status") + "\nheader X-Errmsg {http.wechat_media.errmsg}",
				"bare": "reverse_proxy " + up.URL + " {\ntransport wechat {\napp " + testAppID + " {\ntoken server " + up.URL +
					"/token-server\n}\n}\n}",
			} {
				g := startGateway(t, directive)
				answer := g.raw("GET /cgi-bin/media/get?media_id=abc HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: close\r\n\r\n")
				if head, body, _ := strings.Cut(answer, "\r\n\r\n"); strings.Contains(head, "gzip") {
					unzipped, _ := gzip.NewReader(strings.NewReader(body))
					text, _ := io.ReadAll(unzipped)
					answer += string(text)
				}
				if carriesToken(answer) {
					t.Errorf("%s: the caller got %.600q", shape, answer)
				}
				if strings.Contains(answer, "HTTP/1.1 103") && shape == "handler" || strings.Contains(answer, "Trailer:") {
					t.Errorf("%s: the caller got %.300q", shape, answer)
				}
				if carriesToken(loggedSoFar()) {
					t.Errorf("%s: the token is in the log", shape)
				}
			}
		})
	}
}

// rawUpstream answers every request with what answer makes of its first line, and
// closes the connection.
func rawUpstream(t testing.TB, answer func(requestLine string) string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				line, _ := bufio.NewReader(conn).ReadString('\n')
				_, _ = io.WriteString(conn, answer(strings.TrimSpace(line)))
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// shapes are the directive and the bare transport, with the token of a quoting host.
func shapes(url, tokens string) map[string]string {
	app := "app " + testAppID + " {\ntoken server " + tokens + "/token-server\n}\n"
	return map[string]string{
		"handler": "wechat_media " + url + " {\n" + app + "}",
		"bare":    "reverse_proxy " + url + " {\ntransport wechat {\n" + app + "}\n}",
	}
}

// A reply that is no HTTP, but quotes the request, is quoted by net/http in turn, which
// is in no log; nor is a part of it.
func TestErrorsQuoteNoToken(t *testing.T) {
	tokens := quoting(t, nil)
	for name, answer := range map[string]func(line string) string{
		"echo":           func(line string) string { return line + "\r\n\r\n" },
		"part of it":     func(line string) string { return line[:len(line)*2/3] },
		"status line":    func(line string) string { return "HTTP/1.1 " + line + "\r\n\r\n" },
		"header line":    func(line string) string { return "HTTP/1.1 200 OK\r\n" + line + "\r\n\r\n" },
		"Content-Length": func(line string) string { return "HTTP/1.1 200 OK\r\nContent-Length: " + line + "\r\n\r\n" },
		"two": func(line string) string {
			return "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: " + line + "\r\n\r\n"
		},
		"Transfer-Encoding": func(line string) string { return "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + line + "\r\n\r\n" },
		"in place of a chunk": func(line string) string {
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + line + "\r\n"
		},
		"trailer": func(line string) string {
			return "HTTP/1.1 200 OK\r\nContent-Disposition: attachment\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + line + "\r\n\r\n"
		},
	} {
		for shape, directive := range shapes(rawUpstream(t, answer), tokens.URL) {
			g := startGateway(t, directive)
			if got := g.raw("GET /cgi-bin/media/get?media_id=abc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); carriesToken(got) {
				t.Errorf("%s, %s: the caller got %q", name, shape, got)
			}
			if carriesToken(loggedSoFar()) {
				t.Errorf("%s, %s: the token is in the log", name, shape)
			}
		}
	}
}

// What is no answer does not become one: an empty or truncated 200 would be kept as a
// picture.
func TestRepliesThatAreNone(t *testing.T) {
	tokens := quoting(t, nil)
	for _, status := range []string{"101 Switching Protocols", "099 x", "000 x"} {
		up := rawUpstream(t, func(string) string {
			return "HTTP/1.1 " + status + "\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\nhello"
		})
		for shape, directive := range shapes(up, tokens.URL) {
			g := startGateway(t, directive)
			if res, body := g.get("/cgi-bin/media/get?media_id=abc"); res.StatusCode != http.StatusBadGateway {
				t.Errorf("%s, %s: %d %s", status, shape, res.StatusCode, body)
			}
		}
	}
}

// Over HTTP/2 a method can be anything: what cannot be sent on counts against nobody.
func TestOddMethodsCountAgainstNobody(t *testing.T) {
	w := startWechat(t)
	g := startTLSGateway(t, strings.Replace(bare(w.URL), "{", "{\nfail_duration 1h\nmax_fails 1", 1))
	for _, method := range []string{"G ET", "GÉT", "A/B"} {
		s, err := openStream(g.URL, ":method", method, ":scheme", "https", ":authority", "127.0.0.1", ":path", "/cgi-bin/media/get?media_id=abc", "content-length", "0")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.framer.WriteData(1, true, nil), s.readAnswer()); err != nil || s.answer.status != http.StatusBadRequest {
			t.Errorf("%q: %+v, %v", method, s.answer, err)
		}
		s.conn.Close()
	}
	s, err := openStream(g.URL, ":method", "GET", ":scheme", "https", ":authority", "127.0.0.1", ":path", "/cgi-bin/media/get?media_id=abc")
	if err != nil {
		t.Fatal(err)
	}
	defer s.conn.Close()
	if err := errors.Join(s.framer.WriteData(1, true, nil), s.readAnswer()); err != nil || s.answer.status != http.StatusOK {
		t.Errorf("the next caller: %+v, %v", s.answer, err)
	}
}

// raw sends bytes and returns all that comes back until the connection ends.
func (g *gateway) raw(request string) string {
	g.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		g.t.Fatal(err)
	}
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

// Health checks go wherever health_upstream says, without a token and without a need
// for one.
func TestHealthChecksCarryNoToken(t *testing.T) {
	w := startWechat(t)
	var mu sync.Mutex
	var seen []string
	health := upstream(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.RequestURI+fmt.Sprint(r.Header))
	}))
	checked := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
	for name, options := range map[string]string{
		"one app":  "",
		"selector": appLine(otherAppID) + "\napp_selector {header.X-App}",
	} {
		g := startGateway(t, block(w.URL, options, "health_uri /h?x=1", "health_interval 20ms",
			"health_upstream "+strings.TrimPrefix(health.URL, "http://")))
		before := checked()
		if !eventually(func() bool { return checked() > before+3 }) {
			t.Fatalf("%s: no health check came\n%s", name, loggedSoFar())
		}
		if res, body := g.get("/media/abc"); res.StatusCode != 200 {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, s := range seen {
		if strings.Contains(s, "access_token") || !strings.HasPrefix(s, "/h?x=1") {
			t.Errorf("a health check was %s", s)
		}
	}
}

// Token calls take the way of media requests: to a unix socket, with the Host and the
// server name that the operator writes, behind a PROXY header, to dynamic upstreams.
func TestTokenCallsTakeTheWayOfMedia(t *testing.T) {
	w := startWechat(t)
	socket := filepath.Join(t.TempDir(), "s.sock")
	serveOn(t, "unix", socket, nil, w)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(w.URL, "http://"))
	secure, ca := secureWechat(t, w)
	proxied := proxyProtocolWechat(t, w)
	for name, tc := range map[string]struct{ directive, host string }{
		"unix socket": {block("unix/"+socket, "transport wechat {\n}"), ""},
		"dynamic":     {block("", "dynamic a {\nname localhost\nport "+port+"\nversions ipv4\n}"), ""},
		"Host and server name": {block(secure, "header_up Host wechat.example", "transport wechat {\ntls_server_name example.com\ntls_trust_pool file "+ca+"\n}"),
			"wechat.example"},
		"PROXY protocol":             {block(proxied, "transport wechat {\nproxy_protocol v1\n}"), ""},
		"in two versions":            {block(proxied, "transport wechat {\nproxy_protocol v2\n}"), ""},
		"environment":                {block("{env.TEST_UPSTREAM}"), ""},
		"a header of the operator's": {block(w.URL, "header_up X-Sidecar key"), ""},
		"the first is down":          {block("http://127.0.0.1:1 " + w.URL), ""},
		"buffers and rewrites":       {block(w.URL, "request_buffers 1MB", "response_buffers 1MB", "handle_response {\nrespond \"theirs\" 418\n}"), "theirs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TEST_UPSTREAM", strings.TrimPrefix(w.URL, "http://"))
			w.reset()
			g := startGateway(t, tc.directive)
			res, body := g.get("/media/abc")
			if tc.host == "theirs" {
				if res.StatusCode != 418 {
					t.Errorf("%d %s", res.StatusCode, body)
				}
			} else if res.StatusCode != 200 || !strings.Contains(string(body), "40007") {
				t.Fatalf("%d %s\n%s", res.StatusCode, body, loggedSoFar())
			}
			calls := w.count(testTokenPath)
			if calls != 1 {
				t.Errorf("%d token calls", calls)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, s := range w.seen {
				if tc.host != "" && tc.host != "theirs" && s.host != tc.host {
					t.Errorf("%s had the Host %s", s.path, s.host)
				}
				if strings.Contains(tc.directive, "X-Sidecar") && s.header.Get("X-Sidecar") != "key" {
					t.Errorf("%s had no header of the operator's", s.path)
				}
			}
		})
	}
}

func serveOn(t testing.TB, network, address string, config *tls.Config, h http.Handler) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return serveListener(t, l, config, h)
}

func serveListener(t testing.TB, l net.Listener, config *tls.Config, h http.Handler) net.Addr {
	t.Helper()
	addr := l.Addr()
	if config != nil {
		l = tls.NewListener(l, config)
	}
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return addr
}

// secureWechat is WeChat behind TLS as example.com, at an address, and its CA.
func secureWechat(t testing.TB, h http.Handler) (url, ca string) {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return srv.URL, ca
}

// proxyProtocolWechat insists on PROXY headers.
func proxyProtocolWechat(t testing.TB, h http.Handler) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := serveListener(t, &proxyproto.Listener{Listener: l, ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
		return proxyproto.REQUIRE, nil
	}}, nil, h)
	return "http://" + addr.String()
}

// What a token call cannot take is found when the config is loaded, and no call goes
// anywhere else.
func TestTokenCallsThatCannotBe(t *testing.T) {
	t.Setenv("TEST_WECHAT_SECRET", "0123456789abcdef0123456789abcdef")
	for name, tc := range map[string]struct{ upstreams, options string }{
		"a placeholder of the request": {"{http.request.header.X-Host}:80", ""},
		"a dynamic one":                {"", "dynamic a {\nname {http.request.host}\nport 80\n}"},
		"the server name":              {"https://127.0.0.1:1", "transport wechat {\ntls_server_name {http.request.host}\n}"},
		"the Host":                     {"http://127.0.0.1:1", "header_up Host {http.request.host}"},
	} {
		t.Run(name, func(t *testing.T) {
			err := validate(t, ":8080 {\nwechat_media "+tc.upstreams+" {\n"+appLine(testAppID)+"\n"+tc.options+"\n}\n}\n")
			if err == nil || !strings.Contains(err.Error(), "depends on the request, and a token call has none") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
			if err := validate(t, ":8080 {\nwechat_media "+tc.upstreams+" {\napp "+testAppID+" {\ntoken file /t\n}\n"+tc.options+"\n}\n}\n"); err != nil {
				t.Errorf("with a source that asks nobody: %v", err)
			}
		})
	}
}

// An option of load balancing does not lose the defaults of the others.
func TestLoadBalancingOptions(t *testing.T) {
	first, second := startWechat(t), startWechat(t)
	for _, option := range []string{"lb_try_duration 2s", "lb_try_interval 10ms", "lb_retries 3", "fail_duration 5s", "max_fails 9",
		"lb_policy wechat_failover", "health_uri /h"} {
		first.reset()
		second.reset()
		g := startGateway(t, block(first.URL+" "+second.URL, option, "health_status 404"))
		for range 20 {
			if res, body := g.get("/media/abc"); res.StatusCode != 200 {
				t.Fatalf("%s: %d %s", option, res.StatusCode, body)
			}
		}
		if n := second.count("/cgi-bin/media/get"); n != 0 {
			t.Errorf("%s: %d of 20 requests went to the second host", option, n)
		}
	}
	if err := validate(t, ":8080 {\nreverse_proxy 127.0.0.1:1 {\nlb_policy wechat_failover x\n}\n}\n"); err == nil {
		t.Error("lb_policy wechat_failover takes an argument")
	}
}

// While lb_try_duration lasts, the hosts get their chances in turn, and one that comes
// back is used.
func TestFailoverGoesRound(t *testing.T) {
	w := startWechat(t)
	var calls atomic.Int64
	flaky := fakeWechat(t, func(rw http.ResponseWriter, r *http.Request) {
		if calls.Add(1) < 3 {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		rw.Header().Set("Content-Disposition", "attachment")
	})
	_ = w
	g := startGateway(t, block(flaky.URL+" http://127.0.0.1:1", "lb_try_duration 20s", "lb_try_interval 1ms"))
	if res, body := g.get("/media/abc"); res.StatusCode != 200 || calls.Load() != 3 {
		t.Errorf("%d %s after %d calls", res.StatusCode, body, calls.Load())
	}
}

// Retries by status are the operator's, uploads included, and what is left when they
// are used up is the upstream's answer.
func TestRetriesByStatus(t *testing.T) {
	content := picture(t, 20_000)
	busy := startWechat(t)
	w := startWechat(t)
	for name, tc := range map[string]struct {
		upstreams func() string
		status    int
	}{
		"the second one helps": {func() string { return busy.URL + " " + w.URL }, 200},
		"none helps":           {func() string { return busy.URL + " " + busy.URL }, 503},
	} {
		t.Run(name, func(t *testing.T) {
			busy.Busy(sandbox.MediaUpload, 4)
			g := startGateway(t, "wechat_media "+tc.upstreams()+" {\napp "+testAppID+" {\ntoken file "+tokenFile(t, busy, w)+"\n}\n"+
				"translate_status\nlb_retries 1\nlb_retry_match {\nexpression `{rp.status_code} == 503`\n}\n}")
			res, body := g.upload("/media", "a.jpg", content)
			if res.StatusCode != tc.status {
				t.Errorf("%d %s", res.StatusCode, body)
			}
			if tc.status == 503 && !strings.Contains(string(body), "system error") {
				t.Errorf("the answer is not WeChat's: %s", body)
			}
			busy.ResetFaults()
		})
	}
	waitUntilNothingIsKept(t)
}

// tokenFile is a token that several hosts know.
func tokenFile(t testing.TB, hosts ...*wechat) string {
	t.Helper()
	const value = "a-token-that-all-hosts-know-0123456789"
	for _, w := range hosts {
		w.AddToken(testAppID, value, 1<<40)
	}
	name := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(name, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// The answer of a host that is broken is the answer if no other is better.
func TestBrokenHostsAnswer(t *testing.T) {
	broken := fakeWechat(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Retry-After", "7")
		rw.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(rw, "in maintenance")
	})
	for _, upstreams := range []string{broken.URL, broken.URL + " http://127.0.0.1:1", "http://127.0.0.1:1 " + broken.URL} {
		g := startGateway(t, block(upstreams))
		res, body := g.get("/media/abc")
		if res.StatusCode != 503 || string(body) != "in maintenance" || res.Header.Get("Retry-After") != "7" {
			t.Errorf("%s: %d %v %s", upstreams, res.StatusCode, res.Header, body)
		}
	}
}

// Limits hold whatever reverse_proxy buffers, and a limit in front is told as one.
func TestLimits(t *testing.T) {
	w := startWechat(t)
	contentType, large := form(t, "a.jpg", picture(t, 300_000))
	header := http.Header{"Content-Type": {contentType}}
	for name, tc := range map[string]struct {
		options, front string
		body           []byte
		status         int
	}{
		"request_buffers":                       {"request_buffers 1MB\nmax_upload_size 200KB", "", large, 413},
		"request_body in front":                 {"", "request_body {\nmax_size 10KB\n}", large, 413},
		"an empty upload, request_buffers":      {"request_buffers 1MB", "", nil, 400},
		"request_buffers, and it fits":          {"request_buffers 1MB", "", large, 200},
		"request_buffers smaller than the body": {"request_buffers 1KB", "", large, 200},
	} {
		for _, known := range []bool{true, false} {
			g := startGateway(t, "route {\n"+tc.front+"\n"+block(w.URL, strings.Split(tc.options, "\n")...)+"\n}")
			in := io.Reader(bytes.NewReader(tc.body))
			if !known {
				in = io.MultiReader(in)
			}
			res, body := g.do("POST", "/media", header, in)
			if res.StatusCode != tc.status {
				t.Errorf("%s, length known %v: %d %s", name, known, res.StatusCode, body)
			}
		}
	}
}

// errors caddy holds whatever flushes, and an operator's own errors stay theirs.
func TestErrorsOfTheOperators(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block("http://127.0.0.1:1", "errors caddy", "flush_interval -1")+"\nhandle_errors {\nrespond \"{err.status_code}\"\n}")
	if res, body := g.get("/media/abc"); res.StatusCode != 503 || string(body) != "503" {
		t.Errorf("errors caddy with flush_interval: %d %s", res.StatusCode, body)
	}
	w.revoke()
	g = startGateway(t, block(w.URL, "handle_response {\nerror maintenance 503\n}"))
	if res, body := g.get("/media/abc"); res.StatusCode != 503 || len(body) != 0 {
		t.Errorf("an error of handle_response: %d %s", res.StatusCode, body)
	}
}

// What the gateway refuses itself, and what callers bring about, is no failure of an
// upstream's.
func TestOwnRefusalsCountAgainstNobody(t *testing.T) {
	for name, directive := range map[string]string{
		"handler": "wechat_media %s {\napp " + testAppID + " {\ntoken file %s\n}\n%s\n}",
		"bare":    "reverse_proxy %s {\ntransport wechat {\napp " + testAppID + " {\ntoken file %s\n}\n}\n%s\n}",
	} {
		t.Run(name, func(t *testing.T) {
			w := startWechat(t)
			file := tokenFile(t, w)
			missing := filepath.Join(t.TempDir(), "token")
			g := startGateway(t, fmt.Sprintf(directive, w.URL, missing, "unhealthy_status 5xx 4xx\nfail_duration 1h\nmax_fails 1"))
			for range 3 {
				res, body := g.get("/cgi-bin/media/get?media_id=abc")
				if res.StatusCode != 503 || !strings.Contains(string(body), `"errcode":-1`) {
					t.Fatalf("%d %s", res.StatusCode, body)
				}
			}
			token, _ := os.ReadFile(file)
			if err := os.WriteFile(missing, token, 0o600); err != nil {
				t.Fatal(err)
			}
			if !eventually(func() bool { res, _ := g.get("/cgi-bin/media/get?media_id=abc"); return res.StatusCode == 200 }) {
				t.Error("the upstream is taken for one that is down")
			}
		})
	}
}

// No header that a caller can bring about is a failure of the upstream's: whatever
// three callers send, the next one is served.
func TestCallersHeadersCountAgainstNobody(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "fail_duration 1h", "max_fails 1", "header_up X-From {query.from}"))
	for _, request := range []string{
		"POST /media?from=a%0d%0aX:1 HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 9\r\nConnection: close\r\n\r\n--b\r\n\r\n\r\n",
		"GET /media/abcdef0123?from=%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"POST /media HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; x=\"y\"; boundary*=utf-8''b%0d%0aX%3a1\r\nContent-Length: 9\r\nConnection: close\r\n\r\nxxxxxxxxx",
		"POST /media HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=" + strings.Repeat("b", 500) + "\r\nContent-Length: 9\r\nConnection: close\r\n\r\nxxxxxxxxx",
	} {
		for range 3 {
			if answer := g.raw(request); !strings.HasPrefix(answer, "HTTP/1.1 400") {
				t.Errorf("%.60q got %.200q", request, answer)
			}
		}
		if res, body := g.get("/media/abc?from=me"); res.StatusCode != 200 {
			t.Fatalf("after %.60q: %d %s", request, res.StatusCode, body)
		}
	}
}

// An exchange is one transport's: a second account behind handle_response has its own
// token, and placeholders are those of the last handler.
func TestTwoAccountsInOneRequest(t *testing.T) {
	w := startWechat(t)
	second := startWechat(t)
	g := startGateway(t, block(w.URL, "handle_response {\n"+strings.Replace(bare(second.URL), testAppID, otherAppID, 1)+"\n}"))
	if res, body := g.get("/cgi-bin/media/get?media_id=abc"); res.StatusCode != 200 || !strings.Contains(string(body), "40007") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	for _, s := range second.requests() {
		if strings.Contains(s.uri, w.currentToken()) {
			t.Error("the second account's host got the first one's token")
		}
	}

	g = startGateway(t, block(w.URL, "handle_response {\n"+strings.Replace(block(second.URL), testAppID, otherAppID, 1)+"\n}")+
		"\nheader >X-App {http.wechat_media.app_id}")
	if res, _ := g.get("/cgi-bin/media/get?media_id=abc"); res.Header.Get("X-App") != otherAppID {
		t.Errorf("the placeholder says %q", res.Header.Get("X-App"))
	}
}

// Conditional requests: an ETag is given out for media only, holds in every form that
// caches make of it, and cannot be made up.
func TestETags(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, appLine(otherAppID), "app_selector {header.X-App}", "cache_control max-age=60"))
	content := picture(t, 1000)
	res, reply := g.upload("/media", "a.jpg", content)
	id := uploaded(t, res, reply)
	res, _ = g.get("/media/" + id)
	etag := res.Header.Get("Etag")
	if etag == "" || res.Header.Get("Cache-Control") != "private, max-age=60" || res.Header.Get("Vary") != "X-App" {
		t.Errorf("got %v", res.Header)
	}
	if strings.Contains(etag, id) {
		t.Error("the ETag can be made up")
	}
	before := w.count("/cgi-bin/media/get")
	for match, asked := range map[string]bool{etag: false, "W/" + etag: false, `"a", ` + etag: false, `"x",W/` + etag + `, "y"`: false, "*": true} {
		res, body := g.do("GET", "/media/"+id, http.Header{"If-None-Match": {match}}, nil)
		if res.StatusCode != 304 || len(body) != 0 || res.Header.Get("Etag") != etag {
			t.Errorf("%s: %d %v", match, res.StatusCode, res.Header)
		}
		if now := w.count("/cgi-bin/media/get"); now != before != asked {
			t.Errorf("%s: WeChat was asked %d times", match, now-before)
		} else {
			before = now
		}
	}
	for name, tc := range map[string]struct{ method, target, app, match string }{
		"another id":         {"GET", "/media/" + strings.Repeat("x", 64), "", etag},
		"another app":        {"GET", "/media/" + id, otherAppID, etag},
		"made up":            {"GET", "/media/" + id, "", `"get-` + id + `"`},
		"POST":               {"POST", "/cgi-bin/media/get?media_id=" + id, "", etag},
		"* for what is gone": {"GET", "/media/" + strings.Repeat("x", 64), "", "*"},
	} {
		if res, _ := g.do(tc.method, tc.target, http.Header{"If-None-Match": {tc.match}, "X-App": {tc.app}}, nil); res.StatusCode == 304 {
			t.Errorf("%s: 304", name)
		}
	}
}

// A timeout of next to nothing ends requests, and not the process.
func TestTinyTimeouts(t *testing.T) {
	w := startWechat(t)
	for _, option := range []string{"read_timeout 1us", "write_timeout 1us", "response_header_timeout 1us", "dial_timeout 1ms"} {
		g := startGateway(t, block(w.URL, "transport wechat {\n"+option+"\n}"))
		for range 20 {
			if res, err := noRedirects.Get(g.URL + "/media/abc"); err == nil { // or cut short
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		}
		g.load("respond alive")
		if res, body := g.get("/"); res.StatusCode != 200 || string(body) != "alive" {
			t.Fatalf("%s: %d %s", option, res.StatusCode, body)
		}
	}
}

// The platform's own host without TLS earns a warning, however it is configured.
func TestWarningOfPlainHosts(t *testing.T) {
	g := startGateway(t, "respond ok")
	config := `{"admin":{"disabled":true},"logging":{"logs":{"default":{"writer":{"output":"test_memory"}}}},"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:` + g.port + `"],
		"routes":[{"handle":[{"handler":"wechat_media","reverse_proxy":{"upstreams":[{"dial":"` + testPlatform.Hosts[0] + `"}],
		"transport":{"protocol":"wechat","apps":[{"app_id":"` + testAppID + `","token":{"source":"file","path":"/t"}}]}}}]}]}}}}}`
	if err := validateJSON(t, []byte(config)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(loggedSoFar(), "secrets and tokens go to "+testPlatform.Name+" in the clear") {
		t.Error("no warning")
	}
}
