package wechatmedia

// The examples at work: each is run with stand-ins for what is around it, WeChat
// above all, and does what it is for.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// exampleEnv is the environment of the examples.
var exampleEnv = map[string]string{
	"WECHAT_APP_ID":     testAppID,
	"WECHAT_APP_SECRET": testSecret,
	"SHOP_APP_ID":       testAppID,
	"SHOP_APP_SECRET":   testSecret,
	"NEWS_APP_ID":       "wx2",
	"NEWS_APP_SECRET":   testSecret,
	"WECOM_CORP_ID":     testCorp,
	"WECOM_SECRET":      otherSecret,
	"GATEWAY_KEY":       "sentinel-gateway-key",
	"SHOP_GATEWAY_KEY":  "sentinel-shop-key",
	"NEWS_GATEWAY_KEY":  "sentinel-news-key",
	"TOKEN_SERVER_URL":  "http://127.0.0.1:1/token",
	"TOKEN_SERVER_KEY":  "sentinel-token-server-key",
	"EGRESS_PROXY":      "http://gateway:sentinel-proxy-password@127.0.0.1:1",
}

// What callers send that is nobody else's business.
const (
	callersToken  = "sentinel-token-of-the-caller"
	callersSecret = "sentinel-secret-of-the-caller"
	callersCookie = "sentinel-cookie-of-the-caller"
	callersQuery  = "?access_token=" + callersToken + "&secret=" + callersSecret
)

var exampleTests = map[string]func(*example){
	"example.Caddyfile":         testSandboxExample,
	"production.Caddyfile":      testProductionExample,
	"forward-auth.Caddyfile":    testForwardAuthExample,
	"apps-by-host.Caddyfile":    testHostExample,
	"apps-by-header.Caddyfile":  testHeaderExample,
	"fleet.Caddyfile":           testFleetExample,
	"token-server.Caddyfile":    testTokenServerExample,
	"cloud-hosting.Caddyfile":   testCloudHostingExample,
	"egress-proxy.Caddyfile":    testEgressProxyExample,
	"egress-address.Caddyfile":  testEgressAddressExample,
	"private-gateway.Caddyfile": testPrivateGatewayExample,
	"sdk.Caddyfile":             testSDKExample,
	"wecom.Caddyfile":           testWeComExample,
}

// Every example is formatted, tells what it wants from the environment, is valid as
// it stands, goes to WeChat unless it says otherwise, does what it is for, and logs
// no secret even at level debug.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("examples/*.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, "example.Caddyfile")
	if len(files) != len(exampleTests) {
		t.Errorf("there are %d examples and %d tests", len(files), len(exampleTests))
	}
	for _, file := range files {
		test, ok := exampleTests[filepath.Base(file)]
		if !ok {
			t.Errorf("%s has no test", file)
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			x := newExample(t, file)
			x.checkText()
			x.checkUpstreams()
			test(x)
			x.checkLog()
		})
	}
}

// The sandbox that is part of the example is WeChat.
func testSandboxExample(x *example) {
	x.run()
	x.useMedia("http://localhost:8080/media", nil)
	x.useMedia("http://127.0.0.1:8080/media", nil)
	if n := len(x.wechat.requests()); n != 0 {
		x.t.Errorf("%d requests went elsewhere than to the sandbox", n)
	}
}

func testProductionExample(x *example) {
	key := bearer("GATEWAY_KEY")
	x.keepStrangersOut("http://media.example.com:443/media", "GATEWAY_KEY")
	id := x.useMedia("http://media.example.com:443/media", key)
	x.checkAccessLog()

	res, _ := x.do("GET", "http://media.example.com:443/media/"+strings.Repeat("0", len(id)), key, nil)
	if res.StatusCode != 404 {
		x.t.Errorf("a media_id that is not there got status %d", res.StatusCode)
	}
	contentType, body := form(x.t, "a.mp4", randomBytes(x.t, 1000))
	res, reply := x.do("POST", "http://media.example.com:443/media?type=video", with(key, "Content-Type", contentType), body)
	if res.StatusCode != 400 || !strings.Contains(string(reply), "40004") {
		x.t.Errorf("a video got status %d %s", res.StatusCode, reply)
	}
}

func testForwardAuthExample(x *example) {
	asked := make(chan string, 1000)
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- fmt.Sprint(r.URL.Path, " ", r.Header.Get("X-Forwarded-Method"), " ", r.Header["X-Forwarded-Uri"])
		switch r.Header.Get("Authorization") {
		case "Bearer of-shop":
			w.Header().Set("X-Wechat-Appid", testAppID)
		case "Bearer of-news":
			w.Header().Set("X-Wechat-Appid", "wx2")
		case "Bearer of-another":
			w.Header().Set("X-Wechat-Appid", "wx3")
		case "Bearer of-nobody":
		default:
			http.Error(w, "who are you?", http.StatusUnauthorized)
		}
	}))
	defer auth.Close()
	x.proxied = auth.Listener.Addr().String()
	x.secrets = append(x.secrets, "of-shop", "of-news", "of-another", "of-nobody")
	bearerOf := func(name string) http.Header { return http.Header{"Authorization": {"Bearer of-" + name}} }
	const base = "http://media.example.com:443/media"
	x.keepStrangersOut(base, "")
	for len(asked) > 0 {
		<-asked
	}

	id := x.useMedia(base, bearerOf("shop"))
	x.checkLastApp(testAppID)
	for _, want := range []string{"/check POST [/media]", "/check GET [/media/" + id + "]"} {
		if got := next(x.t, asked); got != want {
			x.t.Errorf("the service was asked %s, want %s", got, want)
		}
	}
	// what a caller says itself does not count
	x.useMedia(base, with(bearerOf("news"), "X-Wechat-Appid", testAppID))
	x.checkLastApp("wx2")
	x.useMedia(base, with(bearerOf("nobody"), "X-Wechat-Appid", "wx2"))
	x.checkLastApp(testAppID)
	res, reply := x.do("GET", base+"/"+id, bearerOf("another"), nil)
	if res.StatusCode != 400 || !strings.Contains(string(reply), "40013") {
		x.t.Errorf("an app that is not here got %d %.60q", res.StatusCode, reply)
	}
	if res, reply := x.do("GET", base+"/"+id, nil, nil); string(reply) != "who are you?\n" {
		x.t.Errorf("a stranger got %d %s", res.StatusCode, reply)
	}

	auth.Close()
	before := len(x.wechat.requests())
	res, _ = x.do("GET", base+"/"+id+callersQuery, bearerOf("shop"), nil)
	if n := len(x.wechat.requests()) - before; res.StatusCode != 502 || n != 0 {
		x.t.Errorf("without the service the status is %d, and WeChat got %d requests", res.StatusCode, n)
	}
	x.checkAccessLog()
}

func testHostExample(x *example) {
	x.keepStrangersOut("http://shop.example.com:443", "SHOP_GATEWAY_KEY", "NEWS_GATEWAY_KEY")
	x.keepStrangersOut("http://news.example.com:443", "NEWS_GATEWAY_KEY", "SHOP_GATEWAY_KEY")
	x.useMedia("http://shop.example.com:443", bearer("SHOP_GATEWAY_KEY"))
	x.checkLastApp(testAppID)
	id := x.useMedia("http://news.example.com:443", bearer("NEWS_GATEWAY_KEY"))
	x.checkLastApp("wx2")

	before := len(x.wechat.requests())
	for _, key := range []string{"SHOP_GATEWAY_KEY", "NEWS_GATEWAY_KEY"} {
		res, reply := x.do("GET", "http://other.example.com:443/"+id, bearer(key), nil)
		if res.StatusCode != 421 || len(reply) != 0 {
			x.t.Errorf("a host that is not there got status %d and %d bytes", res.StatusCode, len(reply))
		}
	}
	if len(x.wechat.requests()) != before {
		x.t.Error("a request for another host reached WeChat")
	}
}

func testHeaderExample(x *example) {
	const base = "http://media.example.com:443"
	key := bearer("GATEWAY_KEY")
	x.keepStrangersOut(base, "GATEWAY_KEY")
	id := x.useMedia(base, key)
	x.checkLastApp(testAppID)
	for _, app := range []string{testAppID, "wx2"} {
		x.useMedia(base, with(key, "X-Wechat-Appid", app))
		x.checkLastApp(app)
	}
	before := len(x.wechat.requests())
	res, reply := x.do("GET", base+"/"+id, with(key, "X-Wechat-Appid", "wx3"), nil)
	if res.StatusCode != 400 || !strings.Contains(string(reply), "40013") || len(x.wechat.requests()) != before {
		x.t.Errorf("an app that is not here got %d %.60q", res.StatusCode, reply)
	}
}

// A gateway that starts when another one has stored a token asks for none.
func testFleetExample(x *example) {
	const base = "http://media.example.com:443"
	x.keepStrangersOut(base, "GATEWAY_KEY")
	x.useMedia(base, bearer("GATEWAY_KEY"))
	x.checkStoredToken()

	if err := caddy.Stop(); err != nil {
		x.t.Fatal(err)
	}
	x.wechat.reset()
	x.run()
	x.useMedia(base, bearer("GATEWAY_KEY"))
	if n := x.wechat.count("/cgi-bin/stable_token"); n != 0 {
		x.t.Errorf("the second gateway asked for a token %d times", n)
	}
}

func testWeComExample(x *example) {
	useWeCom(x.t)
	x.wechat.Server = sandbox.New(sandbox.Options{Corps: map[string]string{testAgent: otherSecret}, KeepAlive: true})
	x.keepStrangersOut("http://media.example.com:443/media", "GATEWAY_KEY")
	x.useMedia("http://media.example.com:443/media", bearer("GATEWAY_KEY"))
	x.checkAccessLog()
	contentType, body := form(x.t, "a.pdf", randomBytes(x.t, 1000))
	res, reply := x.do("POST", "http://media.example.com:443/media?type=file", with(bearer("GATEWAY_KEY"), "Content-Type", contentType), body)
	uploaded(x.t, res, reply)
}

func (x *example) checkStoredToken() {
	x.t.Helper()
	files, err := filepath.Glob(filepath.Join(x.storage, "wechat", "tokens", "v*", "*", "token"))
	if err != nil || len(files) != 1 {
		x.t.Fatalf("%d tokens are stored, %v", len(files), err)
	}
	info, err := os.Stat(files[0])
	if err != nil {
		x.t.Fatal(err)
	}
	if info.Mode() != fs.FileMode(0o600) {
		x.t.Errorf("the token's file has mode %v", info.Mode())
	}
	record, err := os.ReadFile(files[0])
	if err != nil {
		x.t.Fatal(err)
	}
	if !bytes.Contains(record, []byte(x.wechat.currentToken())) {
		x.t.Error("what is stored is not the token")
	}
}

func testTokenServerExample(x *example) {
	var current atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/token?app=shop" || r.Header.Get("Authorization") != "Bearer "+exampleEnv["TOKEN_SERVER_KEY"] {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"access_token":%q,"expires_in":7200}`, current.Load())
	}))
	defer server.Close()
	x.setenv("TOKEN_SERVER_URL", server.URL+"/token?app=shop")
	const base = "http://media.example.com:443"
	issue := func(token string) {
		x.wechat.revoke()
		x.wechat.AddToken(testAppID, token, time.Hour)
		current.Store(token)
	}
	first, second := strings.Repeat("first-token-", 4), strings.Repeat("second-token-", 4)

	issue(first)
	x.keepStrangersOut(base, "GATEWAY_KEY")
	x.useMedia(base, bearer("GATEWAY_KEY"))
	if got := x.lastQuery().Get("access_token"); got != first {
		x.t.Errorf("the token is %q", got)
	}
	issue(second) // and WeChat rejects the first
	x.useMedia(base, bearer("GATEWAY_KEY"))
	if got := x.lastQuery().Get("access_token"); got != second {
		x.t.Errorf("the token is %q", got)
	}
	if n := x.wechat.count("/cgi-bin/stable_token") + x.wechat.count("/cgi-bin/token"); n != 0 {
		x.t.Errorf("WeChat was asked for a token %d times", n)
	}
}

func testCloudHostingExample(x *example) {
	token := strings.Repeat("cloudbase-token-", 4)
	x.wechat.AddToken(testAppID, token, 30*time.Minute)
	file := filepath.Join(x.t.TempDir(), "cloudbase_access_token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		x.t.Fatal(err)
	}
	x.edit = func(transport object) {
		source := transport["apps"].([]any)[0].(object)["token"].(object)
		if path := source["path"]; path != "/.tencentcloudbase/wx/cloudbase_access_token" {
			x.t.Errorf("the file is %s", path)
		}
		source["path"] = file
	}
	const base = "http://gateway.internal:80"
	x.keepStrangersOut(base, "GATEWAY_KEY")
	x.useMedia(base, bearer("GATEWAY_KEY"))
	for _, s := range x.wechat.requests() {
		query := queryOf(x.t, s)
		if query.Get("cloudbase_access_token") != token || query.Has("access_token") {
			x.t.Errorf("WeChat got %s", s.uri)
		}
	}
	if n := x.wechat.count("/cgi-bin/stable_token"); n != 0 {
		x.t.Errorf("WeChat was asked for a token %d times", n)
	}
}

// The gateway knows WeChat by its name alone, and only the proxy knows where that
// is: what arrives went through the proxy.
func testEgressProxyExample(x *example) {
	standIn := httptest.NewTLSServer(x.wechat)
	defer standIn.Close()
	proxy := &egressProxy{to: standIn.Listener.Addr().String(), auth: "Basic " + base64.StdEncoding.EncodeToString([]byte("gateway:sentinel-proxy-password"))}
	srv := httptest.NewServer(proxy)
	defer srv.Close()
	defer proxy.close()
	x.secrets = append(x.secrets, "sentinel-proxy-password", strings.TrimPrefix(proxy.auth, "Basic "))
	x.setenv("EGRESS_PROXY", "http://gateway:sentinel-proxy-password@"+srv.Listener.Addr().String())
	x.direct = true
	x.edit = func(transport object) {
		if transport["network_proxy"] == nil {
			x.t.Fatal("the example has no proxy")
		}
		transport["tls"] = object{"insecure_skip_verify": true} // the stand-in's name is another
	}
	const base = "http://media.example.com:443"
	x.keepStrangersOut(base, "GATEWAY_KEY")
	x.useMedia(base, bearer("GATEWAY_KEY"))
	for _, path := range []string{"/cgi-bin/stable_token", "/cgi-bin/media/upload", "/cgi-bin/media/get"} {
		if x.wechat.count(path) == 0 {
			x.t.Errorf("no %s went through the proxy", path)
		}
	}
	if asked := proxy.asked(); len(asked) == 0 || len(slices.Compact(asked)) != 1 || asked[0] != "CONNECT api.weixin.qq.com:443" {
		x.t.Errorf("the proxy was asked %q", asked)
	}

	// without a proxy in the environment nothing leaves by another way
	x.wechat.reset()
	x.direct = false
	x.edit = nil
	x.setenv("EGRESS_PROXY", "")
	if err := caddy.Stop(); err != nil {
		x.t.Fatal(err)
	}
	x.run()
	res, _ := x.do("GET", base+"/media_id", bearer("GATEWAY_KEY"), nil)
	if n := len(x.wechat.requests()) + x.wechat.count("/cgi-bin/stable_token"); res.StatusCode != 503 || n != 0 {
		x.t.Errorf("the status is %d, and %d requests got around the proxy", res.StatusCode, n)
	}
}

// egressProxy is a forward proxy that takes everybody to one place.
type egressProxy struct {
	to, auth string

	mu       sync.Mutex
	requests []string
	conns    []net.Conn
}

func (p *egressProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Proxy-Authorization") != p.auth || r.Method != http.MethodConnect {
		http.Error(w, "no", http.StatusProxyAuthRequired)
		return
	}
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		http.Error(w, "no", http.StatusBadGateway)
		return
	}
	down, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = up.Close()
		return
	}
	p.mu.Lock()
	p.requests = append(p.requests, r.Method+" "+r.Host)
	p.conns = append(p.conns, up, down)
	p.mu.Unlock()
	_, _ = io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { _, _ = io.Copy(up, down); _ = up.Close() }()
	go func() { _, _ = io.Copy(down, up); _ = down.Close() }()
}

func (p *egressProxy) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

func (p *egressProxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		_ = conn.Close()
	}
}

func testEgressAddressExample(x *example) {
	const address = "127.0.0.2"
	callers := make(chan string, 100)
	standIn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		callers <- r.URL.Path + " " + host
		x.wechat.ServeHTTP(w, r)
	}))
	defer standIn.Close()
	x.upstream = standIn.Listener.Addr().String()
	x.edit = func(transport object) {
		if transport["local_address"] == nil {
			x.t.Fatal("the example has no local_address")
		}
		transport["local_address"] = address
	}
	const base = "http://media.example.com:443"
	x.keepStrangersOut(base, "GATEWAY_KEY")
	x.useMedia(base, bearer("GATEWAY_KEY"))
	for _, path := range []string{"/cgi-bin/stable_token", "/cgi-bin/media/upload", "/cgi-bin/media/get"} {
		if got := next(x.t, callers); got != path+" "+address {
			x.t.Errorf("WeChat was asked for %s, want %s from %s", got, path, address)
		}
	}
}

func testPrivateGatewayExample(x *example) {
	received := make(chan seen, 1)
	standIn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/wxa/msg_sec_check" {
			x.wechat.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		received <- seen{uri: r.RequestURI, header: r.Header, body: body}
		_, _ = io.WriteString(w, `{"errcode":0,"errmsg":"ok"}`)
	}))
	defer standIn.Close()
	x.upstream = standIn.Listener.Addr().String()
	const base = "http://127.0.0.1:8080"
	key := bearer("GATEWAY_KEY")
	x.keepStrangersOut(base, "GATEWAY_KEY")
	if x.listen["8080"] != "127.0.0.1" {
		x.t.Errorf("the gateway listens on %q", x.listen["8080"])
	}

	header := with(with(key, "Cookie", callersCookie), "Content-Type", "application/json")
	res, reply := x.do("POST", base+"/wxa/msg_sec_check?a=b&access_token="+callersToken, header, []byte(`{"content":"text"}`))
	if res.StatusCode != 200 || string(reply) != `{"errcode":0,"errmsg":"ok"}` {
		x.t.Fatalf("got %d %s", res.StatusCode, reply)
	}
	got := next(x.t, received)
	if want := "/wxa/msg_sec_check?access_token=" + x.wechat.currentToken() + "&a=b"; got.uri != want || string(got.body) != `{"content":"text"}` {
		x.t.Errorf("WeChat got %s with %s, want %s", got.uri, got.body, want)
	}
	for _, name := range []string{"Authorization", "Cookie", "Via", "X-Forwarded-For"} {
		if got.header[name] != nil {
			x.t.Errorf("WeChat got a %s", name)
		}
	}

	if _, reply := x.do("POST", "http://evil.example:8080/wxa/msg_sec_check", key, nil); len(reply) != 0 {
		x.t.Error("a name that somebody has made to point here is served")
	}
	for _, path := range []string{"/wxa/msg_sec_check;x", "/wxa/msg_sec_check/../../cgi-bin/token", "/wxa\\msg_sec_check", "/cgi-bin/token;x", "/cgi-bin/token", "/cgi-bin/stable_token", "/cgi-bin/clear_quota", "/cgi-bin//clear_quota/v2", "/cgi-bin/openapi/quota/clear"} {
		if res, _ := x.do("POST", base+path+"?secret="+callersSecret, key, nil); res.StatusCode != 403 {
			x.t.Errorf("%s got status %d", path, res.StatusCode)
		}
	}
	if n := len(x.wechat.requests()); n != 0 || x.wechat.count("/cgi-bin/stable_token") != 1 {
		x.t.Errorf("%d requests reached WeChat that should not", n)
	}
	x.checkAccessLog()
}

func testSDKExample(x *example) {
	x.run()
	const base = "http://gateway.internal:8080/cgi-bin"
	res, reply := x.do("GET", base+"/token?grant_type=client_credential&appid="+testAppID+"&secret="+callersSecret, nil, nil)
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(reply, &token); err != nil || res.StatusCode != 200 || token.AccessToken == "" {
		x.t.Fatalf("asked for a token, the gateway answered %d %s", res.StatusCode, reply)
	}
	content := picture(x.t, 10_000)
	contentType, body := form(x.t, "a.jpg", content)
	upload := base + "/media/upload?type=image&access_token=" + callersToken
	res, reply = x.do("POST", upload, http.Header{"Content-Type": {contentType}}, body)
	id := uploaded(x.t, res, reply)
	res, reply = x.do("GET", base+"/media/get?access_token="+token.AccessToken+"&media_id="+id, nil, nil)
	if res.StatusCode != 200 || !bytes.Equal(reply, content) {
		x.t.Errorf("got %d and %d bytes", res.StatusCode, len(reply))
	}
	x.checkLastApp(testAppID)
	if n := x.wechat.count("/cgi-bin/token"); n != 0 {
		x.t.Errorf("WeChat was asked for a token %d times", n)
	}

	before := len(x.wechat.requests())
	x.from = "127.0.0.2"
	for _, target := range []string{"/token", "/media/get?media_id=" + id} {
		if res, reply := x.do("GET", base+target, nil, nil); res.StatusCode != 401 || len(reply) != 0 {
			x.t.Errorf("a machine that is not known got %d and %d bytes", res.StatusCode, len(reply))
		}
	}
	if len(x.wechat.requests()) != before {
		x.t.Error("a machine that is not known reached WeChat")
	}
	if log := accessLog(); !strings.Contains(log, "access_token=REDACTED") || !strings.Contains(log, "secret=REDACTED") {
		x.t.Errorf("the access log is\n%s", log)
	}
}

// object is a JSON object.
type object = map[string]any

// example is a Caddyfile to be run, and what is around it.
type example struct {
	t       *testing.T
	text    string
	adapted []byte
	wechat  *wechat
	secrets []string // must be in no log

	upstream string            // what takes WeChat's place
	direct   bool              // leave WeChat's address as it is
	proxied  string            // what takes the place of other upstreams
	edit     func(object)      // changes transports
	from     string            // the address that callers have
	storage  string            // what takes the place of the example's storage
	ports    map[string]string // of this machine, by those of the example
	listen   map[string]string // hosts in the example, by those ports
}

func newExample(t *testing.T, file string) *example {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	x := &example{t: t, text: string(text), wechat: startWechat(t), storage: storageDir(t),
		secrets: []string{callersToken, callersSecret, callersCookie},
		ports:   make(map[string]string), listen: make(map[string]string)}
	x.upstream = strings.TrimPrefix(x.wechat.URL, "http://")
	for name, value := range exampleEnv {
		t.Setenv(name, value)
		if strings.HasPrefix(value, "sentinel-") {
			x.secrets = append(x.secrets, value)
		}
	}
	if x.adapted, err = adapt(t, x.text); err != nil {
		t.Fatal(err)
	}
	memoryLogged.Lock()
	memoryLogged.Reset()
	memoryLogged.Unlock()
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return x
}

func (x *example) setenv(name, value string) {
	x.t.Helper()
	if !strings.Contains(x.text, "{env."+name+"}") {
		x.t.Fatalf("%s is not used", name)
	}
	x.t.Setenv(name, value)
}

// checkText holds the comment at the head of the file against the rest.
func (x *example) checkText() {
	x.t.Helper()
	if string(caddyfile.Format([]byte(x.text))) != x.text {
		x.t.Error("it is not formatted; run: caddy fmt --overwrite")
	}
	head := regexp.MustCompile(`\A(#.*\n)+`).FindString(x.text)
	told, used := make(map[string]bool), make(map[string]bool)
	for _, name := range regexp.MustCompile(`\b[A-Z]+(_[A-Z]+)+\b`).FindAllString(head, -1) {
		told[name] = true
	}
	for _, m := range regexp.MustCompile(`\{env\.(\w+)\}`).FindAllStringSubmatch(x.text, -1) {
		used[m[1]] = true
	}
	if head == "" || !maps.Equal(told, used) {
		x.t.Errorf("the head of the file tells of %v, and the rest uses %v", told, used)
	}
}

// checkUpstreams validates the example as it stands, and makes sure that it goes to
// WeChat where it does not say otherwise.
func (x *example) checkUpstreams() {
	x.t.Helper()
	var config object
	if err := json.Unmarshal(x.adapted, &config); err != nil {
		x.t.Fatal(err)
	}
	config["apps"].(object)["test_upstreams"] = object{}
	upstreamsFound.media, upstreamsFound.bare = nil, nil
	if err := validateJSON(x.t, caddyconfig.JSON(config, nil)); err != nil {
		x.t.Fatalf("validating: %v", err)
	}
	for _, urls := range upstreamsFound.media {
		want := platform.WeChat.Hosts
		if strings.Contains(x.text, "token wecom") {
			want = platform.WeCom.Hosts
		}
		if strings.Join(urls, " ") != "https://"+strings.Join(want, " https://") && filepath.Base(x.t.Name()) != "example.Caddyfile" {
			x.t.Errorf("media is at %q", urls)
		}
	}
	for _, urls := range upstreamsFound.bare {
		if !slices.Equal(urls, []string{"https://api.weixin.qq.com:443"}) {
			x.t.Errorf("WeChat is at %q", urls)
		}
	}
	if len(upstreamsFound.media)+len(upstreamsFound.bare) == 0 {
		x.t.Error("no gateway was found")
	}
}

func init() { caddy.RegisterModule(new(upstreamProbe)) }

// upstreamProbe is a Caddy app that looks where the gateways of a provisioned
// config go to.
type upstreamProbe struct{}

var upstreamsFound struct{ media, bare [][]string }

func (*upstreamProbe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "test_upstreams", New: func() caddy.Module { return new(upstreamProbe) }}
}
func (*upstreamProbe) Start() error { return nil }
func (*upstreamProbe) Stop() error  { return nil }

func (p *upstreamProbe) Provision(ctx caddy.Context) error {
	app, err := ctx.App("http")
	if err != nil {
		return err
	}
	for _, srv := range app.(*caddyhttp.App).Servers {
		p.look(srv.Routes)
	}
	return nil
}

func (p *upstreamProbe) look(routes caddyhttp.RouteList) {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch h := handler.(type) {
			case *caddyhttp.Subroute:
				p.look(h.Routes)
			case *Handler:
				upstreamsFound.media = append(upstreamsFound.media, upstreamURLs(h.proxy))
			case *reverseproxy.Handler:
				if _, ok := h.Transport.(*Transport); ok {
					upstreamsFound.bare = append(upstreamsFound.bare, upstreamURLs(h))
				}
			}
		}
	}
}

func upstreamURLs(proxy *reverseproxy.Handler) (urls []string) {
	scheme := "http://"
	if proxy.Transport.(*Transport).TLSEnabled() {
		scheme = "https://"
	}
	for _, upstream := range proxy.Upstreams {
		urls = append(urls, scheme+upstream.Dial)
	}
	return urls
}

// run loads the example, with everything that it is connected to replaced.
func (x *example) run() {
	x.t.Helper()
	var config object
	if err := json.Unmarshal(x.adapted, &config); err != nil {
		x.t.Fatal(err)
	}
	config["admin"] = object{"disabled": true, "config": object{"persist": false}}
	logs := objectIn(objectIn(config, "logging"), "logs")
	objectIn(logs, "default")
	for _, log := range logs {
		log.(object)["writer"] = object{"output": "test_memory"}
		log.(object)["level"] = "DEBUG"
	}
	storage := storageDir(x.t)
	if config["storage"] != nil {
		storage = x.storage
	}
	config["storage"] = object{"module": "file_system", "root": storage}
	for _, srv := range objectIn(objectIn(objectIn(config, "apps"), "http"), "servers") {
		x.moveServer(srv.(object))
	}
	x.moveUpstreams(config)
	if err := caddy.Load(caddyconfig.JSON(config, nil), true); err != nil {
		x.t.Fatalf("loading: %v", err)
	}
}

// objectIn returns the object under a key, which it makes if there is none.
func objectIn(o object, key string) object {
	if o[key] == nil {
		o[key] = object{}
	}
	return o[key].(object)
}

// moveServer has a server listen on this machine, without TLS.
func (x *example) moveServer(srv object) {
	x.t.Helper()
	listen := srv["listen"].([]any)
	host, port, err := net.SplitHostPort(listen[0].(string))
	if err != nil || len(listen) != 1 {
		x.t.Fatalf("the example listens on %v, %v", listen, err)
	}
	x.ports[port] = freePort(x.t) // another one for each run: a listener that goes may have connections
	x.listen[port] = host
	srv["listen"] = []string{"127.0.0.1:" + x.ports[port]}
	srv["protocols"] = []string{"h1", "h2c"}
	srv["automatic_https"] = object{"disable": true}
	delete(srv, "tls_connection_policies")
}

// moveUpstreams has every proxy in a config go to a stand-in.
func (x *example) moveUpstreams(v any) {
	switch v := v.(type) {
	case []any:
		for _, element := range v {
			x.moveUpstreams(element)
		}
	case object:
		switch transport, _ := v["transport"].(object); {
		case v["handler"] == "reverse_proxy" && transport["protocol"] != "wechat":
			v["upstreams"] = []object{{"dial": x.proxied}}
		case transport["protocol"] == "wechat":
			if !x.direct {
				v["upstreams"] = []object{{"dial": x.standIn(v)}}
				delete(transport, "tls")
			}
			if x.edit != nil {
				x.edit(transport)
			}
		}
		for _, element := range v {
			x.moveUpstreams(element)
		}
	}
}

// standIn is what takes the place of a proxy's WeChat: ours, or the example's own.
func (x *example) standIn(proxy object) string {
	if upstreams, ok := proxy["upstreams"].([]any); ok {
		host, port, _ := net.SplitHostPort(upstreams[0].(object)["dial"].(string))
		if host == "127.0.0.1" {
			return host + ":" + x.ports[port]
		}
	}
	return x.upstream
}

// client returns a client that finds the example's hosts on this machine.
func (x *example) client(protocols *http.Protocols) *http.Client {
	dialer := new(net.Dialer)
	if x.from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(x.from)}
	}
	return &http.Client{
		Transport: &http.Transport{
			DisableCompression: true, DisableKeepAlives: true, Protocols: protocols,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				_, port, _ := net.SplitHostPort(addr)
				return dialer.DialContext(ctx, network, "127.0.0.1:"+x.ports[port])
			},
		},
		CheckRedirect: noRedirects.CheckRedirect,
		Timeout:       time.Minute,
	}
}

func (x *example) do(method, target string, header http.Header, body []byte) (*http.Response, []byte) {
	x.t.Helper()
	return x.doWith(x.client(nil), method, target, header, body)
}

func (x *example) doWith(client *http.Client, method, target string, header http.Header, body []byte) (*http.Response, []byte) {
	x.t.Helper()
	req, err := http.NewRequest(method, target, bytes.NewReader(body))
	if err != nil {
		x.t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	res, err := client.Do(req)
	if err != nil {
		x.t.Fatal(err)
	}
	defer res.Body.Close()
	reply, err := io.ReadAll(res.Body)
	if err != nil {
		x.t.Fatal(err)
	}
	return res, reply
}

// bearer is the header of a caller with a key from the environment.
func bearer(name string) http.Header {
	return http.Header{"Authorization": {"Bearer " + exampleEnv[name]}}
}

// next is what a stand-in has noted.
func next[T any](t *testing.T, noted <-chan T) T {
	t.Helper()
	select {
	case v := <-noted:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("a stand-in was not asked")
		panic("unreachable")
	}
}

func with(header http.Header, name, value string) http.Header {
	header = header.Clone()
	header.Set(name, value)
	return header
}

// useMedia uploads a picture and downloads it again. Nothing of the caller's own
// reaches WeChat.
func (x *example) useMedia(base string, header http.Header) (mediaID string) {
	x.t.Helper()
	if header == nil {
		header = make(http.Header)
	}
	header = with(header, "Cookie", callersCookie)
	content := picture(x.t, 100_000)
	contentType, body := form(x.t, "a.jpg", content)
	res, reply := x.do("POST", base+callersQuery+"&type=image", with(header, "Content-Type", contentType), body)
	mediaID = uploaded(x.t, res, reply)
	res, got := x.do("GET", base+"/"+mediaID+callersQuery, header, nil)
	if res.StatusCode != 200 || !bytes.Equal(got, content) {
		x.t.Fatalf("got %d and %d bytes", res.StatusCode, len(got))
	}
	for _, s := range x.wechat.requests() {
		if text := s.uri + fmt.Sprint(s.header); strings.Contains(text, "sentinel") || s.header["Authorization"] != nil {
			x.t.Errorf("WeChat got %s", text)
		}
	}
	return mediaID
}

// keepStrangersOut runs the example and makes sure that nobody gets in without the
// key that is in the given variable: with none, with another, with one of otherKeys,
// or with an empty one when the variable is not set.
func (x *example) keepStrangersOut(base, key string, otherKeys ...string) {
	x.t.Helper()
	if key != "" {
		x.setenv(key, "")
		x.run()
		x.checkStrangers(base, otherKeys)
		x.setenv(key, exampleEnv[key])
	}
	x.run()
	x.checkStrangers(base, otherKeys)
}

func (x *example) checkStrangers(base string, otherKeys []string) {
	x.t.Helper()
	before := len(x.wechat.requests())
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	credentials := []string{"none", "", "Bearer", "Bearer ", "Bearer sentinel", "Bearer *", "*"}
	for _, name := range otherKeys {
		credentials = append(credentials, "Bearer "+exampleEnv[name])
	}
	for _, credential := range credentials {
		header := http.Header{"Authorization": {credential}}
		if credential == "none" {
			header = nil
		}
		for _, client := range []*http.Client{x.client(nil), x.client(h2c)} {
			for _, method := range []string{"GET", "POST"} {
				res, _ := x.doWith(client, method, base+"/cgi-bin/media/get?media_id=1&access_token="+callersToken, header, nil)
				if res.StatusCode != 401 {
					x.t.Errorf("%s by a stranger with %q over %s: status %d", method, credential, res.Proto, res.StatusCode)
				}
			}
		}
	}
	x.withholdUpload(base)
	if n := len(x.wechat.requests()) - before; n != 0 {
		x.t.Errorf("%d requests of strangers reached WeChat", n)
	}
}

// withholdUpload is a stranger who announces an upload and sends none. The refusal
// must not wait for it.
func (x *example) withholdUpload(base string) {
	x.t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		x.t.Fatal(err)
	}
	conn, err := net.Dial("tcp", "127.0.0.1:"+x.ports[u.Port()])
	if err != nil {
		x.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "POST %s/ HTTP/1.1\r\nHost: %s\r\nContent-Length: 100000\r\n\r\n", u.Path, u.Host)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		x.t.Errorf("a stranger whose upload does not come gets no answer: %v", err)
	} else if res.StatusCode != 401 {
		x.t.Errorf("a stranger whose upload does not come got status %d", res.StatusCode)
	}
}

// lastQuery is the query of the last request that WeChat got.
func (x *example) lastQuery() url.Values {
	x.t.Helper()
	requests := x.wechat.requests()
	if len(requests) == 0 {
		x.t.Fatal("WeChat got no request")
	}
	return queryOf(x.t, requests[len(requests)-1])
}

func queryOf(t *testing.T, s seen) url.Values {
	t.Helper()
	u, err := url.ParseRequestURI(s.uri)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

// checkLastApp makes sure whose token the last request to WeChat had.
func (x *example) checkLastApp(appID string) {
	x.t.Helper()
	if got := x.lastQuery().Get("access_token"); got == "" || got != x.wechat.CurrentToken(appID) {
		x.t.Errorf("the request was not for app %s", appID)
	}
}

func accessLog() string {
	var lines []string
	for line := range strings.Lines(loggedSoFar()) {
		if strings.Contains(line, `"logger":"http.log.access`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// checkAccessLog makes sure that there is one, which tells of requests and of no
// credentials.
func (x *example) checkAccessLog() {
	x.t.Helper()
	log := accessLog()
	if !strings.Contains(log, "access_token=REDACTED") || !strings.Contains(log, "secret=REDACTED") {
		x.t.Errorf("the access log is\n%s", log)
	}
	for _, name := range []string{`"Authorization"`, `"Cookie"`} {
		if strings.Contains(log, name) {
			x.t.Errorf("%s is in the access log", name)
		}
	}
}

// checkLog makes sure that no secret was logged.
func (x *example) checkLog() {
	x.t.Helper()
	log := loggedSoFar()
	if log == "" {
		x.t.Error("nothing was logged")
	}
	for line := range strings.Lines(log) {
		for _, s := range slices.Concat(x.secrets, x.wechat.IssuedTokens(), []string{testSecret, "sandbox-secret"}) {
			if strings.Contains(line, s) {
				x.t.Fatalf("%q was logged: %s", s, line)
			}
		}
	}
}
