package wire

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// serverTLS is a server's config, and a client's that trusts it.
func serverTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"wechat.test"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: pool}
}

func dialTCP(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// httpServer counts the connections that it is sent.
type httpServer struct {
	*httptest.Server
	mu      sync.Mutex
	opened  int
	resumed int
}

func newHTTPServer(t testing.TB, version uint16, closes bool) (*httpServer, *tls.Config) {
	server, client := serverTLS(t)
	server.MinVersion, server.MaxVersion = version, version
	s := new(httpServer)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.DidResume {
			s.mu.Lock()
			s.resumed++
			s.mu.Unlock()
		}
		if closes {
			w.Header().Set("Connection", "close")
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "hello")
	}))
	s.TLS = server
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.opened++
			s.mu.Unlock()
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, client
}

func TestSmoke(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s, config := newHTTPServer(t, version, true)
		events := make(map[SpareEvent]int)
		var mu sync.Mutex
		d := NewDialer(Options{Dial: dialTCP, TLS: config, MaxSpares: 4, Observe: func(e SpareEvent) { mu.Lock(); events[e]++; mu.Unlock() }})
		rt := &http.Transport{DialTLSContext: d.DialTLSContext}
		for range 20 {
			req, _ := http.NewRequest(http.MethodGet, s.URL, nil)
			end := d.Begin(t.Context(), req.URL)
			res, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			if err != nil || string(b) != "hello" {
				t.Fatal(string(b), err)
			}
			res.Body.Close()
			end()
		}
		d.Close()
		s.mu.Lock()
		t.Log(events, s.opened, s.resumed)
		s.mu.Unlock()
	}
}

// tlsListener hands out the server's ends.
type tlsListener struct {
	net.Listener
	config *tls.Config
	conns  chan *tls.Conn
}

func listenTLS(t testing.TB, version uint16) (*tlsListener, *tls.Config) {
	t.Helper()
	server, client := serverTLS(t)
	server.MaxVersion = version
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	s := &tlsListener{l, server, make(chan *tls.Conn, 1000)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				if conn.(*tls.Conn).Handshake() == nil {
					s.conns <- conn.(*tls.Conn)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		close(s.conns)
		for conn := range s.conns {
			_ = conn.Close()
		}
	})
	return s, client
}

// accept returns a connection whose handshake is over.
func (s *tlsListener) accept(t testing.TB) *tls.Conn {
	conn := <-s.conns
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
