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
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// oneMiB is what these uploads consist of.
var oneMiB = bytes.Repeat([]byte("x"), 1<<20)

// answered is what a raw client has seen.
type answered struct {
	status int
	body   string
}

// sendThenRead is a client of the old school: it writes all of a request, come what
// may, and then looks for the answer.
func sendThenRead(gateway, path, contentType string, size int) (a answered, err error) {
	conn, err := dialGateway(gateway, "http/1.1")
	if err != nil {
		return a, err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", path, contentType, size); err != nil {
		return a, err
	}
	for left := size; left > 0; left -= len(oneMiB) {
		if _, err := conn.Write(oneMiB[:min(left, len(oneMiB))]); err != nil {
			return a, fmt.Errorf("sending, %d bytes to go: %w", left, err)
		}
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return a, err
	}
	body, err := io.ReadAll(res.Body)
	return answered{res.StatusCode, string(body)}, err
}

func dialGateway(gateway, protocol string) (net.Conn, error) {
	scheme, addr, _ := strings.Cut(gateway, "://")
	conn, err := net.Dial("tcp", addr)
	if err == nil && scheme == "https" {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
	}
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
	}
	return conn, err
}

// stream is one request of a raw HTTP/2 client.
type stream struct {
	conn                     net.Conn
	framer                   *http2.Framer
	streamWindow, connWindow int // for sending
	answer                   answered
	ended                    bool // by the server
}

// openStream begins a request with these fields.
func openStream(gateway string, fields ...string) (*stream, error) {
	conn, err := dialGateway(gateway, "h2")
	if err != nil {
		return nil, err
	}
	s := &stream{conn: conn, framer: http2.NewFramer(conn, bufio.NewReader(conn)), streamWindow: 65535, connWindow: 65535}
	s.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for field := range slices.Chunk(fields, 2) {
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	_, err = io.WriteString(conn, http2.ClientPreface)
	return s, errors.Join(err, s.framer.WriteSettings(),
		s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}))
}

// sendThenRead2 is a client of the old school over HTTP/2: what the server sends meanwhile
// is read for its windows, and a stream that is reset ends all.
func sendThenRead2(gateway, path, contentType string, size int) (answered, error) {
	s, err := openStream(gateway, ":method", "POST", ":scheme", "https", ":authority", "127.0.0.1", ":path", path,
		"content-type", contentType, "content-length", strconv.Itoa(size))
	if err != nil {
		return answered{}, err
	}
	defer s.conn.Close()
	for left := size; left > 0; {
		n := min(left, 16<<10)
		for min(s.streamWindow, s.connWindow) < n {
			if err := s.read(); err != nil {
				return s.answer, fmt.Errorf("sending, %d bytes to go: %w", left, err)
			}
		}
		left -= n
		s.streamWindow, s.connWindow = s.streamWindow-n, s.connWindow-n
		if err := s.framer.WriteData(1, left == 0, oneMiB[:n]); err != nil {
			return s.answer, fmt.Errorf("sending, %d bytes to go: %w", left, err)
		}
	}
	err = s.readAnswer()
	return s.answer, err
}

// readAnswer reads to the end of the answer.
func (s *stream) readAnswer() error {
	for !s.ended {
		if err := s.read(); err != nil {
			return err
		}
	}
	return nil
}

// read takes one frame in.
func (s *stream) read() error {
	frame, err := s.framer.ReadFrame()
	if err != nil {
		return err
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			s.streamWindow += int(v) - 65535
		}
		return s.framer.WriteSettingsAck()
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			s.connWindow += int(f.Increment)
		} else {
			s.streamWindow += int(f.Increment)
		}
	case *http2.MetaHeadersFrame:
		s.answer.status, _ = strconv.Atoi(f.PseudoValue("status"))
		s.ended = f.StreamEnded()
	case *http2.DataFrame:
		s.answer.body += string(f.Data())
		s.ended = f.StreamEnded()
	case *http2.RSTStreamFrame, *http2.GoAwayFrame:
		return fmt.Errorf("%v", f)
	}
	return nil
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

// Each refusal is seen 20 of 20 times, over each protocol, whatever the size. The large
// ones go one after the other: each of them has 30 s.
func TestRefusalsReachThoseWhoSendFirst(t *testing.T) {
	site, requests := refusedUploads(t)
	for _, over := range []struct {
		name  string
		start func(testing.TB, string) *gateway
		send  func(gateway, path, contentType string, size int) (answered, error)
	}{
		{"HTTP/1.1", startGateway, sendThenRead},
		{"HTTP/1.1 and TLS", startTLSGateway, sendThenRead},
		{"HTTP/2", startTLSGateway, sendThenRead2},
	} {
		g := over.start(t, site)
		sendAll := func(sizes ...int) {
			for name, tc := range requests {
				contentType := "multipart/form-data; boundary=b"
				if name == "not a form" {
					contentType = "image/jpeg"
				}
				for _, size := range sizes {
					size += 1000 // beyond the limit of 1 MiB
					a, err := over.send(g.URL, tc.path, contentType, size)
					if err != nil || a.status != tc.status || !strings.Contains(a.body, tc.text) {
						t.Errorf("%s, %s, %d bytes: %+v, %v", over.name, name, size, a, err)
					}
				}
			}
		}
		var senders sync.WaitGroup
		senders.Go(func() { sendAll(slices.Repeat([]int{1 << 20}, 16)...) })
		senders.Go(func() { sendAll(3<<20, 3<<20, 11<<20, 30<<20) })
		senders.Wait()
	}
}

// Who sends no more is not waited for for long, and over HTTP/2 less so: Go's client
// waits for the answer's end.
func TestTheRestIsWaitedForInBoundedTime(t *testing.T) {
	for major, want := range map[int]time.Duration{1: lingerStall, 2: lingerStream, 3: lingerStream} {
		synctest.Test(t, func(t *testing.T) {
			body, writer := io.Pipe()
			c := new(caller)
			c.init(deadlineWriter{httptest.NewRecorder(), writer}, &http.Request{ProtoMajor: major, Body: body}, nil)
			go func() { _, _ = writer.Write(make([]byte, 10_000)) }()
			start := time.Now()
			c.readAway()
			if took := time.Since(start); took != want {
				t.Errorf("HTTP/%d: waited for %v", major, took)
			}
		})
	}
}

// deadlineWriter ends reads of a body at their deadline.
type deadlineWriter struct {
	http.ResponseWriter
	body *io.PipeWriter
}

func (w deadlineWriter) SetReadDeadline(deadline time.Time) error {
	time.AfterFunc(time.Until(deadline), func() { _ = w.body.CloseWithError(os.ErrDeadlineExceeded) })
	return nil
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

// A 304 of the gateway's own does not wait for a body that never comes either.
func TestNotModifiedWaitsForNobody(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "cache_control max-age=60"))
	res, reply := g.upload("/media", "a.jpg", picture(t, 100))
	id := uploaded(t, res, reply)
	res, _ = g.get("/media/" + id)
	for _, body := range []string{"Content-Length: 1000", "Transfer-Encoding: chunked", "Content-Length: 1000\r\nExpect: 100-continue"} {
		conn, err := dialGateway(g.URL, "")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(conn, "GET /media/%s HTTP/1.1\r\nHost: x\r\nIf-None-Match: %s\r\n%s\r\n\r\n", id, res.Header.Get("Etag"), body)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != http.StatusNotModified {
			t.Errorf("%s: %v, %v", body, answer, err)
		}
		conn.Close()
	}
}

// Who finds all connections in use by others is told so in bounded time, and nothing is
// counted against the upstream.
func TestCrowdedOut(t *testing.T) {
	w := startWechat(t)
	for _, option := range []string{"max_conns_per_host 1", "max_conns 1"} {
		g := startGateway(t, block(w.URL, "fail_duration 1h", "max_fails 1",
			"transport wechat {\n"+option+"\nresponse_header_timeout 1s\ndial_timeout 1s\n}"))
		g.get("/media/warm-up")
		leave := g.drip(w)
		var others sync.WaitGroup
		others.Go(func() { res, body := g.get("/media/abc"); wantCrowded(t, res, body) })
		others.Go(func() { res, body := g.upload("/media", "a.jpg", picture(t, 100)); wantCrowded(t, res, body) })
		others.Wait()
		leave()
		if !eventually(func() bool { res, _ := g.get("/media/abc"); return res.StatusCode == http.StatusOK }) {
			t.Errorf("%s: nobody is served afterwards", option)
		}
	}
}

// max_conns counts the connections to all upstreams. Those that nobody uses make room.
func TestConnectionsToAllUpstreams(t *testing.T) {
	one, two := startWechat(t), startWechat(t)
	site := func(w *wechat) string {
		return "wechat_media " + w.URL + " {\napp " + testAppID + " {\ntoken file " + tokenFile(t, one, two) + "\n}\n"
	}
	g := startGateway(t, strings.Replace(site(one), one.URL, one.URL+" "+two.URL, 1)+"lb_policy header X-Host\nlb_retries 1\n"+
		"transport wechat {\nmax_conns 2\nresponse_header_timeout 1s\ndial_timeout 1s\n}\n}")
	hosts := strings.Split("abcdefghijklmnopqrstuvwxyz", "") // of which some go to either
	for range 3 {                                            // both have idle connections, or had them
		for _, host := range hosts {
			if res, body := g.do("GET", "/media/abc", http.Header{"X-Host": {host}}, nil); res.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", res.StatusCode, body)
			}
		}
	}
	if len(one.requests()) == 0 || len(two.requests()) == 0 {
		t.Fatal("one of the upstreams was not asked")
	}
	leave := []func(){g.drip(one, two), g.drip(one, two)}
	for _, host := range hosts[:4] {
		res, body := g.do("GET", "/media/abc", http.Header{"X-Host": {host}}, nil)
		wantCrowded(t, res, body)
	}
	for _, l := range leave {
		l()
	}
	if !eventually(func() bool { res, _ := g.get("/media/abc"); return res.StatusCode == http.StatusOK }) {
		t.Error("nobody is served afterwards")
	}
}

// drip begins an upload and waits until one of the hosts has some of it.
func (g *gateway) drip(hosts ...*wechat) (leave func()) {
	g.t.Helper()
	began, first := make(chan struct{}), new(sync.Once)
	for _, w := range hosts {
		w.OnUploadProgress(func(int64) { first.Do(func() { close(began) }) })
	}
	conn, err := dialGateway(g.URL, "")
	if err != nil {
		g.t.Fatal(err)
	}
	fmt.Fprint(conn, "POST /media HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\n")
	<-began
	return func() { conn.Close() }
}

func wantCrowded(t *testing.T, res *http.Response, body []byte) {
	t.Helper()
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !strings.Contains(string(body), `"errcode":-1`) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// FuzzRequestHeaders holds that whatever a caller sends, no failure is counted against
// the upstream: the next caller is served, behind the handler and the bare transport.
// What the fuzzer does not send of a length and a form is put there, so that its
// requests get as far as they can.
func FuzzRequestHeaders(f *testing.F) {
	w := startWechat(f)
	options := "fail_duration 1h\nmax_fails 1\nheader_up X-From {header.X-From}\nheader_up X-Query {query.q}\n"
	g := startGateway(f, "@bare header X-Bare *\nreverse_proxy @bare "+w.URL+" {\n"+options+"transport wechat {\napp "+testAppID+" {env.TEST_WECHAT_SECRET}\n}\n}\n"+
		block(w.URL, options, "cache_control max-age=60"))
	for _, seed := range []string{
		"X-From: a", "X-From: \x01", "Range: bytes=0-", "X-Bare: 1", "X-Bare: 1\r\nX-From: \xff\x80", "Connection: X-From, close",
		"Content-Type: multipart/form-data; boundary*=utf-8''b%0d%0aX%3a1", "Content-Type: multipart/form-data; boundary=\"b\\\"\x80\"",
		"Expect: 100-continue", "Transfer-Encoding: chunked", "Content-Length: 9223372036854775807", "Content-Length: 3", "Content-Length: 300",
		"Upgrade: websocket\r\nConnection: Upgrade", "Host: \x7f", "If-None-Match: *", "Trailer: X-From", "Te: trailers",
		"Content-Length: -1", "Accept: " + strings.Repeat("a", 5000), "Proxy-Connection: x", "X-Forwarded-For: \xff", "X-Bare: 1\r\nTransfer-Encoding: chunked",
	} {
		f.Add("POST", "/media?q=%0d%0a", seed, "--b\r\nContent-Disposition: form-data")
		f.Add("POST", "/cgi-bin/media/upload?type=image", seed, "5\r\n--b\r\n\r\n0\r\nX-From: a\r\n\r\n")
		f.Add("GET", "/cgi-bin/media/get?media_id=abc&q=%00", seed, "")
		f.Add("BREW", "/cgi-bin/media/get?media_id=abc", seed, "x")
	}
	f.Fuzz(func(t *testing.T, method, target, header, body string) {
		if strings.ContainsAny(method+target, " \r\n") || strings.Contains(header, "\r\n\r\n") {
			return // that would be another request
		}
		if low := strings.ToLower("\r\n" + header); !strings.Contains(low, "\r\ncontent-length:") && !strings.Contains(low, "\r\ntransfer-encoding:") {
			header += fmt.Sprintf("\r\nContent-Length: %d", len(body))
		}
		if !strings.Contains(strings.ToLower(header), "content-type:") {
			header += "\r\nContent-Type: multipart/form-data; boundary=b"
		}
		conn, err := dialGateway(g.URL, "")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\nConnection: close\r\n\r\n%s", method, target, header, body)
		// a caller who hangs up is none whose request fails: he stays for an answer, unless
		// he has announced more than he sends
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			_ = conn.(*net.TCPConn).CloseWrite()
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.Copy(io.Discard, conn)
		}
		_ = conn.Close()
		for _, next := range []string{"", "1"} {
			req, _ := http.NewRequest("GET", g.URL+"/cgi-bin/media/get?media_id=abc", nil)
			if next != "" {
				req.Header.Set("X-Bare", next)
			}
			res, err := noRedirects.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != 200 {
				t.Fatalf("the next caller gets %d %s", res.StatusCode, reply)
			}
		}
	})
}
