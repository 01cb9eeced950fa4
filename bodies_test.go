package wechatmedia

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-wechat/caddy-wechat-media/internal/replay"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// Bytes are the same on both sides, whatever the caller's protocol, with and
// without Content-Length, and with TLS to WeChat.
func TestBodiesOverEveryProtocol(t *testing.T) {
	w := startWechat(t)
	srv := httptest.NewTLSServer(w)
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	g := startTLSGateway(t, block(srv.URL, "transport wechat {\ntls_trust_pool file "+ca+"\n}"))

	insecure := &tls.Config{InsecureSkipVerify: true} // the certificate is the test's own
	h1 := &http.Transport{TLSClientConfig: insecure.Clone(), DisableCompression: true}
	h2 := &http.Transport{TLSClientConfig: insecure.Clone(), DisableCompression: true, ForceAttemptHTTP2: true}
	h3 := &http3.Transport{TLSClientConfig: insecure.Clone(), DisableCompression: true}
	defer h3.Close()
	for proto, rt := range map[string]http.RoundTripper{"HTTP/1.1": h1, "HTTP/2.0": h2, "HTTP/3.0": h3} {
		client := &http.Client{Transport: rt, Timeout: time.Minute}
		do := func(method, target, contentType string, body io.Reader) (*http.Response, []byte) {
			t.Helper()
			req, _ := http.NewRequest(method, g.URL+target, body)
			req.Header.Set("Content-Type", contentType)
			res, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", proto, err)
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if err != nil || res.Proto != proto {
				t.Fatalf("%s: answered over %s: %v", proto, res.Proto, err)
			}
			return res, b
		}
		for _, size := range []int{10, 16<<10 - 1, 16 << 10, 16<<10 + 1, 1 << 20, 10 << 20} {
			content := picture(t, size)
			contentType, body := form(t, "a.jpg", content)
			for _, known := range []bool{true, false} {
				w.reset()
				in := io.Reader(bytes.NewReader(body))
				if !known {
					in = io.MultiReader(in)
				}
				res, reply := do("POST", "/media", contentType, in)
				id := uploaded(t, res, reply)
				got := w.only(t, "/cgi-bin/media/upload")
				if sha256.Sum256(got.body) != sha256.Sum256(body) || got.contentLength != int64(len(body)) {
					t.Errorf("%s: an upload of %d bytes became %d", proto, len(body), len(got.body))
				}
				if _, back := do("GET", "/media/"+id, "", nil); sha256.Sum256(back) != sha256.Sum256(content) {
					t.Errorf("%s: a download of %d bytes became %d", proto, size, len(back))
				}
			}
		}
		if res, reply := do("POST", "/media", "multipart/form-data; boundary=b", http.NoBody); res.StatusCode != 400 || !strings.Contains(string(reply), "41005") {
			t.Errorf("%s: an upload of 0 bytes: %d %s", proto, res.StatusCode, reply)
		}
		w.Respond(sandbox.MediaGet, 1, func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Disposition", "attachment")
		})
		if res, back := do("GET", "/media/empty", "", nil); res.StatusCode != 200 || len(back) != 0 {
			t.Errorf("%s: a download of 0 bytes: %d %s", proto, res.StatusCode, back)
		}
	}
}

// The token is revoked at every stage of an upload. The caller sees one success;
// WeChat sees the same bytes twice at the most and stores them once.
func TestTokenRevokedDuringUpload(t *testing.T) {
	for _, first := range []bool{false, true} { // when WeChat looks at the token
		for _, stage := range []string{"before", "first bytes", "middle", "last byte"} {
			t.Run(fmt.Sprintf("%s, token first %t", stage, first), func(t *testing.T) {
				w := startWechat(t)
				options := testAccounts()
				options.CheckTokenFirst = first
				w.Server = sandbox.New(options)
				g := startGateway(t, block(w.URL))
				g.get("/media/warm-up")
				content := picture(t, 5<<20)
				contentType, body := form(t, "a.jpg", content)
				var once sync.Once
				stored := 0
				w.OnStored(func(string, []byte) { stored++ })
				at := map[string]int64{"first bytes": 1, "middle": int64(len(body)) / 2, "last byte": int64(len(body))}[stage]
				if stage == "before" {
					w.revoke()
				}
				w.OnUploadProgress(func(received int64) {
					if at > 0 && received >= at {
						once.Do(w.revoke)
					}
				})
				w.reset()
				res, reply := g.do("POST", "/media", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body))
				id := uploaded(t, res, reply)

				var whole int
				for _, r := range w.requests() {
					if !bytes.HasPrefix(body, r.body) {
						t.Error("WeChat got other bytes")
					}
					if len(r.body) == len(body) {
						whole++
					}
				}
				if n := w.count("/cgi-bin/media/upload"); n > 2 || whole > 2 || stored != 1 {
					t.Errorf("WeChat saw %d uploads, %d of them whole, and stored %d", n, whole, stored)
				}
				if _, back := g.get("/media/" + id); !bytes.Equal(back, content) {
					t.Error("the bytes differ")
				}
				waitUntilNothingIsKept(t)
			})
		}
	}
}

// fakeWechat gives out a token and leaves the rest to media.
func fakeWechat(t testing.TB, media http.HandlerFunc) *httptest.Server {
	t.Helper()
	return upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "token") {
			_, _ = io.WriteString(rw, `{"access_token":"`+strings.Repeat("t", 64)+`","expires_in":7200}`)
			return
		}
		media(rw, r)
	}))
}

// The first byte of a download is there before the last one has been sent.
func TestDownloadIsStreamed(t *testing.T) {
	const size = 5 << 20
	release := make(chan struct{})
	up := fakeWechat(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Disposition", "attachment")
		rw.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = rw.Write(make([]byte, size/2))
		rw.(http.Flusher).Flush()
		<-release
		_, _ = rw.Write(make([]byte, size/2))
	})
	g := startGateway(t, block(up.URL))
	res, err := noRedirects.Get(g.URL + "/media/abc")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, size/4)); err != nil {
		t.Fatal(err)
	}
	close(release)
	if n, err := io.Copy(io.Discard, res.Body); n != size-size/4 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// The first byte of an upload is at WeChat's before the caller has sent the last,
// whether or not the upload is kept.
func TestUploadIsStreamed(t *testing.T) {
	for _, buffer := range []string{"64MiB", "1MiB"} {
		const size = 5 << 20
		first := make(chan struct{})
		up := fakeWechat(t, func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadFull(r.Body, make([]byte, 1000))
			close(first)
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprintf(rw, `{"media_id":"got-%d"}`, n+1000)
		})
		g := startGateway(t, block(up.URL, "replay_buffer "+buffer))
		pr, pw := io.Pipe()
		go func() {
			_, _ = pw.Write(make([]byte, size/2))
			<-first
			_, _ = pw.Write(make([]byte, size/2))
			pw.Close()
		}()
		req, _ := http.NewRequest("POST", g.URL+"/media", pr)
		req.ContentLength = size
		req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		res, err := noRedirects.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		reply, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if string(reply) != fmt.Sprintf(`{"media_id":"got-%d"}`, size) {
			t.Errorf("replay_buffer %s: %s", buffer, reply)
		}
	}
}

// A caller that leaves in the middle of an upload ends it at WeChat's.
func TestLeavingCallerStopsTheUpload(t *testing.T) {
	ended := make(chan error, 1)
	started := make(chan struct{})
	up := fakeWechat(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 1000))
		close(started)
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	g := startGateway(t, block(up.URL))
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	defer pw.Close()
	go func() { _, _ = pw.Write(make([]byte, 100_000)) }()
	req, _ := http.NewRequestWithContext(ctx, "POST", g.URL+"/media", pr)
	req.ContentLength = 1 << 20
	req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	go func() {
		<-started
		cancel()
		_ = pw.CloseWithError(context.Canceled) // http.Client waits for the read under way
	}()
	if res, err := noRedirects.Do(req); err == nil {
		res.Body.Close()
		t.Error("answered")
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("WeChat took half an upload for a whole one")
		}
	case <-time.After(5 * time.Second):
		t.Error("the upload goes on")
	}
	waitUntilNothingIsKept(t)
}

func TestExpectContinue(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	contentType, body := form(t, "a.jpg", picture(t, 1000))
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "POST /media HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", contentType, len(body))
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	_, _ = in.ReadString('\n')
	_, _ = conn.Write(body)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	reply, _ := io.ReadAll(res.Body)
	uploaded(t, res, reply)
}

// A download does not wait for a body that the caller announced and does not send.
func TestDownloadWithABodyThatNeverComes(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	res, reply := g.upload("/media", "a.jpg", picture(t, 10_000))
	id := uploaded(t, res, reply)
	for _, line := range []string{"GET /media/" + id, "POST /cgi-bin/media/get?media_id=" + id} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", line)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || len(body) != 10_000 {
			t.Errorf("%s: %d bytes, %v", line, len(body), err)
		}
	}
}

// A caller that stands still in the middle of an upload is told so.
func TestSlowCaller(t *testing.T) {
	w := startWechat(t)
	g := startGatewayWith(t, "servers {\ntimeouts {\nread_body_idle 200ms\n}\n}", block(w.URL))
	for _, length := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "POST /media HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n%s\r\n\r\n5\r\nhello\r\n", length)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusRequestTimeout {
			t.Errorf("%s: status %d", length, res.StatusCode)
		}
		conn.Close()
	}
	// one that is slow, and moves, is served, also on a busy machine
	g = startGatewayWith(t, "servers {\ntimeouts {\nread_body_idle 2s\n}\n}", block(w.URL))
	contentType, body := form(t, "a.jpg", picture(t, 1000))
	pr, pw := io.Pipe()
	go func() {
		for piece := range slices.Chunk(body, 100) {
			_, _ = pw.Write(piece)
			time.Sleep(200 * time.Millisecond)
		}
		pw.Close()
	}()
	res, reply := g.do("POST", "/media", http.Header{"Content-Type": {contentType}}, pr)
	uploaded(t, res, reply)
}

// A transfer that takes longer than the timeout is not ended as long as it moves,
// in either direction; one that stands still is.
func TestTimeoutsCountOnlyWhatStandsStill(t *testing.T) {
	stall := make(chan struct{})
	defer close(stall)
	up := fakeWechat(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Disposition", "attachment")
		rw.Header().Set("Content-Length", "1000")
		for i := range 10 {
			_, _ = rw.Write(make([]byte, 100))
			rw.(http.Flusher).Flush()
			if i == 5 && r.URL.Query().Get("media_id") == "stalls" {
				select {
				case <-stall:
				case <-r.Context().Done():
				}
				return
			}
			if r.URL.Query().Get("media_id") == "moves" {
				time.Sleep(250 * time.Millisecond)
			}
		}
	})
	g := startGateway(t, block(up.URL, "transport wechat {\nread_timeout 2s\n}")) // for a busy machine
	if res, body := g.get("/media/moves"); res.StatusCode != 200 || len(body) != 1000 {
		t.Errorf("%d, %d bytes", res.StatusCode, len(body))
	}
	g = startGateway(t, block(up.URL, "transport wechat {\nread_timeout 200ms\n}"))
	res, err := noRedirects.Get(g.URL + "/media/stalls")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Errorf("%d bytes of 1000 look complete", n)
	}
}

// breaker is an upstream that drops connections in the middle of uploads.
type breaker struct {
	after   int64 // bytes of the body
	uploads atomic.Int64
}

func (b *breaker) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	b.uploads.Add(1)
	_, _ = io.CopyN(io.Discard, r.Body, b.after)
	panic(http.ErrAbortHandler)
}

func TestUploadFailover(t *testing.T) {
	content := picture(t, 9<<20) // more than sockets take
	contentType, body := form(t, "a.jpg", content)
	for name, tc := range map[string]struct {
		after  int64
		buffer string
		works  bool
	}{
		"broken off in the middle, kept":     {after: 1 << 20, buffer: "64MiB", works: true},
		"broken off in the middle, not kept": {after: 1 << 20, buffer: "1MiB"},
		"broken off after the last byte":     {after: int64(len(body)), buffer: "64MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			w := startWechat(t)
			b := &breaker{after: tc.after}
			first := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "token") {
					w.ServeHTTP(rw, r)
					return
				}
				b.ServeHTTP(rw, r)
			}))
			first.Config.ConnState = func(c net.Conn, state http.ConnState) {
				if state == http.StateNew {
					_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
				}
			}
			first.Start()
			defer first.Close()
			g := startGateway(t, block(first.URL+" "+w.URL, "replay_buffer "+tc.buffer))
			res, reply := g.do("POST", "/media", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body))
			stored, _ := w.Stored()
			switch {
			case tc.works:
				uploaded(t, res, reply)
				if stored != 1 {
					t.Errorf("stored %d times", stored)
				}
			case res.StatusCode != 502 || stored != 0 || b.uploads.Load() > 2: // once more, if the connection had been used before
				t.Errorf("%d %s; sent %d times to the first host, stored %d times by the second", res.StatusCode, reply, b.uploads.Load(), stored)
			}
		})
	}
}

// WeChat closes a connection that was kept open, just as an upload goes out on it.
func TestConnectionThatDiedIdle(t *testing.T) {
	w := startWechat(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dying := &dyingListener{Listener: l}
	srv := &http.Server{Handler: w}
	go func() { _ = srv.Serve(dying) }()
	defer srv.Close()
	g := startGateway(t, block("http://"+l.Addr().String()))
	content := picture(t, 4<<20)
	for i := range 5 {
		if res, _ := g.get("/media/warm-up"); res.StatusCode != 200 {
			t.Fatal(res.StatusCode)
		}
		dying.arm() // the next bytes on any connection of now get a reset
		res, reply := g.upload("/media", "a.jpg", content)
		uploaded(t, res, reply)
		if dying.resets.Load() == 0 {
			t.Errorf("round %d: no connection died", i)
		}
	}
}

// dyingListener resets connections at their next read once it is armed.
type dyingListener struct {
	net.Listener
	mu     sync.Mutex
	conns  []*dyingConn
	resets atomic.Int64
}

type dyingConn struct {
	net.Conn
	l     *dyingListener
	armed atomic.Bool
}

func (l *dyingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &dyingConn{Conn: conn, l: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, c)
	return c, nil
}

func (l *dyingListener) arm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.armed.Store(true)
	}
}

func (c *dyingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.armed.Load() && n > 0 {
		c.l.resets.Add(1)
		_ = c.Conn.(*net.TCPConn).SetLinger(0)
		_ = c.Conn.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// The answer to an upload that is refused in the middle reaches its caller, in
// whichever shape: a connection that is closed at once takes the answer with it.
func TestRefusalReachesACallerWhoIsStillSending(t *testing.T) {
	w := startWechat(t)
	contentType, large := form(t, "a.jpg", picture(t, 300_000))
	for _, shape := range []string{"wechat", "caddy"} {
		g := startGateway(t, block(w.URL, "max_upload_size image 200KB", "errors "+shape)+`
			handle_errors {
				respond "handled"
			}`)
		for i := range 100 {
			var body io.Reader = bytes.NewReader(large)
			if i%2 == 1 { // of unknown length
				body = io.MultiReader(body)
			}
			req, _ := http.NewRequest("POST", g.URL+"/media", body)
			req.Header.Set("Content-Type", contentType)
			res, err := noRedirects.Do(req)
			if err != nil {
				t.Fatalf("errors %s: %v", shape, err)
			}
			answer, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != 413 || len(answer) == 0 {
				t.Errorf("errors %s: %d %s, %v", shape, res.StatusCode, answer, err)
			}
		}
	}
}

// A caller may read as slowly as Caddy lets him: the clock is for WeChat.
func TestSlowReaderIsNotCutShort(t *testing.T) {
	const size = 24 << 20 // more than sockets take
	up := fakeWechat(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Disposition", "attachment")
		rw.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.CopyN(rw, zeroes{}, size)
	})
	g := startGateway(t, block(up.URL, "transport wechat {\nread_timeout 250ms\n}"))
	res, err := noRedirects.Get(g.URL + "/media/abc")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.CopyN(io.Discard, res.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // four times what WeChat may take
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n != size-1<<20 {
		t.Errorf("%d bytes more, %v", n, err)
	}
}

// A video's answer is a URL that is good for a short time: no cache keeps it.
func TestVideoURLIsNotCached(t *testing.T) {
	up := fakeWechat(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain")
		rw.Header().Set("Cache-Control", "no-cache, must-revalidate")
		_, _ = io.WriteString(rw, `{"video_url":"http://example.com/v.mp4"}`)
	})
	g := startGateway(t, block(up.URL, "cache_control max-age=60"))
	res, body := g.get("/media/abc")
	if res.StatusCode != 200 || res.Header.Get("Cache-Control") != "no-cache, must-revalidate" || res.Header.Get("Etag") != "" || !strings.Contains(string(body), "video_url") {
		t.Errorf("%d %v %s", res.StatusCode, res.Header, body)
	}
}

// Trailers of a caller's are not WeChat's business, and make nothing chunked.
func TestTrailersOfCallers(t *testing.T) {
	w := startWechat(t)
	contentType, body := form(t, "a.jpg", picture(t, 500))
	for name, site := range map[string]string{
		"handler": block(w.URL),
		"bare":    bare(w.URL),
	} {
		g := startGateway(t, site)
		w.reset()
		answer := g.raw(fmt.Sprintf("POST /cgi-bin/media/upload?type=image HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %s\r\n"+
			"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n", contentType, len(body), body))
		if !strings.Contains(answer, "media_id") {
			t.Errorf("%s: %s", name, answer)
		}
		got := w.only(t, "/cgi-bin/media/upload")
		if got.transferEncoding != nil || got.contentLength != int64(len(body)) || got.header["Trailer"] != nil {
			t.Errorf("%s: WeChat got %v, Content-Length %d, %v", name, got.transferEncoding, got.contentLength, got.header)
		}
	}
}

// net/http asks for the body anew when a connection turns out to be dead: there is none
// for an upload that was not kept.
func TestNoBodyAnewForWhatWasNotKept(t *testing.T) {
	for kept, budget := range map[bool]int64{true: 1 << 20, false: 0} {
		u := replay.New(bytes.NewReader(randomBytes(t, 200_000)), replay.Options{Length: 200_000, Budget: replay.NewBudget(budget)})
		out := new(http.Request)
		new(Transport).setBody(out, u, new(attempt))
		if _, err := io.Copy(io.Discard, out.Body); err != nil {
			t.Fatal(err)
		}
		_ = out.Body.Close()
		again, err := out.GetBody()
		if (err == nil) != kept {
			t.Errorf("kept %v: %v", kept, err)
		}
		if err == nil {
			_ = again.Close()
		}
		u.Finish()
	}
}

// Without the handler, too, memory goes back whatever becomes of an upload.
func TestBareTransportGivesMemoryBack(t *testing.T) {
	w := startWechat(t)
	contentType, body := form(t, "a.jpg", picture(t, 200_000))
	for upstream, options := range map[string]string{
		"http://127.0.0.1:1": "",
		w.URL:                "lb_retries 1\nlb_retry_match {\nexpression `{rp.status_code} == 418`\n}",
	} {
		g := startGateway(t, "reverse_proxy "+upstream+" {\n"+options+"\ntransport wechat {\napp "+testAppID+" {\ntoken file "+tokenFile(t, w)+"\n}\n}\n}")
		for _, known := range []bool{true, false} {
			in := io.Reader(bytes.NewReader(body))
			if !known {
				in = io.MultiReader(in)
			}
			g.do("POST", "/cgi-bin/media/upload?type=image", http.Header{"Content-Type": {contentType}}, in)
		}
		waitUntilNothingIsKept(t)
	}
}

// Without the handler, too, the next host gets all of an upload: when the first one
// cannot be reached, and when the proxy takes its answer for a reason to ask again.
func TestBareTransportTriesTheNextHost(t *testing.T) {
	w, busy := startWechat(t), startWechat(t)
	contentType, body := form(t, "a.jpg", picture(t, 200_000))
	const onBusy = "lb_retry_match {\nexpression `{rp.status_code} == 500`\n}"
	for name, tc := range map[string]struct{ upstreams, options, replay string }{
		"unreachable":            {"http://127.0.0.1:1 " + w.URL, "", ""},
		"unreachable, none kept": {"http://127.0.0.1:1 " + w.URL, "", "replay_buffer 1"},
		"another answer":         {busy.URL + " " + w.URL, onBusy, ""},
	} {
		g := startGateway(t, "reverse_proxy "+tc.upstreams+" {\nlb_policy wechat_failover\nlb_retries 1\n"+tc.options+
			"\ntransport wechat {\n"+tc.replay+"\napp "+testAppID+" {\ntoken file "+tokenFile(t, w, busy)+"\n}\n}\n}")
		for _, known := range []bool{true, false} {
			if !known && tc.replay != "" {
				continue // there is no memory to gather it in
			}
			w.reset()
			busy.Respond(sandbox.MediaUpload, 1, func(rw http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				rw.WriteHeader(http.StatusInternalServerError)
			})
			in := io.Reader(bytes.NewReader(body))
			if !known {
				in = io.MultiReader(in)
			}
			res, reply := g.do("POST", "/cgi-bin/media/upload?type=image", http.Header{"Content-Type": {contentType}}, in)
			if !strings.Contains(string(reply), "media_id") {
				t.Errorf("%s, length known %v: %d %s", name, known, res.StatusCode, reply)
				continue
			}
			if got := w.only(t, "/cgi-bin/media/upload"); !bytes.Equal(got.body, body) {
				t.Errorf("%s, length known %v: the bytes differ", name, known)
			}
		}
		busy.ResetFaults()
		waitUntilNothingIsKept(t)
	}
}

// An upload that was not kept cannot go to another host: that is nobody's failure.
func TestNothingToSendAgain(t *testing.T) {
	contentType, body := form(t, "a.jpg", picture(t, 200_000))
	for name, site := range map[string]string{
		"handler": "wechat_media %s {\nreplay_buffer 1\napp %s\n%s\n}",
		"bare":    "reverse_proxy %s {\ntransport wechat {\nreplay_buffer 1\napp %s\n}\nlb_policy wechat_failover\n%s\n}",
	} {
		w, busy := startWechat(t), startWechat(t)
		g := startGateway(t, fmt.Sprintf(site, busy.URL+" "+w.URL, testAppID+" {\ntoken file "+tokenFile(t, w, busy)+"\n}",
			"lb_retries 1\nfail_duration 1h\nmax_fails 1\nlb_retry_match {\nexpression `{rp.status_code} == 500`\n}"))
		busy.Respond(sandbox.MediaUpload, 1, func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			rw.WriteHeader(http.StatusInternalServerError)
		})
		upload := func() (*http.Response, []byte) {
			return g.do("POST", "/cgi-bin/media/upload?type=image", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body))
		}
		res, reply := upload()
		if want := map[string]int{"handler": 500, "bare": 503}[name]; res.StatusCode != want || len(w.requests()) > 0 {
			t.Errorf("%s: %d %s, and the other host was asked %d times", name, res.StatusCode, reply, len(w.requests()))
		}
		for range 2 {
			res, reply = upload()
			uploaded(t, res, reply)
		}
		if n := len(busy.requests()); n != 3 {
			t.Errorf("%s: the first host was asked %d times", name, n)
		}
		busy.down(true)
		if _, reply := g.get("/cgi-bin/media/get?media_id=abc"); !strings.Contains(string(reply), "40007") {
			t.Errorf("%s: the other host counts as down: %s", name, reply)
		}
	}
}

// Once a request has been answered, nobody reads from its caller any more, although
// there is more to come: its server has it back.
func TestNobodyReadsAnAnsweredRequest(t *testing.T) {
	up := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "token") {
			_, _ = io.WriteString(rw, `{"access_token":"0123456789012345678901234567890123456789","expires_in":7200}`)
			return
		}
		rw.Header().Set("Connection", "close")
		_, _ = io.WriteString(rw, `{"errcode":45001,"errmsg":"media size out of limit"}`)
	}))
	const bareAlone = "bare" // where Caddy's server first reads the request, and then answers
	for name, site := range map[string]string{"handler": block(up.URL), bareAlone: bare(up.URL), "bare, lingering": "wechat_linger\n" + bare(up.URL)} {
		g := startGateway(t, site)
		for range 5 {
			conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprintf(conn, "POST /cgi-bin/media/upload?type=image HTTP/1.1\r\nHost: x\r\n"+
				"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 2000000\r\n\r\n--b\r\n")
			answer := make(chan string, 1)
			go func() {
				line, err := bufio.NewReader(conn).ReadString('\n')
				answer <- fmt.Sprint(line, err)
			}()
			for begin := time.Now(); time.Since(begin) < 300*time.Millisecond; time.Sleep(time.Millisecond) {
				if _, err := conn.Write(make([]byte, 1000)); err != nil {
					break
				}
			}
			if name == bareAlone {
				_ = conn.Close()
			}
			if got := <-answer; name != bareAlone && !strings.HasPrefix(got, "HTTP/1.1 200") {
				t.Errorf("%s: %q", name, got)
			}
			_ = conn.Close()
		}
		waitUntilNothingIsKept(t)
	}
}
