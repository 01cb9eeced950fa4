package wechatmedia

// A gateway in this process for tests: configured by a Caddyfile, logging
// everything at debug level into memory.

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/internal/replay"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

const testSecret = "sentinel-app-secret-0123456789abcdef"

// The platform that the tests run for: WeChat, but while TestOnWeCom runs them.
var (
	testPlatform      = platform.WeChat
	testAppID         = "wx0123456789abcdef"
	otherAppID        = "wx2"
	testSource        = "stable"
	testTokenPath     = "/cgi-bin/stable_token"
	testTokenEndpoint = sandbox.StableToken
)

func init() {
	caddy.RegisterModule(memoryLog{})
	caddy.RegisterModule(eventRecord{})
}

// memoryLog is a log output that tests can read.
type memoryLog struct{}

var memoryLogged struct {
	sync.Mutex
	bytes.Buffer
}

func (memoryLog) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.test_memory", New: func() caddy.Module { return new(memoryLog) }}
}
func (memoryLog) String() string    { return "memory" }
func (memoryLog) WriterKey() string { return "memory" }
func (memoryLog) OpenWriter() (io.WriteCloser, error) {
	return memoryLog{}, nil
}
func (memoryLog) Close() error                                  { return nil }
func (memoryLog) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (memoryLog) Write(p []byte) (int, error) {
	memoryLogged.Lock()
	defer memoryLogged.Unlock()
	return memoryLogged.Write(p)
}

// eventRecord is an event handler that remembers.
type eventRecord struct{}

var recordedEvents struct {
	sync.Mutex
	all []caddy.Event
}

func (eventRecord) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_record", New: func() caddy.Module { return new(eventRecord) }}
}
func (eventRecord) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (eventRecord) Handle(_ context.Context, e caddy.Event) error {
	recordedEvents.Lock()
	defer recordedEvents.Unlock()
	recordedEvents.all = append(recordedEvents.all, e)
	return nil
}

func loggedSoFar() string {
	memoryLogged.Lock()
	defer memoryLogged.Unlock()
	return memoryLogged.String()
}

// gateway is a running Caddy with one site.
type gateway struct {
	t      testing.TB
	URL    string
	scheme string
	port   string

	tls     string // the site's tls directive; none for plain HTTP
	options string // global ones
}

// freePort returns a TCP port of the loopback interface that nobody listens on, another
// one each time, and none that the kernel gives to connections.
func freePort(t testing.TB) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(loopback.FreeAddr(t))
	return port
}

// storageDir is a folder for Caddy's storage. A gateway that has stopped may still be
// writing there.
func storageDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "storage")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !eventually(func() bool { return os.RemoveAll(dir) == nil }) {
			t.Error("the storage's folder cannot be removed")
		}
	})
	return dir
}

// startGateway runs a site with the given directives until the test ends.
func startGateway(t testing.TB, directives string) *gateway {
	t.Helper()
	return runGateway(t, directives, "http", "", "")
}

// startGatewayWith is startGateway with global options.
func startGatewayWith(t testing.TB, options, directives string) *gateway {
	t.Helper()
	return runGateway(t, directives, "http", "", options)
}

// startTLSGateway is startGateway with HTTPS, and so with HTTP/2 and HTTP/3.
func startTLSGateway(t testing.TB, directives string) *gateway {
	t.Helper()
	cert, key := loopback.MakeCert(t, t.TempDir())
	return runGateway(t, directives, "https", "tls "+cert+" "+key, "")
}

func runGateway(t testing.TB, directives, scheme, tls, options string) *gateway {
	t.Helper()
	t.Setenv("TEST_WECHAT_SECRET", testSecret)
	g := &gateway{t: t, scheme: scheme, tls: tls, options: options}
	memoryLogged.Lock()
	memoryLogged.Reset()
	memoryLogged.Unlock()
	g.load(directives)
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return g
}

// load replaces the site's directives, as a reload does, on a port of its own: for a
// moment after a reload the listener before has connections, and answers as before or
// drops them.
func (g *gateway) load(directives string) {
	g.t.Helper()
	g.port = freePort(g.t)
	g.URL = g.scheme + "://127.0.0.1:" + g.port
	if err := g.tryLoad(directives); err != nil {
		g.t.Fatalf("loading: %v", err)
	}
}

// tryLoad replaces the site's directives on the port that it has.
func (g *gateway) tryLoad(directives string) error {
	g.t.Helper()
	out, err := adapt(g.t, fmt.Sprintf(`{
		admin off
		events {
			on wechat_token_refreshed test_record
			on wechat_token_failed test_record
		}
		persist_config off
		auto_https off
		debug
		grace_period 1s
		%s
		log {
			output test_memory
			level DEBUG
		}
	}
	%s://:%s {
		bind 127.0.0.1
		%s
		log {
			output test_memory
			level DEBUG
		}
		%s
	}`, g.options, g.scheme, g.port, g.tls, directives))
	if err != nil {
		return err
	}
	err = caddy.Load(out, true)
	noRedirects.CloseIdleConnections()
	return err
}

// do sends a request, which must get an answer.
func (g *gateway) do(method, target string, header http.Header, body io.Reader) (*http.Response, []byte) {
	g.t.Helper()
	req, err := http.NewRequest(method, g.URL+target, body)
	if err != nil {
		g.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := noRedirects.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return res, b
}

var noRedirects = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       time.Minute,
}

func (g *gateway) get(target string) (*http.Response, []byte) {
	g.t.Helper()
	return g.do("GET", target, nil, nil)
}

// form is a multipart body with one file, as an SDK makes it.
func form(t testing.TB, filename string, content []byte) (contentType string, body []byte) {
	t.Helper()
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	part, err := w.CreateFormFile("media", filename)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := part.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), buf.Bytes()
}

// upload sends a file and returns the answer.
func (g *gateway) upload(target, filename string, content []byte) (*http.Response, []byte) {
	g.t.Helper()
	contentType, body := form(g.t, filename, content)
	return g.do("POST", target, http.Header{"Content-Type": {contentType}}, bytes.NewReader(body))
}

// picture is a file that begins as a JPEG does.
func picture(t testing.TB, size int) []byte {
	b := randomBytes(t, size)
	copy(b, "\xff\xd8\xff\xe0\x00\x10JFIF")
	return b
}

func randomBytes(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// upstream runs a handler in WeChat's place.
func upstream(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// block is a wechat_media directive for the test app with more options.
func block(upstreams string, options ...string) string {
	return "wechat_media " + upstreams + " {\n\t" + appLine(testAppID) + "\n\t" + strings.Join(options, "\n\t") + "\n}"
}

// bare is a reverse_proxy with nothing of the plugin's but the transport, which has
// more options.
func bare(upstream string, options ...string) string {
	return "reverse_proxy " + upstream + " {\ntransport wechat {\n" + appLine(testAppID) + "\n" + strings.Join(options, "\n") + "\n}\n}"
}

// appLine configures an app, with the source of its platform and what else its block has.
func appLine(id string, options ...string) string {
	if testSource != "stable" { // which need not be named
		options = append(options, "token "+testSource)
	}
	line := "app " + id + " {env.TEST_WECHAT_SECRET}"
	if len(options) > 0 {
		line += " {\n" + strings.Join(options, "\n") + "\n}"
	}
	return line
}

// wechat is the sandbox behind a recorder of everything that reaches it.
type wechat struct {
	t   testing.TB
	URL string
	*sandbox.Server

	mu     sync.Mutex
	seen   []seen
	isDown bool
}

// seen is a request as WeChat received it.
type seen struct {
	method, uri, path, host string
	header                  http.Header
	body                    []byte
	contentLength           int64
	transferEncoding        []string
}

// testAccounts are the sandbox's, of the platform that the tests run for.
func testAccounts() sandbox.Options {
	accounts := map[string]string{testAppID: testSecret, otherAppID: testSecret}
	if testPlatform == platform.WeCom {
		return sandbox.Options{Corps: accounts, KeepAlive: true}
	}
	return sandbox.Options{Apps: accounts, KeepAlive: true}
}

// startWechat runs WeChat's stand-in until the test ends.
func startWechat(t testing.TB) *wechat {
	t.Helper()
	w := &wechat{t: t, Server: sandbox.New(testAccounts())}
	w.URL = upstream(t, w).URL
	return w
}

func (w *wechat) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	s := seen{method: r.Method, uri: r.RequestURI, path: r.URL.Path, host: r.Host, header: r.Header.Clone(),
		contentLength: r.ContentLength, transferEncoding: r.TransferEncoding}
	w.mu.Lock()
	down := w.isDown
	i := len(w.seen)
	w.seen = append(w.seen, s)
	w.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	var body bytes.Buffer
	// on a copy: the server looks at the type of the body that it gave, and resets
	// the connection of an answer that came early if it does not know it
	r = r.WithContext(r.Context())
	r.Body = io.NopCloser(io.TeeReader(r.Body, &body))
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if i < len(w.seen) {
			w.seen[i].body = body.Bytes()
		}
	}()
	w.Server.ServeHTTP(rw, r)
}

func (w *wechat) revoke() {
	w.RevokeTokens(testAppID)
	w.RevokeTokens(otherAppID)
}
func (w *wechat) currentToken() string { return w.CurrentToken(testAppID) }

// requests are those to anything but the token endpoint.
func (w *wechat) requests() []seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []seen
	for _, s := range w.seen {
		if s.path != testTokenPath {
			out = append(out, s)
		}
	}
	return out
}

// only returns the one request that went to a path.
func (w *wechat) only(t testing.TB, path string) seen {
	t.Helper()
	var found []seen
	for _, s := range w.requests() {
		if s.path == path {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d requests went to %s", len(found), path)
	}
	return found[0]
}

func (w *wechat) count(path string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen {
		if s.path == path {
			n++
		}
	}
	return n
}

func (w *wechat) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = nil
}

// waitUntilNothingIsKept waits for http.Transport to let go of upload bodies, which
// it may do after the answer.
func waitUntilNothingIsKept(t testing.TB) {
	t.Helper()
	if !eventually(func() bool { return replay.InUse() == 0 }) {
		t.Fatalf("%d bytes are kept", replay.InUse())
	}
}

// waitForToken waits until the test app has its token.
func waitForToken(t testing.TB) {
	t.Helper()
	if !eventually(func() bool { all := managersOf(testAppID); return len(all) == 1 && all[0].Status().HasToken }) {
		t.Fatal("no token came")
	}
}

// eventually reports whether a condition holds within ten seconds.
func eventually(holds func() bool) bool {
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// down makes WeChat drop every connection.
func (w *wechat) down(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isDown = down
}
