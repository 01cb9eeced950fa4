package wechatmedia

// More configurations as an operator writes them: who is asked, by which way, and what
// is refused when the config is loaded.

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
)

// A policy that goes by the request sees the one that its caller has sent, and nothing
// of it reaches WeChat.
func TestPoliciesSeeTheCallersRequest(t *testing.T) {
	first, second := startWechat(t), startWechat(t)
	for _, policy := range []string{"header X-Tenant", "cookie lb secret", "query tenant"} {
		first.reset()
		second.reset()
		g := startGateway(t, "wechat_media "+first.URL+" "+second.URL+" {\napp "+testAppID+" {\ntoken file "+tokenFile(t, first, second)+
			"\n}\nlb_policy "+policy+"\n}")
		header := http.Header{"X-Tenant": {"a"}}
		for i := range 20 {
			res, body := g.do("GET", fmt.Sprintf("/media/abc%d?tenant=a", i), header, nil)
			if res.StatusCode != 200 {
				t.Fatalf("%s: %d %s", policy, res.StatusCode, body)
			}
			if cookie, _, _ := strings.Cut(res.Header.Get("Set-Cookie"), ";"); cookie != "" {
				header.Set("Cookie", cookie)
			}
		}
		if a, b := len(first.requests()), len(second.requests()); a != 0 && b != 0 {
			t.Errorf("%s: of one tenant's requests, %d and %d went to the two hosts", policy, a, b)
		}
		for _, s := range append(first.requests(), second.requests()...) {
			if s.header.Get("X-Tenant") != "" || s.header.Get("Cookie") != "" || strings.Contains(s.uri, "tenant") {
				t.Fatalf("%s: WeChat got %s %v", policy, s.uri, s.header)
			}
		}
	}
}

// Whatever the policy, a token call goes on to the next host if the first is down, and
// is not held up by a limit of requests that the waiting one has reached.
func TestTokenCallsFindAHost(t *testing.T) {
	w := startWechat(t)
	for _, policy := range []string{"first", "ip_hash", "uri_hash", "client_ip_hash", "header X-Tenant", "query tenant", "least_conn"} {
		for _, upstreams := range []string{"http://127.0.0.1:1 " + w.URL, w.URL + " http://127.0.0.1:1"} {
			w.reset()
			g := startGateway(t, block(upstreams, "lb_policy "+policy))
			if !eventually(func() bool { return w.count(testTokenPath) > 0 }) {
				t.Errorf("%s, %s: no token\n%s", policy, upstreams, loggedSoFar())
			}
			g.load("respond ok")
		}
	}
	g := startGateway(t, block(w.URL, "unhealthy_request_count 1"))
	for range 3 {
		if res, body := g.get("/cgi-bin/media/get?media_id=abc"); res.StatusCode != 200 || !strings.Contains(string(body), "40007") {
			t.Errorf("with one request at a time: %d %s", res.StatusCode, body)
		}
		w.revoke()
	}
}

// countingProxy is an egress proxy that counts what goes through it.
func countingProxy(t testing.TB) (url string, through *atomic.Int64) {
	t.Helper()
	through = new(atomic.Int64)
	plain := &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}
	return upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		through.Add(1)
		if r.Method != http.MethodConnect {
			plain.ServeHTTP(rw, r)
			return
		}
		up, err := net.Dial("tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		defer up.Close()
		down, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer down.Close()
		_, _ = io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() { _, _ = io.Copy(up, down); _ = up.Close() }()
		_, _ = io.Copy(down, up)
	})).URL, through
}

// Token calls and media go through the egress proxy that is configured, with TLS and
// without, over every version of HTTP.
func TestEgressProxies(t *testing.T) {
	w := startWechat(t)
	t.Setenv("TEST_SERVER_NAME", "example.com")
	for name, tc := range map[string]struct {
		secure  bool
		options string
	}{
		"plain":                   {},
		"new connection for each": {options: "keepalive off"},
		"TLS":                     {true, "tls_insecure_skip_verify"},
		"HTTP/2":                  {true, "versions 1.1 2\ntls_insecure_skip_verify"},
		"a name from outside":     {true, "tls_server_name {env.TEST_SERVER_NAME}\ntls_trust_pool file CA"},
		"a new one for each, TLS": {true, "keepalive off\ntls_insecure_skip_verify"},
		"no spares":               {true, "spare_connections 0\ntls_insecure_skip_verify"},
	} {
		t.Run(name, func(t *testing.T) {
			up := httptest.NewUnstartedServer(w) // its own: connections made ahead may come late
			var arrived atomic.Int64
			up.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					arrived.Add(1)
				}
			}
			if up.EnableHTTP2 = true; tc.secure {
				up.StartTLS()
				ca := filepath.Join(t.TempDir(), "ca.pem")
				if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: up.Certificate().Raw}), 0o600); err != nil {
					t.Fatal(err)
				}
				tc.options = strings.Replace(tc.options, "CA", ca, 1)
			} else {
				up.Start()
			}
			t.Cleanup(up.Close)
			proxy, through := countingProxy(t)
			g := startGateway(t, block(up.URL, "transport wechat {\nnetwork_proxy url "+proxy+"\n"+tc.options+"\n}"))
			for range 3 {
				if res, body := g.get("/media/abc"); res.StatusCode != 200 || !strings.Contains(string(body), "40007") {
					t.Fatalf("%d %s\n%s", res.StatusCode, body, loggedSoFar())
				}
			}
			if through.Load() == 0 || !tc.secure && through.Load() < 4 {
				t.Errorf("%d connections or requests went through the proxy", through.Load())
			}
			if tc.secure && !eventually(func() bool { return arrived.Load() == through.Load() }) {
				t.Errorf("of %d connections, %d were made through the proxy", arrived.Load(), through.Load())
			}
		})
	}
}

// A host that demands a certificate of its callers gets one, with token calls too.
func TestClientCertificate(t *testing.T) {
	w := startWechat(t)
	cert, key := loopback.MakeCert(t, t.TempDir())
	known := x509.NewCertPool()
	raw, err := os.ReadFile(cert)
	if err != nil || !known.AppendCertsFromPEM(raw) {
		t.Fatal(err)
	}
	for _, versions := range []string{"1.1", "1.1 2"} {
		up := httptest.NewUnstartedServer(w)
		up.EnableHTTP2 = true
		up.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: known}
		up.StartTLS()
		t.Cleanup(up.Close)
		g := startGateway(t, block(up.URL, "transport wechat {\nversions "+versions+"\ntls_insecure_skip_verify\ntls_client_auth "+cert+" "+key+"\n}"))
		content := picture(t, 50_000)
		res, reply := g.upload("/media", "a.jpg", content)
		id := uploaded(t, res, reply)
		w.revoke()
		if _, back := g.get("/media/" + id); !bytes.Equal(back, content) {
			t.Errorf("versions %s: the bytes differ", versions)
		}
	}
}

// A host that is asked over HTTP/3 alone, as another Caddy in front of WeChat can be.
func TestUpstreamOverHTTP3(t *testing.T) {
	w := startWechat(t)
	cert, key := loopback.MakeCert(t, t.TempDir())
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var others atomic.Int64
	up := &http3.Server{TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}),
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor != 3 {
				others.Add(1)
			}
			w.ServeHTTP(rw, r)
		})}
	go func() { _ = up.Serve(conn) }()
	t.Cleanup(func() { _ = up.Close(); _ = conn.Close() })
	g := startGateway(t, block("https://"+conn.LocalAddr().String(), "transport wechat {\nversions 3\ntls_insecure_skip_verify\n}"))
	content := picture(t, 300_000)
	for range 2 {
		res, reply := g.upload("/media", "a.jpg", content)
		id := uploaded(t, res, reply)
		w.revoke()
		if _, back := g.get("/media/" + id); !bytes.Equal(back, content) {
			t.Error("the bytes differ")
		}
	}
	if others.Load() > 0 {
		t.Errorf("%d requests came over another version", others.Load())
	}
}

// Hosts that SRV records name serve token calls and media.
func TestUpstreamsFromSRV(t *testing.T) {
	w := startWechat(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(w.URL, "http://"), ":")
	names := nameServer(t, port)
	g := startGateway(t, block("", "dynamic srv _media._tcp.wechat.test {\nresolvers "+names+"\n}\ntransport wechat {\nresolvers "+names+"\n}"))
	content := picture(t, 1000)
	res, reply := g.upload("/media", "a.jpg", content)
	id := uploaded(t, res, reply)
	w.revoke()
	if _, back := g.get("/media/" + id); !bytes.Equal(back, content) {
		t.Error("the bytes differ")
	}
}

// nameServer says that every service is at a port of this machine, and returns its address.
func nameServer(t *testing.T, port string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for buf := make([]byte, 4<<10); ; {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			answer := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60}}
			switch m.Questions[0].Type {
			case dnsmessage.TypeSRV:
				answer.Body = &dnsmessage.SRVResource{Target: dnsmessage.MustNewName("host.wechat.test."), Port: uint16(number)}
			case dnsmessage.TypeA:
				answer.Body = &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}
			}
			if answer.Body != nil {
				m.Answers = []dnsmessage.Resource{answer}
			}
			if reply, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

// A transport that stands alone in a handler's handle_response answers with true
// statuses.
func TestRefusalOfTransportInHandleResponse(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "handle_response {\nreverse_proxy "+w.URL+" {\ntransport wechat {\napp wx2 {\ntoken file "+
		filepath.Join(t.TempDir(), "missing")+"\n}\n}\n}\n}"))
	if res, body := g.get("/media/abc"); res.StatusCode != 503 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// Compression that a caller asks for would hide the token from what takes it out, and
// rejections from what heals them.
func TestCallersAskForNoCompression(t *testing.T) {
	up := quoting(t, func(rw http.ResponseWriter, r *http.Request) {
		out := io.Writer(rw)
		rw.Header().Set("Content-Type", "text/plain")
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			rw.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(rw)
			defer z.Close()
			out = z
		}
		fmt.Fprintf(out, `{"errcode":40007,"errmsg":"bad request %s"}`, r.RequestURI)
	})
	for name, directive := range map[string]string{
		"handler": quotingBlock(up.URL),
		"bare": "reverse_proxy " + up.URL + " {\ntransport wechat {\napp " + testAppID + " {\ntoken server " + up.URL +
			"/token-server\n}\n}\n}",
		"bare, compression on": "reverse_proxy " + up.URL + " {\ntransport wechat {\ncompression on\napp " + testAppID + " {\ntoken server " + up.URL +
			"/token-server\n}\n}\n}",
	} {
		g := startGateway(t, directive)
		res, body := g.do("GET", "/cgi-bin/media/get?media_id=abc", http.Header{"Accept-Encoding": {"gzip"}}, nil)
		if z, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
			body, _ = io.ReadAll(z)
		}
		if carriesToken(string(body)) || !strings.Contains(string(body), "40007") {
			t.Errorf("%s: %v %s", name, res.Header, body)
		}
	}
}

// Another host makes the error pages: of a refused upload, no body is left for it.
func TestErrorPagesOfAnotherHost(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	pages := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		mu.Lock()
		asked = append(asked, fmt.Sprint(r.Method, " ", n))
		mu.Unlock()
		_, _ = io.WriteString(rw, "page of "+r.URL.Path)
	}))
	g := startGateway(t, block("http://127.0.0.1:1", "errors caddy")+"\nhandle_errors {\nrewrite /{err.status_code}\nreverse_proxy "+pages.URL+"\n}")
	contentType, body := form(t, "a.jpg", picture(t, 50_000))
	for _, chunked := range []bool{false, true} {
		in := io.Reader(bytes.NewReader(body))
		if chunked {
			in = io.MultiReader(in)
		}
		if res, page := g.do("POST", "/media?type=video", http.Header{"Content-Type": {contentType}}, in); string(page) != "page of /400" {
			t.Errorf("length unknown %v: %d %s", chunked, res.StatusCode, page)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(asked) != "[POST 0 POST 0]" {
		t.Errorf("the host of the pages was asked %q", asked)
	}
}

// What would undo a promise, or can only fail, is told when the config is loaded, with
// what to write instead.
func TestOptionsThatAreRefused(t *testing.T) {
	t.Setenv("SECRET", "0123456789abcdef0123456789abcdef")
	t.Setenv("TEST_URL", "http://127.0.0.1:9000")
	site := func(front, upstreams, options string) string {
		return ":8080 {\n" + front + "\nwechat_media " + upstreams + " {\napp wx1 {env.SECRET}\n" + options + "\n}\n}\n"
	}
	const somewhere = "http://127.0.0.1:1"
	backend := "map {host} {backend} {\ndefault 127.0.0.1:1\n}"
	for name, tc := range map[string]struct{ config, want string }{
		"rewrite":                   {site("", somewhere, "rewrite /cgi-bin/user/info?{query}"), "write them in front of it"},
		"method":                    {site("", somewhere, "method GET"), "write them in front of it"},
		"unhealthy_latency":         {site("", somewhere, "unhealthy_latency 1s"), "response_header_timeout"},
		"callers' errors":           {site("", somewhere, "translate_status\nunhealthy_status 5xx 4xx"), "unhealthy_status 4 would count callers' errors"},
		"an upstream of a map":      {site(backend, "{backend}", ""), "{backend} depends on the request"},
		"a Host of a map":           {site(backend, somewhere, "header_up Host {backend}"), "{backend} depends on the request"},
		"a server name of a map":    {site(backend, "https://127.0.0.1:1", "transport wechat {\ntls_server_name {backend}\n}"), "{backend} depends on the request"},
		"an upstream that is unset": {site("", "{env.TEST_UNSET}", ""), `{env.TEST_UNSET} stands for "", which is no address; write <host>:<port>`},
		"a URL from outside":        {site("", "{env.TEST_URL}", ""), `{env.TEST_URL} stands for "http://127.0.0.1:9000", which is no address`},
		"HTTP's option":             {site("", somewhere, "keepalive off"), "keepalive goes into a block: transport wechat"},
		"TLS' option":               {site("", somewhere, "tls_insecure_skip_verify"), "tls_insecure_skip_verify goes into a block: transport wechat"},
		"our option in transport":   {site("", somewhere, "transport wechat {\ntypes voice\n}"), "types goes into the block of wechat_media"},
		"header_up in transport":    {site("", somewhere, "transport wechat {\nheader_up X y\n}"), "header_up goes into the block around this one"},
		"token in transport":        {site("", somewhere, "transport wechat {\ntoken stable\n}"), "token goes into the block of an app"},
	} {
		err := validate(t, tc.config)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	const selector = `{"apps":{"http":{"servers":{"s":{"routes":[{"handle":[{"handler":"wechat_media","reverse_proxy":{"transport":{"protocol":"wechat",
		"app_selector":"wx2","apps":[{"app_id":"wx1","app_secret":"{env.SECRET}"}]}}}]}]}}}}}`
	if err := validateJSON(t, []byte(selector)); err == nil || !strings.Contains(err.Error(), "has no placeholder") {
		t.Errorf("a selector without a placeholder, in JSON: got %v", err)
	}
	for name, config := range map[string]string{
		"statuses of the host's own":     site("", somewhere, "translate_status\nunhealthy_status 5xx 403"),
		"4xx without translate_status":   site("", somewhere, "unhealthy_status 4xx"),
		"an upstream of a map, no calls": strings.Replace(site(backend, "{backend}", ""), "{env.SECRET}", "{\ntoken file /t\n}", 1),
		"a Host of the upstream's":       site("", somewhere, "header_up Host {upstream_hostport}"),
		"a socket":                       site("", "unix//run/s.sock", ""),
	} {
		if err := validate(t, config); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
