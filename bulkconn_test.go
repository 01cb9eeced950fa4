package wechatmedia

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// wireConn is one end of a connection in memory that takes any number of bytes at
// once, and counts.
type wireConn struct {
	in, out       *wireHalf
	reads, writes int
}

type wireHalf struct {
	mu      sync.Mutex
	changed *sync.Cond
	bytes.Buffer
	closed bool
}

func newWire() (a, b *wireConn) {
	one, two := new(wireHalf), new(wireHalf)
	one.changed, two.changed = sync.NewCond(&one.mu), sync.NewCond(&two.mu)
	return &wireConn{in: one, out: two}, &wireConn{in: two, out: one}
}

func (c *wireConn) Read(p []byte) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	for c.in.Len() == 0 && !c.in.closed {
		c.in.changed.Wait()
	}
	c.reads++
	return c.in.Buffer.Read(p)
}

func (c *wireConn) Write(p []byte) (int, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.writes++
	c.out.changed.Broadcast()
	return c.out.Buffer.Write(p)
}

func (c *wireConn) Close() error {
	for _, half := range []*wireHalf{c.in, c.out} {
		half.mu.Lock()
		half.closed = true
		half.changed.Broadcast()
		half.mu.Unlock()
	}
	return nil
}

func (*wireConn) LocalAddr() net.Addr              { return nil }
func (*wireConn) RemoteAddr() net.Addr             { return nil }
func (*wireConn) SetDeadline(time.Time) error      { return nil }
func (*wireConn) SetReadDeadline(time.Time) error  { return nil }
func (*wireConn) SetWriteDeadline(time.Time) error { return nil }

// serverTLS is a server's config, and a client's that trusts it.
func serverTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	cert, key := testCertificate(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pem, _ := os.ReadFile(cert)
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{Certificates: []tls.Certificate{pair}}, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

// connected is a bulkConn with a server at the other end, in memory.
func connected(t testing.TB) (c *bulkConn, client *wireConn, server *tls.Conn, wire *wireConn) {
	t.Helper()
	serverConfig, clientConfig := serverTLS(t)
	clientConfig.DynamicRecordSizingDisabled = true
	client, wire = newWire()
	server = tls.Server(wire, serverConfig)
	c = newBulkConn(client, clientConfig)
	handshake := make(chan error)
	go func() { handshake <- server.Handshake() }()
	if err := errors.Join(c.Handshake(), <-handshake); err != nil {
		t.Fatal(err)
	}
	return c, client, server, wire
}

// Bytes come through in both directions at once, whatever the sizes of reads,
// writes and records.
func TestBulkConnCarriesBytes(t *testing.T) {
	c, _, server, _ := connected(t)
	sent, answered := randomBytes(t, 3<<20), randomBytes(t, 3<<20)
	pour := func(w io.Writer, b []byte) {
		for len(b) > 0 {
			n := min(len(b), 1+rand.IntN(1<<rand.IntN(18)))
			if _, err := w.Write(b[:n]); err != nil {
				t.Error(err)
				return
			}
			b = b[n:]
		}
	}
	drain := func(r io.Reader, want []byte) {
		got := make([]byte, 0, len(want))
		for len(got) < len(want) {
			p := make([]byte, min(len(want)-len(got), 1+rand.IntN(1<<rand.IntN(17))))
			n, err := r.Read(p)
			if err != nil {
				t.Error(err)
				return
			}
			got = append(got, p[:n]...)
		}
		if !bytes.Equal(got, want) {
			t.Error("the bytes differ")
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { pour(c, sent) })
	wg.Go(func() { drain(server, sent) })
	wg.Go(func() { pour(server, answered) })
	wg.Go(func() { drain(c, answered) })
	wg.Wait()
}

// Records that are there are read together, and those of one write are written so.
func TestBulkConnMovesMuchAtOnce(t *testing.T) {
	c, client, server, _ := connected(t)
	const size = 1 << 20
	if _, err := server.Write(make([]byte, size)); err != nil { // all of it is there now
		t.Fatal(err)
	}
	client.reads = 0
	reads := 0
	for p, n := make([]byte, 32<<10), 0; n < size; reads++ {
		m, err := c.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if reads > size/(32<<10)*3/2 || client.reads > size/(32<<10)*3/2 {
		t.Errorf("%d reads, %d from below TLS", reads, client.reads)
	}

	client.writes = 0
	if n, err := io.Copy(c, io.LimitReader(zeros{}, size)); n != size || err != nil {
		t.Fatal(n, err)
	}
	if client.writes > size/(32<<10)+1 {
		t.Errorf("%d writes below TLS", client.writes)
	}
	if n, err := io.ReadFull(server, make([]byte, size)); n != size || err != nil {
		t.Error(n, err)
	}

	client.writes = 0
	u := newUpload(zeros{}, size, &budget{limit: size})
	a := u.open(nil)
	if n, err := io.Copy(c, io.LimitReader(a, size)); n != size || err != nil {
		t.Fatal(n, err)
	}
	a.Close()
	u.finish()
	if client.writes > size/uploadChunk {
		t.Errorf("%d writes of an upload below TLS", client.writes)
	}
	if n, err := io.ReadFull(server, make([]byte, size)); n != size || err != nil {
		t.Error(n, err)
	}
}

// http.Transport hands uploads over so that they are written in few pieces.
func TestUploadLeavesInFewPieces(t *testing.T) {
	const size = 1 << 20
	serverConfig, clientConfig := serverTLS(t)
	client, wire := newWire()
	go func() {
		server := tls.Server(wire, serverConfig)
		req, err := http.ReadRequest(bufio.NewReader(server))
		if err != nil {
			t.Error(err)
			return
		}
		n, _ := io.Copy(io.Discard, req.Body)
		fmt.Fprintf(server, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n%d", n)
	}()
	rt := &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c := newBulkConn(client, clientConfig)
		err := c.HandshakeContext(ctx)
		client.writes = 0
		return c, err
	}}
	defer rt.CloseIdleConnections()
	req, _ := http.NewRequest(http.MethodPost, "https://127.0.0.1/", nil)
	u := newUpload(zeros{}, size, &budget{limit: size})
	defer u.finish()
	req.Body = u.open(nil)
	req.ContentLength = size
	res, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != fmt.Sprint(size) {
		t.Errorf("%q, %v", body, err)
	}
	if client.writes > size/uploadChunk+2 {
		t.Errorf("%d writes", client.writes)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What is there is handed out without waiting for more.
func TestBulkConnWaitsForNothing(t *testing.T) {
	c, _, server, _ := connected(t)
	for _, size := range []int{1, minBulk, tlsPlaintext, tlsPlaintext + 1, 20_000} {
		if _, err := server.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < size; {
			m, err := c.Read(make([]byte, 64<<10))
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
	}
}

// A connection that breaks off anywhere in a record is seen to.
func TestBulkConnBreaksOff(t *testing.T) {
	body := randomBytes(t, 20_000)
	for cut := 1; cut < 20_060; cut += 997 {
		c, _, server, wire := connected(t)
		wire.out.mu.Lock()
		tickets := wire.out.Len() // of TLS itself, not read yet
		wire.out.mu.Unlock()
		if _, err := server.Write(body); err != nil {
			t.Fatal(err)
		}
		wire.out.mu.Lock()
		wire.out.Truncate(tickets + cut)
		wire.out.mu.Unlock()
		_ = wire.Close()
		got, err := io.ReadAll(c)
		if err == nil || !bytes.HasPrefix(body, got) {
			t.Errorf("cut after %d bytes: %d bytes, %v", cut, len(got), err)
		}
	}
}

// A connection that idles holds no buffer.
func TestBulkConnIdlesWithoutABuffer(t *testing.T) {
	c, _, server, _ := connected(t)
	if _, err := server.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if c.records.buf != nil || len(c.records.ahead) > 0 {
		t.Errorf("%d bytes are ahead", len(c.records.ahead))
	}
}

// A deadline that passes does not break the connection.
func TestBulkConnDeadline(t *testing.T) {
	serverConfig, clientConfig := serverTLS(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", serverConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_ = conn.(*tls.Conn).Handshake()
		}
		accepted <- conn
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := newBulkConn(raw, clientConfig)
	defer c.Close()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	server := <-accepted
	defer server.Close()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("ended with %v", err)
	}
	_ = c.SetReadDeadline(time.Time{})
	_, _ = io.WriteString(server, "late")
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "late" {
		t.Errorf("%q, %v", got, err)
	}

	// nobody reads what is written now; closing ends that at once
	ended := make(chan error)
	go func() {
		_, err := io.Copy(c, zeros{})
		ended <- err
	}()
	time.Sleep(100 * time.Millisecond)
	start := time.Now()
	_ = c.Close()
	if err := <-ended; err == nil || time.Since(start) > 4*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// Only where TLS and HTTP/1.1 are all there is.
func TestWhoGetsBulkConns(t *testing.T) {
	for name, tc := range map[string]struct {
		transport reverseproxy.HTTPTransport
		want      bool
	}{
		"TLS":            {reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig)}, true},
		"HTTP/2":         {reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig), Versions: []string{"1.1", "2"}}, false},
		"no TLS":         {reverseproxy.HTTPTransport{}, false},
		"PROXY protocol": {reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig), ProxyProtocol: "v1"}, false},
	} {
		rt := &Transport{HTTPTransport: &tc.transport}
		rt.setDefaults()
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		defer cancel()
		if err := rt.HTTPTransport.Provision(ctx); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		before := rt.HTTPTransport.Transport.DialTLSContext != nil
		rt.useBulkConns()
		if got := !before && rt.HTTPTransport.Transport.DialTLSContext != nil; got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// A host that takes connections and says nothing, and one whose certificate is
// nobody's, are found out.
func TestHandshakeThatFails(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stranger := httptest.NewTLSServer(http.NotFoundHandler())
	defer stranger.Close()
	for name, tc := range map[string]struct {
		url  string
		want int
	}{
		"silent": {"https://" + silent.Addr().String(), http.StatusGatewayTimeout}, "stranger": {stranger.URL, http.StatusBadGateway},
	} {
		// the token comes from elsewhere
		tokens := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(rw, `{"access_token":"`+string(bytes.Repeat([]byte("t"), 64))+`","expires_in":7200}`)
		}))
		g := startGateway(t, "wechat_media "+tc.url+" {\napp "+testAppID+" {\ntoken server "+tokens.URL+"\n}\ntransport wechat {\ntls_timeout 1s\n}\n}")
		if res, body := g.get("/media/abc"); res.StatusCode != tc.want {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
	}
}
