package wechatmedia

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
)

// uploaded returns the media_id of an upload's answer.
func uploaded(t testing.TB, res *http.Response, body []byte) string {
	t.Helper()
	var reply struct {
		Type    string `json:"type"`
		MediaID string `json:"media_id"`
		Errcode int    `json:"errcode"`
	}
	if err := json.Unmarshal(body, &reply); err != nil || res.StatusCode != 200 || reply.MediaID == "" {
		t.Fatalf("upload answered %d %s", res.StatusCode, body)
	}
	return reply.MediaID
}

func TestUploadAndDownload(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	for _, size := range []int{max(3, int(testPlatform.SmallestMedia)), 16<<10 - 1, 16 << 10, 16<<10 + 1, 339_721, 1 << 20, 10 << 20} {
		content := picture(t, size)
		contentType, body := form(t, "photo.jpg", content)
		for _, target := range []string{"/media", "/media?type=image", "/cgi-bin/media/upload?access_token=mine&type=image"} {
			w.reset()
			res, reply := g.do("POST", target, http.Header{"Content-Type": {contentType}}, bytes.NewReader(body))
			id := uploaded(t, res, reply)

			got := w.only(t, "/cgi-bin/media/upload")
			if !bytes.Equal(got.body, body) || got.contentLength != int64(len(body)) || got.transferEncoding != nil {
				t.Fatalf("%d bytes became %d, Content-Length %d, %v", len(body), len(got.body), got.contentLength, got.transferEncoding)
			}
			if ct := got.header.Get("Content-Type"); ct != contentType {
				t.Errorf("Content-Type %q became %q", contentType, ct)
			}

			for _, target := range []string{"/media/" + id, "/cgi-bin/media/get?media_id=" + id} {
				res, back := g.get(target)
				checkMedia(t, res, id, "photo.jpg", size)
				if !bytes.Equal(back, content) {
					t.Fatalf("GET %s: the bytes differ", target)
				}
				res, none := g.do("HEAD", target, nil, nil)
				checkMedia(t, res, id, "photo.jpg", size)
				if len(none) != 0 {
					t.Errorf("HEAD %s has a body", target)
				}
			}
			res, back := g.do("POST", "/cgi-bin/media/get?media_id="+id, nil, strings.NewReader("x=y"))
			checkMedia(t, res, id, "photo.jpg", size)
			if !bytes.Equal(back, content) {
				t.Fatal("POST media/get: the bytes differ")
			}
		}
	}
}

// checkMedia holds a download's headers against those that WeChat documents, or WeCom,
// which names a file as it was uploaded.
func checkMedia(t testing.TB, res *http.Response, id, filename string, size int) {
	t.Helper()
	disposition := `attachment; filename="` + id + `.jpg"`
	if testPlatform == platform.WeCom {
		disposition = `attachment; filename*=utf-8''` + filename + `; filename="` + filename + `"`
	}
	for name, want := range map[string]string{
		"Content-Type":        "image/jpeg",
		"Content-Disposition": disposition,
		"Content-Length":      strconv.Itoa(size),
		"Cache-Control":       "no-cache, must-revalidate",
	} {
		if got := res.Header.Get(name); res.StatusCode != 200 || got != want {
			t.Errorf("status %d, %s: %q, want %q", res.StatusCode, name, got, want)
		}
	}
	if len(res.Header["Date"]) != 1 {
		t.Errorf("Date: %q", res.Header["Date"])
	}
}

func TestUploadOfUnknownLength(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	content := picture(t, 300_000)
	contentType, body := form(t, "photo.jpg", content)
	res, reply := g.do("POST", "/media", http.Header{"Content-Type": {contentType}}, io.MultiReader(bytes.NewReader(body)))
	id := uploaded(t, res, reply)
	got := w.only(t, "/cgi-bin/media/upload")
	if !bytes.Equal(got.body, body) || got.contentLength != int64(len(body)) || got.transferEncoding != nil {
		t.Errorf("%d bytes became %d, Content-Length %d, %v", len(body), len(got.body), got.contentLength, got.transferEncoding)
	}
	if _, back := g.get("/media/" + id); !bytes.Equal(back, content) {
		t.Error("the bytes differ")
	}
}

func TestHeadersForWechat(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, `header_up X-Operator "{http.wechat_media.app_id}"`, `header_up Via operators-own`))
	sent := http.Header{
		"Accept": {"*/*"}, "User-Agent": {"sdk/1.0"}, "Range": {"bytes=0-"}, "If-None-Match": {`"x"`},
		"Cookie": {"session=1"}, "Authorization": {"Bearer 1"}, "Proxy-Authorization": {"Basic 1"}, "X-Forwarded-For": {"192.0.2.1"},
		"X-Real-Ip": {"192.0.2.1"}, "Forwarded": {"for=192.0.2.1"}, "Referer": {"https://example.com/?token=1"}, "Origin": {"https://example.com"},
		"X-Anything": {"1"}, "Accept-Encoding": {"gzip"}, "Te": {"trailers"}, "Upgrade": {"h2c"}, "Connection": {"x-anything, Upgrade"},
		"X-Wx-Openid": {"o"}, "Content-Type": {"text/plain"},
	}
	g.do("GET", "/media/abc", sent, nil)
	got := w.only(t, "/cgi-bin/media/get")
	want := []string{"Accept", "If-None-Match", "Range", "User-Agent", "Via", "X-Operator"}
	var names []string
	for name := range got.header {
		names = append(names, name)
	}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("a download carries %q, want %q", names, want)
	}
	if got.header.Get("X-Operator") != testAppID || got.header.Get("Via") != "operators-own" {
		t.Errorf("header_up: %q, %q", got.header.Get("X-Operator"), got.header.Get("Via"))
	}
	if got.host != strings.TrimPrefix(w.URL, "http://") {
		t.Errorf("Host %q", got.host)
	}

	w.reset()
	contentType, body := form(t, "a.jpg", picture(t, 10))
	sent.Set("Content-Type", contentType)
	g.do("POST", "/media", sent, bytes.NewReader(body))
	names = nil
	for name := range w.only(t, "/cgi-bin/media/upload").header {
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"Accept", "Content-Length", "Content-Type", "User-Agent", "Via", "X-Operator"}; !slices.Equal(names, want) {
		t.Errorf("an upload carries %q, want %q", names, want)
	}
}

// Raw request lines, as a hostile client sends them, at a gateway that serves
// every path.
func TestNothingElseReachesWechat(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	g.get("/media/warm-up")
	reached := 0
	for _, target := range hostileTargets {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
			w.reset()
			conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 5\r\n\r\n--b--", method, target)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("%s %q: no answer: %v", method, target, err)
			} else {
				res.Body.Close()
			}
			conn.Close()
			for _, r := range w.requests() {
				checkUpstreamTarget(t, r.method, r.uri, map[string]string{"access_token": w.currentToken()})
				reached++
			}
		}
	}
	if reached == 0 {
		t.Error("not even the honest ones reached WeChat")
	}
}

func TestRefusals(t *testing.T) {
	w := startWechat(t)
	contentType, small := form(t, "a.jpg", picture(t, 10))
	multi := http.Header{"Content-Type": {contentType}}
	_, large := form(t, "a.jpg", picture(t, 300_000))
	of := func(b []byte) func() io.Reader { return func() io.Reader { return bytes.NewReader(b) } }
	chunked := func() io.Reader { return io.MultiReader(bytes.NewReader(large)) }
	options := []string{"types image voice", "max_upload_size image 200KB", appLine(otherAppID), "app_selector {query.appid}"}
	cases := []struct {
		name, method, target string
		header               http.Header
		body                 func() io.Reader
		status, errcode      int
		want                 map[string]string
	}{
		{name: "malformed media_id", method: "GET", target: "/media/a.b", status: 400, errcode: 40007},
		{name: "missing media_id", method: "GET", target: "/cgi-bin/media/get", status: 400, errcode: 40007},
		{name: "malformed, HEAD", method: "HEAD", target: "/media/a.b", status: 400},
		{name: "type not allowed", method: "POST", target: "/media?type=video", header: multi, body: of(small), status: 400, errcode: 40004},
		{name: "not multipart", method: "POST", target: "/media", header: http.Header{"Content-Type": {"image/jpeg"}}, body: of([]byte("x")), status: 400, errcode: 41005},
		{name: "no boundary", method: "POST", target: "/media", header: http.Header{"Content-Type": {"multipart/form-data"}}, body: of([]byte("x")), status: 400, errcode: 41005},
		{name: "empty", method: "POST", target: "/media", header: multi, status: 400, errcode: 41005},
		{name: "too large", method: "POST", target: "/media", header: multi, body: of(large), status: 413, errcode: 45001},
		{name: "too large, chunked", method: "POST", target: "/media", header: multi, body: chunked, status: 413, errcode: 45001},
		{name: "unknown app", method: "GET", target: "/media/abc?appid=wx3", status: 400, errcode: 40013},
		{name: "wrong method", method: "DELETE", target: "/media/abc", status: 405, errcode: 43001, want: map[string]string{"Allow": "GET, HEAD, POST"}},
		{name: "GET on upload", method: "GET", target: "/cgi-bin/media/upload", status: 405, errcode: 43002, want: map[string]string{"Allow": "POST"}},
		{name: "no such endpoint", method: "GET", target: "/cgi-bin/user/info", status: 404, errcode: 40066},
		{name: "tokens", method: "GET", target: testPlatform.TokenPath + "?appid=x&secret=y", status: 404, errcode: 40066},
	}

	open := func(body func() io.Reader) io.Reader {
		if body == nil {
			return nil
		}
		return body()
	}

	g := startGateway(t, block(w.URL, options...))
	g.get("/media/warm-up")
	w.reset()
	for _, tc := range cases {
		res, body := g.do(tc.method, tc.target, tc.header, open(tc.body))
		var reply struct {
			Errcode int
			Errmsg  string
		}
		if tc.method != "HEAD" {
			if err := json.Unmarshal(body, &reply); err != nil || reply.Errmsg == "" {
				t.Errorf("%s: %v: %s", tc.name, err, body)
			}
		}
		if res.StatusCode != tc.status || reply.Errcode != tc.errcode {
			t.Errorf("%s: status %d, %s; want %d, %d", tc.name, res.StatusCode, body, tc.status, tc.errcode)
		}
		if got := res.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control %q", tc.name, got)
		}
		for name, want := range tc.want {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s: %s: %q", tc.name, name, got)
			}
		}
	}

	// the same as errors of Caddy's kind
	g.load(block(w.URL, append(options, "errors caddy")...) + `
		handle_errors {
			respond "handled {err.status_code} {http.wechat_media.errcode}" {err.status_code}
		}`)
	for _, tc := range cases {
		res, body := g.do(tc.method, tc.target, tc.header, open(tc.body))
		want := fmt.Sprintf("handled %d %d", tc.status, tc.errcode)
		if tc.method == "HEAD" {
			want = ""
		}
		if res.StatusCode != tc.status || string(body) != want {
			t.Errorf("errors caddy, %s: %d %q, want %q", tc.name, res.StatusCode, body, want)
		}
		for name, want := range tc.want {
			if got := res.Header.Get(name); got != want {
				t.Errorf("errors caddy, %s: %s: %q", tc.name, name, got)
			}
		}
	}
	if got := w.requests(); len(got) != 0 {
		t.Errorf("%d refused requests reached WeChat", len(got))
	}
}

func TestNoTokenToBeHad(t *testing.T) {
	answer := `{"errcode":40164,"errmsg":"invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: 1-2-3"}`
	if testPlatform == platform.WeCom {
		answer = `{"errcode":60020,"errmsg":"not allow to access from your ip, hint: [1-2], from ip: 203.0.113.9, more info at https://example.com"}`
	}
	var media, tokens int
	var mu sync.Mutex
	up := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasSuffix(r.URL.Path, "token") {
			tokens++
			io.WriteString(rw, answer)
			return
		}
		media++
	}))
	g := startGateway(t, block(up.URL))
	for i := range 20 {
		method, body := "GET", io.Reader(nil)
		if i%2 == 1 {
			method, body = "POST", strings.NewReader("--b--")
		}
		res, reply := g.do(method, "/media/abc", http.Header{"Content-Type": {"multipart/form-data; boundary=b"}}, body)
		after, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		if res.StatusCode != 503 || after < 1 || !strings.Contains(string(reply), `"errcode":-1`) || strings.Contains(string(reply), "203.0.113.9") {
			t.Fatalf("%d, Retry-After %d: %s", res.StatusCode, after, reply)
		}
	}
	mu.Lock()
	if media != 0 || tokens != 1 {
		t.Errorf("%d media calls, %d token calls", media, tokens)
	}
	mu.Unlock()
	if !strings.Contains(loggedSoFar(), "203.0.113.9") {
		t.Error("the log does not tell the address to put on the whitelist")
	}

	g.load(block(up.URL, "errors caddy") + "\nhandle_errors {\nrespond \"handled {err.status_code}\" {err.status_code}\n}")
	res, reply := g.get("/media/abc")
	if res.StatusCode != 503 || string(reply) != "handled 503" || res.Header.Get("Retry-After") == "" {
		t.Errorf("errors caddy: %d %q, Retry-After %q", res.StatusCode, reply, res.Header.Get("Retry-After"))
	}
}

func TestWechatUnreachable(t *testing.T) {
	w := startWechat(t)
	// the token comes from a host that lives, the media from one that does not
	dead := "http://127.0.0.1:" + freePort(t)
	directive := func(upstream string, options ...string) string {
		return "wechat_media " + upstream + " {\napp " + testAppID + " {\ntoken file " + tokenFile(t, w) + "\n}\n" + strings.Join(options, "\n") + "\n}"
	}
	g := startGateway(t, directive(dead))
	res, reply := g.get("/media/abc")
	if res.StatusCode != 502 || !strings.Contains(string(reply), `"errcode":-1`) || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("refused: %d %s", res.StatusCode, reply)
	}

	hang := make(chan struct{})
	up := upstream(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer close(hang)
	g.load(directive(up.URL, "transport wechat {\ndial_timeout 500ms\nresponse_header_timeout 100ms\n}"))
	if res, reply = g.get("/media/abc"); res.StatusCode != 504 {
		t.Errorf("hanging: %d %s", res.StatusCode, reply)
	}
	g.load(directive(up.URL, "transport wechat {\nwrite_timeout 100ms\nresponse_header_timeout -1s\n}"))
	contentType, body := form(t, "a.jpg", picture(t, 8<<20))
	if res, reply = g.do("POST", "/media", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body)); res.StatusCode != 504 {
		t.Errorf("an upload that WeChat does not take: %d %s", res.StatusCode, reply)
	}
}

func TestFailover(t *testing.T) {
	w := startWechat(t)
	dead := "http://127.0.0.1:" + freePort(t)
	broken := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "token") {
			w.ServeHTTP(rw, r)
			return
		}
		rw.WriteHeader(http.StatusBadGateway)
	}))
	for _, first := range []string{dead, broken.URL} {
		g := startGateway(t, block(first+" "+w.URL))
		content := picture(t, 100_000)
		var id string
		if first == dead { // a 502 does not say that nothing was stored
			res, reply := g.upload("/media", "a.jpg", content)
			id = uploaded(t, res, reply)
		} else {
			direct := startGatewayUpload(t, w, content)
			id = direct
		}
		for range 5 {
			if res, back := g.get("/media/" + id); res.StatusCode != 200 || !bytes.Equal(back, content) {
				t.Fatalf("first upstream %s: %d %s", first, res.StatusCode, back[:min(100, len(back))])
			}
			if res, _ := g.do("HEAD", "/media/"+id, nil, nil); res.StatusCode != 200 {
				t.Fatalf("first upstream %s: HEAD %d", first, res.StatusCode)
			}
		}
	}
}

// startGatewayUpload stores media without the gateway under test.
func startGatewayUpload(t testing.TB, w *wechat, content []byte) string {
	t.Helper()
	contentType, body := form(t, "a.jpg", content)
	res, err := http.Post(w.URL+"/cgi-bin/media/upload?type=image&access_token="+w.currentToken(), contentType, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	reply, _ := io.ReadAll(res.Body)
	return uploaded(t, res, reply)
}

// 50 callers at a cold start cost one token, 50 more with a revoked one another.
func TestStorms(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	content := picture(t, 50_000)
	res, reply := g.upload("/media", "a.jpg", content)
	id := uploaded(t, res, reply)

	storm := func() {
		t.Helper()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				res, back := g.get("/media/" + id)
				if res.StatusCode != 200 || !bytes.Equal(back, content) {
					t.Errorf("status %d, %d bytes", res.StatusCode, len(back))
				}
			})
		}
		wg.Wait()
	}

	// another process's gateway has no token yet; in this one a reload keeps it
	g.load("respond gone")
	w.reset()
	g.load(block(w.URL))
	storm()
	if got := w.count(testTokenPath); got != 1 {
		t.Errorf("a cold start cost %d tokens", got)
	}
	w.revoke()
	storm()
	if got := w.count(testTokenPath); got != 2 {
		t.Errorf("a revoked token cost %d more", got-1)
	}
}

func TestTokenSurvivesReloads(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	g.get("/media/abc")
	for i := range 3 {
		g.load(block(w.URL, fmt.Sprintf("header_up X-Reload %d", i)))
		g.get("/media/abc")
		if err := g.tryLoad(block(w.URL, "types nonsense")); err == nil {
			t.Error("nonsense was loaded")
		}
		if err := g.tryLoad(block(w.URL, strings.Replace(appLine(otherAppID), "TEST_WECHAT_SECRET", "NO_SUCH_VARIABLE", 1))); err == nil {
			t.Error("a config without its secret was loaded")
		}
		g.get("/media/abc")
	}
	if got := w.count(testTokenPath); got != 1 {
		t.Errorf("%d token calls", got)
	}
	g.load("respond gone")
	n := 0
	tokenManagers.Range(func(_, _ any) bool { n++; return true })
	if n != 0 {
		t.Errorf("%d token managers are left without a site", n)
	}
}

// A reload with another secret, and be it a wrong one, keeps the token.
func TestTokenSurvivesAnotherSecret(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	g.get("/media/abc")
	t.Setenv("TEST_WRONG_SECRET", "0123456789abcdef0123456789abcdef")
	g.load(strings.Replace(block(w.URL), "TEST_WECHAT_SECRET", "TEST_WRONG_SECRET", 1))
	if res, body := g.get("/media/abc"); res.StatusCode == http.StatusServiceUnavailable || w.count(testTokenPath) != 1 {
		t.Errorf("status %d, %s, after %d token calls", res.StatusCode, body, w.count(testTokenPath))
	}
}

func TestRejectedUploadIsReplayed(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	g.get("/media/warm-up")
	w.revoke()
	content := picture(t, 3<<20)
	res, reply := g.upload("/media", "a.jpg", content)
	id := uploaded(t, res, reply)
	if got := w.count("/cgi-bin/media/upload"); got != 2 {
		t.Errorf("%d uploads reached WeChat", got)
	}
	if _, back := g.get("/media/" + id); !bytes.Equal(back, content) {
		t.Error("the bytes differ")
	}
}

// Beyond the budget WeChat's answer is passed on, and the next upload works.
func TestRejectedUploadBeyondTheBudget(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "replay_buffer 64KiB"))
	g.get("/media/warm-up")
	w.revoke()
	res, reply := g.upload("/media", "a.jpg", picture(t, 1<<20))
	if res.StatusCode != 200 || !strings.Contains(string(reply), `"errcode":400`) { // WeChat: 40001, WeCom: 40014
		t.Errorf("%d %s", res.StatusCode, reply)
	}
	res, reply = g.upload("/media", "a.jpg", picture(t, 1<<20))
	uploaded(t, res, reply)

	contentType, body := form(t, "a.jpg", picture(t, 1<<20))
	res, reply = g.do("POST", "/media", http.Header{"Content-Type": {contentType}}, io.MultiReader(bytes.NewReader(body)))
	if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("gathering beyond the budget: %d %s", res.StatusCode, reply)
	}
}

func TestRejectedTokenOfHEAD(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	content := picture(t, 1000)
	res, reply := g.upload("/media", "a.jpg", content)
	id := uploaded(t, res, reply)
	w.revoke()
	res, _ = g.do("HEAD", "/media/"+id, nil, nil)
	checkMedia(t, res, id, "a.jpg", len(content))
}

// WeChat that rejects every token must not be asked for ever.
func TestRejectionHasAnEnd(t *testing.T) {
	var mu sync.Mutex
	count := map[string]int{}
	up := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		count[r.URL.Path]++
		rw.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "token") {
			fmt.Fprintf(rw, `{"access_token":"%064d","expires_in":7200}`, count[r.URL.Path])
			return
		}
		io.WriteString(rw, `{"errcode":40001,"errmsg":"invalid credential rid: 1-2-3"}`)
	}))
	g := startGateway(t, block(up.URL))
	res, reply := g.get("/media/abc")
	if res.StatusCode != 200 || string(reply) != `{"errcode":40001,"errmsg":"invalid credential rid: 1-2-3"}` {
		t.Errorf("%d %s", res.StatusCode, reply)
	}
	mu.Lock()
	defer mu.Unlock()
	if count["/cgi-bin/media/get"] > 3 {
		t.Errorf("%d downloads for one", count["/cgi-bin/media/get"])
	}
}

func TestAppSelector(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, appLine(otherAppID), "app_selector {header.X-Wechat-Appid}"))
	for _, id := range []string{"", testAppID, otherAppID} {
		contentType, body := form(t, "a.jpg", picture(t, 100))
		header := http.Header{"Content-Type": {contentType}, "X-Wechat-Appid": {id}}
		res, reply := g.do("POST", "/media", header, bytes.NewReader(body))
		media := uploaded(t, res, reply)
		for _, other := range []string{"", testAppID, otherAppID} {
			res, _ := g.do("GET", "/media/"+media, http.Header{"X-Wechat-Appid": {other}}, nil)
			same := (other == otherAppID) == (id == otherAppID)
			if isMedia := res.Header.Get("Content-Disposition") != ""; isMedia != same {
				t.Errorf("uploaded for %q, downloaded for %q: %v", id, other, isMedia)
			}
		}
	}

	// a placeholder that does not exist must not mean the first app
	g.load(block(w.URL, appLine(otherAppID), "app_selector {headers.X-Wechat-Appid}"))
	if res, body := g.get("/media/abc"); res.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "40013") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// What is valid and hardly meant is in the log, and why a token cannot be fetched.
func TestWarnings(t *testing.T) {
	writtenOut := strings.Replace(appLine(otherAppID), "{env.TEST_WECHAT_SECRET}", "written-out", 1)
	g := startGateway(t, block("http://127.0.0.1:1", writtenOut))
	if strings.Contains(loggedSoFar(), "app_secret") {
		t.Error("a warning of a secret for a sandbox on this machine")
	}
	if res, _ := g.get("/media/abc"); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d", res.StatusCode)
	}
	host, _, _ := net.SplitHostPort(testPlatform.Hosts[0])
	if err := g.tryLoad("wechat_media " + host + " {\napp " + testAppID + " {\ntoken file /no/such/file\n}\n}"); err != nil {
		t.Error(err)
	}
	if err := g.tryLoad("wechat_media https://wechat.example {\napp " + testAppID + " written-out {\ntoken server http://127.0.0.1:1/t\n}\n}"); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"only the first of several apps can be used", "app_secret is written out",
		"connect: connection refused", "secrets and tokens go to " + testPlatform.Name + " in the clear"} {
		if !strings.Contains(loggedSoFar(), want) {
			t.Errorf("the log does not say: %s", want)
		}
	}
	// what WeChat's secrets look like is known
	if got := strings.Contains(loggedSoFar(), "app_secret is not 32 hexadecimal digits"); got != (testPlatform == platform.WeChat) {
		t.Errorf("a warning of a secret that does not look like one: %v", got)
	}
}

func TestTranslateStatusAndCacheControl(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "translate_status", `cache_control "private, max-age=60"`,
		`header_down X-Verdict "{http.wechat_media.endpoint} {http.wechat_media.errcode} {http.wechat_media.retries} {http.wechat_media.media_id}"`))
	res, reply := g.upload("/media", "a.jpg", picture(t, 100))
	id := uploaded(t, res, reply)
	if got := res.Header.Get("Cache-Control"); strings.Contains(got, "max-age") {
		t.Errorf("an upload's Cache-Control is %q", got)
	}
	w.revoke()
	res, _ = g.get("/media/" + id)
	if got := res.Header.Get("Cache-Control"); got != "private, max-age=60" {
		t.Errorf("a download's Cache-Control is %q", got)
	}
	if got, want := res.Header.Get("X-Verdict"), "get 0 1 "+id; got != want {
		t.Errorf("placeholders: %q, want %q", got, want)
	}
	etag := res.Header.Get("Etag")
	w.reset()
	for _, target := range []string{"/media/" + id, "/cgi-bin/media/get?media_id=" + id} {
		res, reply = g.do("GET", target, http.Header{"If-None-Match": {etag}}, nil)
		if res.StatusCode != 304 || len(reply) != 0 || res.Header.Get("Etag") != etag || res.Header.Get("Cache-Control") != "private, max-age=60" {
			t.Errorf("a caller that has it gets %d %v", res.StatusCode, res.Header)
		}
	}
	if n := len(w.requests()); n != 0 {
		t.Errorf("WeChat was asked %d times", n)
	}
	for _, other := range []string{`"get-` + id + `x"`, id} {
		if res, _ = g.do("GET", "/media/"+id, http.Header{"If-None-Match": {other}}, nil); res.StatusCode != 200 {
			t.Errorf("If-None-Match %s: %d", other, res.StatusCode)
		}
	}
	for _, method := range []string{"GET", "HEAD"} {
		res, reply = g.do(method, "/media/no-such-media", nil, nil)
		if res.StatusCode != 404 || res.Header.Get("Cache-Control") != "no-store" || method == "GET" && !strings.Contains(string(reply), "40007") {
			t.Errorf("%s: %d, %q: %s", method, res.StatusCode, res.Header.Get("Cache-Control"), reply)
		}
	}
	if got, want := res.Header.Get("X-Verdict"), "get 40007 0 no-such-media"; got != want {
		t.Errorf("placeholders: %q, want %q", got, want)
	}
	if res.Header.Get("Etag") != "" {
		t.Error("an error has an ETag")
	}
	res, reply = g.upload("/media", "a.txt", []byte("text"))
	if res.StatusCode != 400 || !strings.Contains(string(reply), "40005") {
		t.Errorf("%d %s", res.StatusCode, reply)
	}
}

func TestSDKTokens(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "sdk_tokens"))
	g.get("/media/warm-up")
	w.reset()
	for target, method := range testPlatform.TokenEndpoints {
		res, reply := g.do(method, target+"?appid=a&secret=b", nil, nil)
		var token struct {
			AccessToken string `json:"access_token"`
			ExpiresIn   int    `json:"expires_in"`
		}
		if err := json.Unmarshal(reply, &token); err != nil || token.AccessToken == "" || token.ExpiresIn != 7200 || res.StatusCode != 200 {
			t.Errorf("%s: %d %s", target, res.StatusCode, reply)
		}
		if token.AccessToken == w.currentToken() {
			t.Error("the gateway's token was given away")
		}
	}
	if len(w.requests()) != 0 {
		t.Error("an SDK's token request reached WeChat")
	}
}

// A refusal does not wait for a body that nobody will read.
func TestRefusedUploadCostsNoTransfer(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	for _, expect := range []string{"", "Expect: 100-continue\r\n"} {
		for _, length := range []string{"Content-Length: 50000000\r\n", "Transfer-Encoding: chunked\r\n"} {
			contentType := "multipart/form-data; boundary=b"
			if strings.HasPrefix(length, "Transfer") {
				contentType = "text/plain"
			}
			conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			fmt.Fprintf(conn, "POST /media HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n%s%s\r\n", contentType, expect, length)
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || strings.HasPrefix(line, "HTTP/1.1 100") || !strings.HasPrefix(line, "HTTP/1.1 4") {
				t.Errorf("%s%s: %q, %v", expect, length, line, err)
			}
			conn.Close()
		}
	}
}

// What a caller does must not count against WeChat's hosts.
func TestCallersDoNotMarkUpstreamsDown(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "fail_duration 1m", "max_fails 1"))
	content := picture(t, 1000)
	res, reply := g.upload("/media", "a.jpg", content)
	id := uploaded(t, res, reply)
	for range 3 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		under := w.count("/cgi-bin/media/upload")
		fmt.Fprintf(conn, "POST /media HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 500000\r\n\r\n%0100000d", 1)
		if !eventually(func() bool { return w.count("/cgi-bin/media/upload") > under }) {
			t.Fatal("the upload does not begin")
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()

		conn, err = net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "POST /media HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	if !eventually(func() bool { return strings.Count(loggedSoFar(), "handled request") > 2*3 }) {
		t.Fatal("not all requests have ended")
	}
	if res, back := g.get("/media/" + id); res.StatusCode != 200 || !bytes.Equal(back, content) {
		t.Errorf("%d %s", res.StatusCode, back)
	}
}

// A token must not leave in a redirect, whatever WeChat's side does.
func TestTokenIsTakenOutOfHeaders(t *testing.T) {
	const token = "sentinel-access-token-in-a-redirect-0123456789"
	up := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "token") {
			io.WriteString(rw, `{"access_token":"`+token+`","expires_in":7200}`)
			return
		}
		rw.Header().Set("X-Seen", r.URL.RawQuery)
		http.Redirect(rw, r, "https://example.com/?"+r.URL.RawQuery, http.StatusFound)
	}))
	g := startGateway(t, block(up.URL))
	res, body := g.do("HEAD", "/media/abc", nil, nil)
	if res.StatusCode != http.StatusFound {
		t.Errorf("status %d", res.StatusCode)
	}
	if s := fmt.Sprint(res.Header, string(body)); strings.Contains(s, token) {
		t.Errorf("the token is in %s", s)
	}
}

// Nothing that the process writes or answers has the secret or a token in it.
func TestSecrets(t *testing.T) {
	w := startWechat(t)
	const callersToken = "sentinel-access-token-of-the-caller"
	g := startGateway(t, `log_skip /no-log*`+"\n"+block(w.URL, "verbose_logs", "translate_status"))
	var answers strings.Builder
	record := func(res *http.Response, body []byte) {
		fmt.Fprintln(&answers, res.Status, res.Header, string(body))
	}
	res, reply := g.upload("/media", "a.jpg", []byte("\xff\xd8\xff\xe0JFIF"))
	id := uploaded(t, res, reply)
	record(res, reply)
	record(g.get("/media/" + id))
	w.revoke()
	record(g.get("/cgi-bin/media/get?media_id=" + id))
	record(g.get("/cgi-bin/user/get"))
	record(g.get("/media/nothing"))
	w.down(true)
	record(g.get("/media/" + id))
	w.down(false)
	w.revoke()
	w.Busy(testTokenEndpoint, 1)
	record(g.get("/media/" + id))
	record(g.get("/media/" + id))
	// its own token of a caller gets into the access log with the request's URI,
	// and nowhere else
	before := len(loggedSoFar())
	record(g.get("/no-log/cgi-bin/media/get?media_id=" + id + "&access_token=" + callersToken))
	if strings.Contains(loggedSoFar()[before:], callersToken) {
		t.Error("the caller's own token is in the log")
	}
	g.load(block("http://127.0.0.1:"+freePort(t), "verbose_logs", "header_up X-Another 1"))
	record(g.get("/media/" + id))

	sentinels := append(w.IssuedTokens(), testSecret, callersToken)
	if len(sentinels) < 4 {
		t.Fatalf("only %d sentinels", len(sentinels))
	}
	for _, s := range sentinels {
		for where, text := range map[string]string{"log": loggedSoFar(), "answers": answers.String()} {
			if i := strings.Index(text, s); i >= 0 {
				t.Errorf("in the %s: …%s…", where, text[max(0, i-200):min(len(text), i+len(s)+50)])
			}
			if strings.Contains(text, url.QueryEscape(s)) {
				t.Errorf("escaped in the %s", where)
			}
		}
	}
	if !strings.Contains(loggedSoFar(), "upstream roundtrip") || !strings.Contains(loggedSoFar(), "handled request") {
		t.Error("the log is not at debug level with the access log on")
	}
}

func TestNoNetworkBeforeTheConfigRuns(t *testing.T) {
	var calls int
	var mu sync.Mutex
	up := httptest.NewUnstartedServer(http.NotFoundHandler())
	up.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if state == http.StateNew {
			calls++
		}
	}
	up.Start()
	defer up.Close()
	t.Setenv("TEST_WECHAT_SECRET", testSecret)
	config := ":8080 {\n" + block(up.URL) + "\n}\n"
	for range 3 {
		if _, err := adapt(t, config); err != nil {
			t.Fatal(err)
		}
		if err := validate(t, config); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(300 * time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	if calls != 0 {
		t.Errorf("%d connections", calls)
	}
}

// The token is there before the first request.
func TestTokenIsFetchedWhenTheConfigHasStarted(t *testing.T) {
	w := startWechat(t)
	startGateway(t, block(w.URL))
	if !eventually(func() bool { return w.count(testTokenPath) > 0 }) {
		t.Fatal("no token was fetched")
	}
}

// The bare transport puts the token in for any API and gathers and replays too.
func TestBareTransport(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, bare(w.URL))
	content := picture(t, 100_000)
	contentType, body := form(t, "a.jpg", content)
	for range 2 {
		res, reply := g.do("POST", "/cgi-bin/media/upload?type=image&access_token=mine&Access_Token=mine",
			http.Header{"Content-Type": {contentType}}, io.MultiReader(bytes.NewReader(body)))
		id := uploaded(t, res, reply)
		if _, back := g.get("/cgi-bin/media/get?media_id=" + id); !bytes.Equal(back, content) {
			t.Error("the bytes differ")
		}
		w.revoke()
	}
	for _, r := range w.requests() {
		if strings.Contains(r.uri, "mine") || r.header.Get("Via") != "" || r.header.Get("X-Forwarded-For") != "" {
			t.Errorf("WeChat got %s %v", r.uri, r.header)
		}
	}
}

// A caller that leaves ends the transfer from WeChat.
func TestLeavingCallerStopsTheDownload(t *testing.T) {
	stopped := make(chan struct{})
	up := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "token") {
			io.WriteString(rw, `{"access_token":"0123456789012345678901234567890123456789","expires_in":7200}`)
			return
		}
		defer close(stopped)
		rw.Header().Set("Content-Disposition", `attachment; filename="x.jpg"`)
		for {
			if _, err := rw.Write(make([]byte, 1000)); err != nil || r.Context().Err() != nil {
				return
			}
		}
	}))
	g := startGateway(t, block(up.URL))
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", g.URL+"/media/abc", nil)
	res, err := noRedirects.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 2000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, res.Body); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	select {
	case <-stopped:
	case <-time.After(5 * time.Second):
		t.Error("WeChat goes on sending")
	}
}

// A download that breaks off must not look complete.
func TestTruncatedDownload(t *testing.T) {
	for name, header := range map[string]http.Header{
		"media":   {"Content-Type": {"image/jpeg"}, "Content-Disposition": {"attachment"}},
		"peeked":  {"Content-Type": {"application/json"}},
		"no type": {"Content-Type": nil},
	} {
		up := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "token") {
				io.WriteString(rw, `{"access_token":"0123456789012345678901234567890123456789","expires_in":7200}`)
				return
			}
			for k, v := range header {
				rw.Header()[k] = v
			}
			rw.Header().Set("Content-Length", "1000")
			io.WriteString(rw, `{"errcode":40001}`)
			rw.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}))
		g := startGateway(t, block(up.URL))
		req, _ := http.NewRequest("GET", g.URL+"/media/abc", nil)
		res, err := noRedirects.Do(req)
		if err != nil {
			continue // cut before the headers left
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil {
			t.Errorf("%s: %d bytes of 1000 look complete", name, len(b))
		}
	}
}
