package caddysandbox

// The directive in a Caddy that runs: what it logs, and which connections it closes.

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// run runs a Caddyfile until the test ends, and returns the address. In it PORT stands
// for a port that is free, and LOG for the file that all is logged in, which it returns
// too.
func run(t *testing.T, config string) (address, log string) {
	t.Helper()
	address = loopback.FreeAddr(t)
	_, port, _ := net.SplitHostPort(address)
	log = filepath.Join(t.TempDir(), "log")
	config = "{\nadmin off\npersist_config off\ndebug\nlog {\noutput file LOG\n}\n}\n" + config
	config = strings.NewReplacer("PORT", port, "LOG", log).Replace(config)
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	out, _, err := adapter.Adapt([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(out, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return address, log
}

// line is one of the access log.
type line struct {
	Logger  string
	Msg     string
	Status  int
	Size    int
	Request struct {
		Method, URI, Host string
		RemoteIP          string `json:"remote_ip"`
		Headers           http.Header
	}
}

// logLines returns all that was logged, and the lines of access logs in it.
func logLines(t *testing.T, file string) (all string, access []line) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all = string(b)
	for text := range strings.Lines(all) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if strings.HasPrefix(l.Logger, "http.log.access") {
			access = append(access, l)
		}
	}
	return all, access
}

// The log directive works in the sandbox's site, and no secret is in what it writes.
func TestAccessLog(t *testing.T) {
	t.Setenv("SANDBOX_SECRET_1", "sentinel-secret-1")
	t.Setenv("SANDBOX_SECRET_2", "sentinel-secret-2")
	const place = "wechat_sandbox {\napp wx1 {env.SANDBOX_SECRET_1}\ncorp ww1 {env.SANDBOX_SECRET_2}\n}\n"
	address, log := run(t, "http://127.0.0.1:PORT {\nlog {\noutput file LOG\n}\n@quiet path /cgi-bin/quiet\nlog_skip @quiet\n"+place+"}\n"+
		"http://127.0.0.3:PORT {\nlog own {\noutput file LOG\n}\nlog_name a b\n"+place+"}\n")
	ask := func(host, method, target string) string {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+address+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		req.Header.Set("Referer", "https://example.com/?access_token=sentinel-referer")
		req.Header.Set("Authorization", "Bearer sentinel-bearer")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	_, port, _ := net.SplitHostPort(address)
	var token struct {
		AccessToken string `json:"access_token"`
	}
	body := ask("127.0.0.1:"+port, "GET", "/cgi-bin/token?grant_type=client_credential&appid=wx1&secret=sentinel-secret-1")
	if err := json.Unmarshal([]byte(body), &token); err != nil || token.AccessToken == "" {
		t.Fatalf("%v: %s", err, body)
	}
	want := []string{"/cgi-bin/token?grant_type=client_credential&appid=wx1&secret=REDACTED"}
	for target, uri := range map[string]string{
		"/cgi-bin/media/get?media_id=m-1&access_token=" + token.AccessToken: "/cgi-bin/media/get?media_id=m-1&access_token=REDACTED",
		"/cgi-bin/gettoken?corpid=ww1&corpsecret=sentinel-secret-2":         "/cgi-bin/gettoken?corpid=ww1&corpsecret=REDACTED",
		"/cgi-bin/media/get?Access_Token=" + token.AccessToken:              "/cgi-bin/media/get?REDACTED",
		"/cgi-bin/media/get?" + token.AccessToken:                           "/cgi-bin/media/get?REDACTED",
		"/cgi-bin/media/get?media_id=m;access_token=" + token.AccessToken:   "/cgi-bin/media/get?media_id=REDACTED",
		"/cgi-bin/media/get?media_id=m%3B" + token.AccessToken:              "/cgi-bin/media/get?media_id=REDACTED",
		"/cgi-bin/media/get&access_token=" + token.AccessToken:              "/cgi-bin/media/getREDACTED",
		"/sandbox/busy?endpoint=jssdk&times=1":                              "/sandbox/busy?endpoint=jssdk&times=1",
		"/sandbox/expire?appid=ww1/1000001":                                 "/sandbox/expire?appid=ww1/1000001",
	} {
		ask("127.0.0.1:"+port, "GET", target)
		want = append(want, uri)
	}
	_, access := logLines(t, log)
	if len(access) != len(want) {
		t.Errorf("%d lines, want %d", len(access), len(want))
	}
	for i, l := range access {
		if i < len(want) && l.Request.URI != want[i] {
			t.Errorf("line %d is of %s, want %s", i, l.Request.URI, want[i])
		}
		if l.Logger != "http.log.access.log0" || l.Msg != "handled request" || l.Status == 0 || l.Request.Method != "GET" || l.Request.RemoteIP != "127.0.0.1" {
			t.Errorf("line %+v", l)
		}
	}
	if access[0].Status != 200 || access[0].Size != len(body) {
		t.Errorf("status %d, size %d", access[0].Status, access[0].Size)
	}

	ask("127.0.0.1:"+port, "GET", "/cgi-bin/quiet")
	ask("127.0.0.3:"+port, "GET", "/cgi-bin/media/get?access_token="+token.AccessToken)
	all, access := logLines(t, log)
	var named []string
	for _, l := range access[len(want):] {
		named = append(named, l.Logger)
	}
	if fmt.Sprint(named) != "[http.log.access.a http.log.access.b]" {
		t.Errorf("sites with log_skip and with log_name: %v", named)
	}
	for _, secret := range []string{"sentinel", token.AccessToken} {
		if strings.Contains(all, secret) {
			t.Errorf("%s is in the log:\n%s", secret, all)
		}
	}
}

// Where a line goes is what Caddy's server would do.
func TestWhichAccessLog(t *testing.T) {
	for name, tc := range map[string]struct {
		logs *caddyhttp.ServerLogConfig
		own  any
		want string
	}{
		"no log":             {nil, nil, "none"},
		"the default":        {&caddyhttp.ServerLogConfig{}, nil, "[]"},
		"a default's name":   {&caddyhttp.ServerLogConfig{DefaultLoggerName: "all"}, nil, "[all]"},
		"the host's":         {&caddyhttp.ServerLogConfig{LoggerNames: map[string]caddyhttp.StringArray{"wechat.example": {"a", "b"}, "*.example": {"c"}}}, nil, "[a b]"},
		"a wildcard's":       {&caddyhttp.ServerLogConfig{LoggerNames: map[string]caddyhttp.StringArray{"*.example": {"c"}}}, nil, "[c]"},
		"the host's, none":   {&caddyhttp.ServerLogConfig{LoggerNames: map[string]caddyhttp.StringArray{"wechat.example": {}}}, nil, "none"},
		"another host's":     {&caddyhttp.ServerLogConfig{LoggerNames: map[string]caddyhttp.StringArray{"other.example": {"a"}}, SkipUnmappedHosts: true}, nil, "none"},
		"a host without":     {&caddyhttp.ServerLogConfig{SkipHosts: []string{"*.example"}}, nil, "none"},
		"another without":    {&caddyhttp.ServerLogConfig{SkipHosts: []string{"other.example"}}, nil, "[]"},
		"the request's own":  {&caddyhttp.ServerLogConfig{DefaultLoggerName: "all"}, []any{"x", "y"}, "[x y]"},
		"the default by its": {&caddyhttp.ServerLogConfig{DefaultLoggerName: "all"}, []any{""}, "[]"},
	} {
		core, observed := observer.New(zap.InfoLevel)
		h := &Handler{server: sandbox.New(sandbox.Options{}), accessLog: zap.New(core)}
		ctx := context.WithValue(t.Context(), caddyhttp.VarsCtxKey, make(map[string]any))
		ctx = context.WithValue(ctx, caddyhttp.ServerCtxKey, &caddyhttp.Server{Logs: tc.logs})
		r := httptest.NewRequest("GET", "/cgi-bin/media/get", nil).WithContext(ctx)
		r.Host = "WeChat.example:8081"
		if tc.own != nil {
			caddyhttp.SetVar(ctx, caddyhttp.AccessLoggerNameVarKey, tc.own)
		}
		h.serveLogged(httptest.NewRecorder(), r)
		var names []string
		for _, entry := range observed.All() {
			names = append(names, entry.LoggerName)
		}
		got := fmt.Sprint(names)
		if len(names) == 0 {
			got = "none"
		}
		if want := tc.want; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if skip, _ := caddyhttp.GetVar(ctx, caddyhttp.LogSkipVar).(bool); !skip {
			t.Errorf("%s: Caddy's own line is not left out", name)
		}
	}
}

// A download that the sandbox cuts is in the log, too.
func TestAccessLogOfACutDownload(t *testing.T) {
	address, log := run(t, "http://127.0.0.1:PORT {\nlog\nwechat_sandbox {\napp wx1 s\n}\n}\n")
	res, err := http.Post("http://"+address+"/sandbox/cut?endpoint=token&after=0", "", nil)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	res.Body.Close()
	_, before := logLines(t, log)
	res, err = http.Post("http://"+address+"/sandbox/cut?endpoint=upload&after=1", "", nil)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	res.Body.Close()
	if res, err := http.Post("http://"+address+"/cgi-bin/media/upload?type=image", "text/plain", strings.NewReader(strings.Repeat("x", 1<<20))); err == nil {
		t.Errorf("status %d", res.StatusCode)
		res.Body.Close()
	}
	if _, after := logLines(t, log); len(after) != len(before)+2 {
		t.Errorf("%d lines, then %d", len(before), len(after))
	}
}

// raw is a connection on which requests are written by hand.
type raw struct {
	t *testing.T
	net.Conn
	*bufio.Reader
}

func dial(t *testing.T, address string) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &raw{t, conn, bufio.NewReader(conn)}
}

func (c *raw) get(host, path string) int {
	c.t.Helper()
	fmt.Fprintf(c.Conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
	res, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		c.t.Fatal(err)
	}
	return res.StatusCode
}

// Connections that served the sandbox are closed when they have been idle; those of
// another site at the same address are not.
func TestIdleConnectionsAreClosed(t *testing.T) {
	address, _ := run(t, "http://127.0.0.1:PORT {\nwechat_sandbox {\napp wx1 s\nidle_timeout 100ms\n}\n}\nhttp://127.0.0.2:PORT {\nrespond ok\n}\n")
	other, ours := dial(t, address), dial(t, address)
	other.get("127.0.0.2", "/")
	start := time.Now()
	ours.get("127.0.0.1", "/cgi-bin/token")
	if b, err := ours.Reader.ReadByte(); err != io.EOF {
		t.Errorf("read %d, %v", b, err)
	}
	if took := time.Since(start); took < 100*time.Millisecond {
		t.Errorf("closed after %s", took)
	}
	if status := other.get("127.0.0.2", "/"); status != 200 {
		t.Errorf("status %d", status)
	}
}

type pretendedConn struct {
	net.Conn
	closed atomic.Bool
}

func (c *pretendedConn) Close() error { c.closed.Store(true); return nil }

// Twenty seconds, and anew after each request.
func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closer := &idleCloser{limit: sandbox.IdleTimeout}
		conn := new(pretendedConn)
		ctx := closer.context(t.Context(), conn)
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		after := func(d time.Duration, want bool) {
			t.Helper()
			pass(d)
			if got := conn.closed.Load(); got != want {
				t.Errorf("closed: %t", got)
			}
		}
		closer.state(conn, http.StateActive)
		closer.state(conn, http.StateIdle)
		after(time.Hour, false) // it has not served the sandbox
		closer.state(conn, http.StateActive)
		r, _ := http.NewRequestWithContext(ctx, "GET", "/", nil)
		closer.serves(r)
		after(time.Hour, false) // it is at work
		closer.state(conn, http.StateIdle)
		after(19*time.Second, false)
		closer.state(conn, http.StateActive)
		closer.state(conn, http.StateIdle)
		after(20*time.Second-1, false)
		after(1, true)
		closer.state(conn, http.StateClosed)
		closer.conns.Range(func(any, any) bool {
			t.Error("a closed connection is remembered")
			return false
		})
		gone := new(pretendedConn)
		closer.context(t.Context(), gone)
		closer.state(gone, http.StateClosed)
		closer.state(gone, http.StateIdle)
		if pass(time.Hour); gone.closed.Load() {
			t.Error("closed once more")
		}
	})
}
