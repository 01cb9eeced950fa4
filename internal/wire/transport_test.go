package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// httpServer counts its connections.
type httpServer struct {
	*httptest.Server
	mu      sync.Mutex
	open    map[net.Conn]http.ConnState
	resumed int // requests on resumed sessions
}

func newHTTPServer(t testing.TB, version uint16) (*httpServer, *tls.Config) {
	t.Helper()
	server, client := serverTLS(t)
	server.MaxVersion = version
	s := &httpServer{open: make(map[net.Conn]http.ConnState)}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.answer))
	s.TLS = server
	s.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[conn] = state; state == http.StateClosed {
			delete(s.open, conn)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, client
}

// answer closes the connection and says how long the upload was.
func (s *httpServer) answer(w http.ResponseWriter, r *http.Request) {
	if r.TLS.DidResume {
		s.mu.Lock()
		s.resumed++
		s.mu.Unlock()
	}
	n, _ := io.Copy(io.Discard, r.Body)
	w.Header().Set("Connection", "close")
	_, _ = fmt.Fprint(w, n)
}

// counter counts events, and lets a test wait for what happens in the background.
type counter struct {
	mu     sync.Mutex
	events map[SpareEvent]int
}

func (c *counter) observe(e SpareEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.events == nil {
		c.events = make(map[SpareEvent]int)
	}
	c.events[e]++
}

func (c *counter) count(e SpareEvent) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events[e]
}

// eventually waits for what happens on sockets, which no fake clock knows of.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(end) {
			t.Fatalf("it did not come to that: %s", what)
		}
		runtime.Gosched()
	}
}

// Requests to a server that closes each connection are carried by spares, which
// resume sessions; through http.Transport, and also through an egress proxy.
func TestSparesCarryRequests(t *testing.T) {
	for name, version := range versions {
		for _, scheme := range []string{"", "http", "socks5"} {
			s, config := newHTTPServer(t, version)
			var events counter
			options := Options{Dial: dialTCP, TLS: config, MaxSpares: 4, Stall: time.Minute, Observe: events.observe}
			if scheme != "" {
				p := startProxy(t, scheme, nil)
				options.Proxy = func(context.Context, *url.URL) (*url.URL, error) {
					return p.url(url.UserPassword(proxyUser, proxyPassword)), nil
				}
			}
			d := NewDialer(options)
			defer d.Close()
			rt := &http.Transport{DialTLSContext: d.DialTLSContext}
			const requests = 8
			for i := range requests {
				body := randomBytes(i * 10_000)
				req, _ := http.NewRequest(http.MethodPost, s.URL, bytes.NewReader(body))
				end := d.Begin(t.Context(), req.URL)
				res, err := rt.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(res.Body)
				if err != nil || string(got) != fmt.Sprint(len(body)) {
					t.Fatalf("%q, %v", got, err)
				}
				_ = res.Body.Close()
				end.End()
				eventually(t, "a spare", func() bool { return d.Spares() > 0 })
			}
			if events.count(SpareMissed) != 1 || events.count(SpareTaken) != requests-1 {
				t.Errorf("%s, proxy %q: %v", name, scheme, events.events)
			}
			s.mu.Lock()
			if s.resumed < requests-2 { // the first one, and the spare made beside it
				t.Errorf("%s, proxy %q: %d of %d resumed", name, scheme, s.resumed, requests)
			}
			s.mu.Unlock()
		}
	}
}

// Close closes the spares and nothing else, and no goroutine is left.
func TestCloseLeavesNothing(t *testing.T) {
	s, config := listenTLS(t, 0)
	before := runtime.NumGoroutine()
	d := NewDialer(Options{Dial: dialTCP, TLS: config, MaxSpares: 4})
	conn, err := d.DialTLSContext(t.Context(), "tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a spare", func() bool { return d.Spares() == 1 })
	servers := []*tls.Conn{s.accept(t), s.accept(t)}
	d.Close()
	if n := d.Spares(); n != 0 {
		t.Errorf("%d spares", n)
	}
	eventually(t, "no goroutine", func() bool { return runtime.NumGoroutine() <= before })
	ended := make(chan error, 2)
	for _, server := range servers {
		go func() {
			_, err := server.Read(make([]byte, 1))
			ended <- err
		}()
	}
	if err := <-ended; err != io.EOF { // of the spare
		t.Error(err)
	}
	_ = conn.Close()
	if err := <-ended; err != io.EOF {
		t.Error(err)
	}
	conn, err = d.DialTLSContext(t.Context(), "tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if n := d.Spares(); n != 0 {
		t.Errorf("%d spares", n)
	}
}

// A spare that its server has closed is never handed out, however little time has
// passed since; one that its server has sent a byte neither.
func TestNoDeadSpareIsTaken(t *testing.T) {
	for name, version := range versions {
		for fate, kill := range map[string]func(*tls.Conn){
			"closed":     func(server *tls.Conn) { _ = server.Close() },
			"broken off": func(server *tls.Conn) { _ = server.NetConn().Close() },
			"talking":    func(server *tls.Conn) { _, _ = io.WriteString(server, "HTTP/1.1 408 Request Timeout\r\n") },
		} {
			s, config := listenTLS(t, version)
			var events counter
			d := NewDialer(Options{Dial: dialTCP, TLS: config, MaxSpares: 1, Observe: events.observe})
			first, err := d.DialTLSContext(t.Context(), "tcp", s.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = first.Close()
			for range 5 {
				var addr string
				eventually(t, "a spare", func() bool {
					d.mu.Lock()
					defer d.mu.Unlock()
					for _, dst := range d.destinations {
						dst.retry = time.Time{} // it does not wait because one died young
						dst.maintain()
						for _, s := range dst.spares {
							addr = s.LocalAddr().String()
						}
					}
					return addr != ""
				})
				server := s.accept(t)
				for server.RemoteAddr().String() != addr {
					server = s.accept(t)
				}
				kill(server)
				conn, err := d.DialTLSContext(t.Context(), "tcp", s.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				if conn.LocalAddr().String() == addr {
					t.Errorf("%s: handed out, %s", name, fate)
				}
				_ = conn.Close()
			}
			d.Close()
		}
	}
}

// A spare takes in the session tickets that come while it waits.
func TestSpareTakesTickets(t *testing.T) {
	c, server := connectedToScribe(t)
	s := &spare{Conn: c, ended: make(chan error, 1)}
	go func() { s.ended <- s.watch() }()
	server.send(server.seal(recordHandshake, newSessionTicket), server.seal(recordHandshake, newSessionTicket))
	eventually(t, "a session", func() bool {
		_, ok := server.sessions.Get("wechat.test")
		return ok
	})
	_ = server.Close()
	if err := <-s.ended; err == nil {
		t.Error("its end was not heard of")
	}
}

// chunks is an upload that is written in pieces of its own.
type chunks struct {
	size, piece int
	pieces      atomic.Int32
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.size == 0 {
		return 0, io.EOF
	}
	n := min(len(p), c.size)
	clear(p[:n])
	c.size -= n
	return n, nil
}

func (c *chunks) Close() error { return nil }

func (c *chunks) WriteTo(w io.Writer) (sum int64, err error) {
	for c.size > 0 && err == nil {
		c.pieces.Add(1)
		var n int
		n, err = w.Write(make([]byte, min(c.piece, c.size)))
		c.size -= n
		sum += int64(n)
	}
	return sum, err
}

// http.Transport hands uploads over so that they are written in few pieces, and with
// no more than was announced.
func TestUploads(t *testing.T) {
	s, config := newHTTPServer(t, 0)
	d := NewDialer(Options{Dial: dialTCP, TLS: config})
	rt := &http.Transport{DialTLSContext: d.DialTLSContext, DialContext: d.DialContext}
	const size = 1 << 20
	send := func(c *chunks) (string, error) {
		req, _ := http.NewRequest(http.MethodPost, s.URL, c)
		req.ContentLength = size
		res, err := rt.RoundTrip(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		return string(got), err
	}
	exact := &chunks{size: size, piece: maxWrite}
	if got, err := send(exact); err != nil || got != fmt.Sprint(size) || exact.pieces.Load() != size/maxWrite {
		t.Errorf("%q, %v, %d pieces", got, err, exact.pieces.Load())
	}
	for _, off := range []int{-1000, 1, 1000, size} {
		c := &chunks{size: size + off, piece: maxWrite}
		if got, err := send(c); err == nil && got == fmt.Sprint(size) && off > 0 {
			t.Logf("%d bytes too many: answered", off) // the server has all it asked for
		} else if err == nil {
			t.Errorf("%d bytes too many: %q", off, got)
		}
	}
}

// ReadFrom writes no more than the limit of what it is given, and says how much that
// was.
func TestReadFrom(t *testing.T) {
	for name, tc := range map[string]struct {
		r         io.Reader
		want      int64
		left      int64
		wantError error
	}{
		"no limit":        {&chunks{size: 300, piece: 100}, 300, 0, nil},
		"exact":           {&io.LimitedReader{R: &chunks{size: 300, piece: 100}, N: 300}, 300, 0, nil},
		"less":            {&io.LimitedReader{R: &chunks{size: 250, piece: 100}, N: 300}, 250, 50, nil},
		"more":            {&io.LimitedReader{R: &chunks{size: 400, piece: 100}, N: 300}, 300, 0, io.ErrShortWrite},
		"more, in pieces": {&io.LimitedReader{R: &chunks{size: 400, piece: 70}, N: 300}, 300, 0, io.ErrShortWrite},
		"nothing":         {&io.LimitedReader{R: &chunks{size: 400, piece: 100}, N: 0}, 0, 0, io.ErrShortWrite},
		"no io.WriterTo":  {&io.LimitedReader{R: struct{ io.Reader }{strings.NewReader("abc")}, N: 2}, 2, 0, nil},
	} {
		client, server := newWire()
		n, err := (&Conn{Conn: client}).ReadFrom(tc.r)
		if n != tc.want || !errors.Is(err, tc.wantError) || int64(server.in.Len()) != tc.want {
			t.Errorf("%s: %d, %v, %d bytes out", name, n, err, server.in.Len())
		}
		if limited, ok := tc.r.(*io.LimitedReader); ok && limited.N != tc.left {
			t.Errorf("%s: %d left", name, limited.N)
		}
	}
}
