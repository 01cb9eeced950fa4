package wechatmedia

// Callers who send all of a request before they read, who drip, stop or never end.

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// sendThenRead is a client of the old school: it writes all of a request, come what
// may, and then looks for the answer.
func sendThenRead(t testing.TB, gateway, head string, size int64) (*http.Response, string, error) {
	t.Helper()
	addr := gateway[strings.Index(gateway, "//")+2:]
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if strings.HasPrefix(gateway, "https") {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, head); err != nil {
		return nil, "", err
	}
	piece := bytes.Repeat([]byte("x"), 64<<10)
	for left := size; left > 0; left -= int64(len(piece)) {
		if _, err := conn.Write(piece[:min(left, int64(len(piece)))]); err != nil {
			return nil, "", fmt.Errorf("sending, %d bytes to go: %w", left, err)
		}
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// refusedUploads are uploads that are refused, each for another reason, and what their
// callers have to see.
func refusedUploads(t testing.TB) (site string, requests map[string]struct {
	path   string
	status int
	text   string
}) {
	w := startWechat(t)
	site = "wechat_linger\n@stranger path /private*\nrespond @stranger 401\n" +
		"@other path /other*\n" + strings.Replace(block("http://127.0.0.1:1", "max_upload_size 64MiB"), "wechat_media", "wechat_media @other", 1) + "\n" +
		block(w.URL, "max_upload_size image 1MiB", "types image voice")
	return site, map[string]struct {
		path   string
		status int
		text   string
	}{
		"too large":        {"/media", 413, "45001"},
		"type not allowed": {"/media?type=video", 400, "40004"},
		"no such endpoint": {"/cgi-bin/user/info", 404, "40066"},
		"no token":         {"/other", 503, `"errcode":-1`},
		"not a form":       {"/media?type=voice", 400, "41005"},
		"the site's 401":   {"/private", 401, ""},
	}
}

func TestRefusalsReachThoseWhoSendFirst(t *testing.T) {
	site, requests := refusedUploads(t)
	for scheme, start := range map[string]func(testing.TB, string) *gateway{"http": startGateway, "https": startTLSGateway} {
		g := start(t, site)
		for name, tc := range requests {
			for i := range 4 {
				size := []int64{1 << 20, 30 << 20, 11 << 20, 3 << 20}[i]
				contentType := "multipart/form-data; boundary=b"
				if name == "not a form" {
					contentType = "image/jpeg"
				}
				head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", tc.path, contentType, size)
				if name == "too large" {
					size += 100_000
					head = fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", tc.path, contentType, size)
				}
				res, body, err := sendThenRead(t, g.URL, head, size)
				if err != nil {
					t.Errorf("%s, %s, %d bytes: %v", scheme, name, size, err)
				} else if res.StatusCode != tc.status || !strings.Contains(body, tc.text) {
					t.Errorf("%s, %s, %d bytes: %d %s", scheme, name, size, res.StatusCode, body)
				}
			}
		}
	}
}

// Over HTTP/2 the stream ends in good order: what was sent is read, and the answer has
// an end.
func TestRefusalsOverHTTP2(t *testing.T) {
	site, requests := refusedUploads(t)
	g := startTLSGateway(t, site)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	var all sync.WaitGroup // one by one, they would take their time
	for name, tc := range requests {
		all.Go(func() {
			req, _ := http.NewRequest("POST", g.URL+tc.path, io.LimitReader(zeroes{}, 11<<20))
			req.ContentLength = 11 << 20
			req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
			if name == "not a form" {
				req.Header.Set("Content-Type", "image/jpeg")
			}
			res, err := client.Do(req)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.ProtoMajor != 2 || res.StatusCode != tc.status || !strings.Contains(string(body), tc.text) {
				t.Errorf("%s: %s %d %s, %v", name, res.Proto, res.StatusCode, body, err)
			}
		})
	}
	all.Wait()
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The answer is there before the upload has been sent: nobody has to wait for it.
func TestRefusalsComeAtOnce(t *testing.T) {
	site, requests := refusedUploads(t)
	g := startGateway(t, site)
	for name, tc := range requests {
		for _, expect := range []string{"", "Expect: 100-continue\r\n"} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			contentType := "multipart/form-data; boundary=b"
			if name == "not a form" {
				contentType = "image/jpeg"
			}
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Type: %s\r\nContent-Length: 11000000\r\n\r\n", tc.path, expect, contentType)
			if expect == "" {
				_, _ = io.WriteString(conn, "some of it")
			}
			answer := bufio.NewReader(conn)
			res, err := http.ReadResponse(answer, nil)
			if err != nil || res.StatusCode != tc.status {
				t.Errorf("%s, %q: %v %v", name, expect, res, err)
				conn.Close()
				continue
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || !strings.Contains(string(body), tc.text) || !res.Close {
				t.Errorf("%s, %q: %s, %v, closes %v", name, expect, body, err, res.Close)
			}
			if expect != "" { // nothing is waited for, so the connection ends
				if _, err := answer.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("%s: the connection of one who waits: %v", name, err)
				}
			}
			conn.Close()
		}
	}
}

// Nothing goes to WeChat for a caller who has not sent anything, and callers who only
// announce take nothing from those who send.
func TestCallersWhoOnlyAnnounce(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "replay_buffer 4MiB"))
	g.get("/media/warm-up")
	w.reset()
	var conns []net.Conn
	for i := range 64 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		length := "Content-Length: 10000000"
		if i%2 == 1 {
			length = "Transfer-Encoding: chunked"
		}
		fmt.Fprintf(conn, "POST /media HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n%s\r\n\r\n", length)
	}
	w.Respond(sandbox.MediaUpload, 1, func(rw http.ResponseWriter, r *http.Request) { // the token is rejected once
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(rw, `{"errcode":40001,"errmsg":"invalid credential"}`)
	})
	w.revoke()
	res, reply := g.upload("/media", "a.jpg", picture(t, 3<<20))
	uploaded(t, res, reply) // and so it was kept
	if n := w.count("/cgi-bin/media/upload"); n != 2 {
		t.Errorf("%d uploads reached WeChat", n)
	}
	for _, conn := range conns {
		conn.Close()
	}
	waitUntilNothingIsKept(t)
}

// A length near the end of all numbers is refused, or streamed, and takes no memory.
func TestAbsurdLength(t *testing.T) {
	w := startWechat(t)
	for name, tc := range map[string]struct {
		site   string
		status string
	}{
		"handler": {block(w.URL), "HTTP/1.1 413"},
		"bare":    {bare(w.URL, "replay_buffer 1MiB"), "HTTP/1.1"},
	} {
		g := startGateway(t, tc.site)
		for _, length := range []string{"9223372036854775807", "9223372036854775700"} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "POST /cgi-bin/media/upload?type=image HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %s\r\n\r\n", length)
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = conn.Write(make([]byte, 4<<20))
			if name == "handler" {
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err != nil || !strings.HasPrefix(line, tc.status) {
					t.Errorf("%s: %q, %v", name, line, err)
				}
			}
			res, reply := g.upload("/cgi-bin/media/upload?type=image", "a.jpg", picture(t, 300_000))
			uploaded(t, res, reply)
			conn.Close()
		}
		waitUntilNothingIsKept(t)
	}
}

// An upload on a connection that had been waiting, which dies without a byte of an
// answer, is sent once more; never after a byte, and never twice.
func TestUploadsOnDeadConnections(t *testing.T) {
	w := startWechat(t)
	for name, tc := range map[string]struct {
		die   func(conn net.Conn)
		works bool
	}{
		"closed":       {func(c net.Conn) { _ = c.Close() }, true},
		"reset":        {func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() }, true},
		"after a byte": {func(c net.Conn) { _, _ = io.WriteString(c, "H"); _ = c.Close() }, false},
		"after the headers": {func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
			_ = c.Close()
		}, false},
	} {
		for _, size := range []int{1000, 300_000} {
			g := startGateway(t, block(w.URL))
			g.get("/media/warm-up") // from here on there is a connection that waits
			w.reset()
			w.Respond(sandbox.MediaUpload, 1, func(rw http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				conn, _, err := http.NewResponseController(rw).Hijack()
				if err == nil {
					tc.die(conn)
				}
			})
			contentType, body := form(t, "a.jpg", picture(t, size))
			req, _ := http.NewRequest("POST", g.URL+"/media", bytes.NewReader(body))
			req.Header.Set("Content-Type", contentType)
			res, err := noRedirects.Do(req)
			works := false
			if err == nil {
				reply, err := io.ReadAll(res.Body)
				res.Body.Close()
				works = err == nil && res.StatusCode == 200 && strings.Contains(string(reply), "media_id")
			}
			want := 1
			if tc.works {
				want = 2
			}
			if n := w.count("/cgi-bin/media/upload"); works != tc.works || n != want {
				t.Errorf("%s, %d bytes: works %v, sent %d times", name, size, works, n)
			}
		}
	}
}

// An upload may take its time on the way as long as its length explains it: the wait
// for the reply grows with it, and the log names the option when it is over.
func TestReplyMayTakeWhatTheUploadTakes(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "transport wechat {\nresponse_header_timeout 50ms\n}"))
	contentType, body := form(t, "a.jpg", picture(t, 100_000)) // 3 s at 32 KiB/s
	w.SetLatency(sandbox.MediaUpload, 500*time.Millisecond)
	res, reply := g.do("POST", "/media", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body))
	uploaded(t, res, reply)
	if res, reply := g.do("POST", "/media", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body[:len(body):len(body)])); res.StatusCode != 200 {
		t.Errorf("%d %s", res.StatusCode, reply)
	}
	contentType, body = form(t, "a.jpg", picture(t, 1000))
	if res, reply := g.do("POST", "/media", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body)); res.StatusCode != 504 {
		t.Errorf("a small one: %d %s", res.StatusCode, reply)
	}
	if !strings.Contains(loggedSoFar(), "response_header_timeout") {
		t.Error("the log does not name the option")
	}
}

// The stand-in for the token endpoints does not wait for a body that never comes.
func TestFacadeWaitsForNobody(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "sdk_tokens"))
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", testPlatform.TokenEndpoints[testTokenPath], testTokenPath)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(body), placeholderToken) {
		t.Errorf("%s, %v", body, err)
	}
}

// FuzzRequestHeaders holds that whatever a caller sends, no failure is counted against
// the upstream: the next caller is served.
func FuzzRequestHeaders(f *testing.F) {
	w := startWechat(f)
	g := startGateway(f, block(w.URL, "fail_duration 1h", "max_fails 1", "header_up X-From {header.X-From}", "header_up X-Query {query.q}"))
	for _, seed := range []string{
		"X-From: a", "X-From: \x01", "Content-Type: multipart/form-data; boundary*=utf-8''b%0d%0aX%3a1", "Range: bytes=0-",
		"Expect: 100-continue", "Transfer-Encoding: chunked", "Content-Length: 9223372036854775807", "Connection: X-From, close",
		"Upgrade: websocket\r\nConnection: Upgrade", "Host: \x7f", "If-None-Match: *", "Trailer: X-From", "Te: trailers",
		"Content-Length: -1", "Accept: " + strings.Repeat("a", 5000), "Proxy-Connection: x", "X-Forwarded-For: \xff",
	} {
		f.Add("POST", "/media?q=%0d%0a", seed, "--b\r\nContent-Disposition: form-data")
		f.Add("GET", "/cgi-bin/media/get?media_id=abc&q=%00", seed, "")
	}
	f.Fuzz(func(t *testing.T, method, target, header, body string) {
		if strings.ContainsAny(method+target, " \r\n") || strings.Contains(header, "\r\n\r\n") {
			return // that would be another request
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\nConnection: close\r\n\r\n%s", method, target, len(body), header, body)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
		res, err := noRedirects.Get(g.URL + "/cgi-bin/media/get?media_id=abc")
		if err != nil {
			t.Fatal(err)
		}
		reply, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("the next caller gets %d %s", res.StatusCode, reply)
		}
	})
}
