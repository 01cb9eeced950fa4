package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	proxyUser     = "sentinel-user"
	proxyPassword = "sentinel-p@ss word"
)

// egressProxy is a proxy of any kind, which takes the user above alone.
type egressProxy struct {
	net.Listener
	scheme string
	mu     sync.Mutex
	asked  []string // where to
}

func startProxy(t testing.TB, scheme string, server *tls.Config) *egressProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if scheme == "https" {
		l = tls.NewListener(l, server)
	}
	p := &egressProxy{Listener: l, scheme: scheme}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				p.serve(conn)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return p
}

func (p *egressProxy) url(user *url.Userinfo) *url.URL {
	return &url.URL{Scheme: p.scheme, Host: p.Addr().String(), User: user}
}

func (p *egressProxy) serve(conn net.Conn) {
	var target string
	var ok bool
	if strings.HasPrefix(p.scheme, "socks") {
		target, ok = serveSOCKS(conn)
	} else {
		target, ok = serveCONNECT(conn)
	}
	if !ok {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, target)
	p.mu.Unlock()
	_, port, _ := net.SplitHostPort(target)
	far, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return
	}
	defer far.Close()
	go func() { _, _ = io.Copy(far, conn); _ = far.Close() }()
	_, _ = io.Copy(conn, far)
}

func serveCONNECT(conn net.Conn) (target string, ok bool) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil || req.Method != http.MethodConnect {
		return "", false
	}
	r := http.Request{Header: http.Header{"Authorization": req.Header["Proxy-Authorization"]}}
	if user, password, ok := r.BasicAuth(); !ok || user != proxyUser || password != proxyPassword {
		_, _ = io.WriteString(conn, "HTTP/1.1 407 No\r\nContent-Length: 0\r\nX-Said: "+user+password+"\r\n\r\n")
		return "", false
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	return req.Host, true
}

func serveSOCKS(conn net.Conn) (target string, ok bool) {
	read := func(n int) []byte {
		b := make([]byte, n)
		_, _ = io.ReadFull(conn, b)
		return b
	}
	read(int(read(2)[1])) // methods
	_, _ = conn.Write([]byte{5, 2})
	user := string(read(int(read(2)[1])))
	password := string(read(int(read(1)[0])))
	if user != proxyUser || password != proxyPassword {
		_, _ = conn.Write([]byte{1, 1})
		return "", false
	}
	_, _ = conn.Write([]byte{1, 0})
	var host string
	switch read(4)[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	}
	port := binary.BigEndian.Uint16(read(2))
	_, err := conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return net.JoinHostPort(host, strconv.Itoa(int(port))), err == nil
}

// Sessions are resumed on every way there is, and names are the proxy's to resolve.
func TestEgressProxies(t *testing.T) {
	for name, version := range versions {
		for _, scheme := range []string{"", "http", "https", "socks5", "socks5h"} {
			s, config := listenTLS(t, version)
			_, port, _ := net.SplitHostPort(s.Addr().String())
			addr := net.JoinHostPort("wechat.test", port)
			options := Options{TLS: config, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				_, port, _ := net.SplitHostPort(addr)
				return dialTCP(ctx, network, "127.0.0.1:"+port)
			}}
			var p *egressProxy
			if scheme != "" {
				p = startProxy(t, scheme, s.config)
				options.Proxy = func(_ context.Context, u *url.URL) (*url.URL, error) {
					if u.String() != "https://"+addr {
						t.Errorf("asked for the proxy to %s", u)
					}
					return p.url(url.UserPassword(proxyUser, proxyPassword)), nil
				}
			}
			d := NewDialer(options)
			for i := range 3 {
				conn, err := d.DialTLSContext(t.Context(), "tcp", addr)
				if err != nil {
					t.Fatalf("%s, proxy %q: %v", name, scheme, err)
				}
				defer conn.Close()
				server := s.accept(t)
				if got := server.ConnectionState().DidResume; got != (i > 0) {
					t.Errorf("%s, proxy %q: resumed %t the %d. time", name, scheme, got, i)
				}
				if got := server.ConnectionState().ServerName; got != "wechat.test" {
					t.Errorf("server name %q", got)
				}
				body := randomBytes(300_000)
				var wg sync.WaitGroup
				wg.Go(func() { pour(t, server, body) })
				wg.Go(func() { drain(t, conn, body) })
				wg.Go(func() { pour(t, conn, body) })
				wg.Go(func() { drain(t, server, body) })
				wg.Wait()
			}
			if p != nil {
				p.mu.Lock()
				if len(p.asked) != 3 || p.asked[0] != addr {
					t.Errorf("%s was asked for %q", scheme, p.asked)
				}
				p.mu.Unlock()
			}
		}
	}
}

// What an egress proxy refuses is said without the password.
func TestEgressProxyRefuses(t *testing.T) {
	const wrong = "sentinel-wrong"
	server, config := serverTLS(t)
	for _, scheme := range []string{"http", "https", "socks5"} {
		p := startProxy(t, scheme, server)
		d := NewDialer(Options{Dial: dialTCP, TLS: config, Proxy: func(context.Context, *url.URL) (*url.URL, error) {
			return p.url(url.UserPassword(proxyUser, wrong)), nil
		}})
		conn, err := d.DialTLSContext(t.Context(), "tcp", "127.0.0.1:1")
		if err == nil || conn != nil {
			t.Fatalf("%s: %v, %v", scheme, conn, err)
		}
		if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, "sentinel") {
			t.Errorf("%s: %s", scheme, text)
		}
		if scheme != "socks5" && !strings.Contains(err.Error(), "407") {
			t.Errorf("%s: %v", scheme, err)
		}
	}
	d := NewDialer(Options{Dial: dialTCP, Proxy: func(context.Context, *url.URL) (*url.URL, error) {
		return nil, errors.New("not a proxy: http://" + proxyUser + ":" + wrong + "@127.0.0.1:1")
	}})
	if _, err := d.DialTLSContext(t.Context(), "tcp", "127.0.0.1:1"); err == nil || strings.Contains(err.Error(), "sentinel") {
		t.Error(err)
	}
	d = NewDialer(Options{Dial: dialTCP, Proxy: func(context.Context, *url.URL) (*url.URL, error) {
		return url.Parse("gopher://" + proxyUser + ":" + wrong + "@127.0.0.1:1")
	}})
	if _, err := d.DialTLSContext(t.Context(), "tcp", "127.0.0.1:1"); err == nil || strings.Contains(err.Error(), "sentinel") {
		t.Error(err)
	}
}

// dialError is what a caller's Dial marks its errors with.
type dialError struct{ error }

// Errors of Dial are found in those of the Dialer, whatever lies in between.
func TestDialErrorsPass(t *testing.T) {
	for _, scheme := range []string{"", "http", "https", "socks5"} {
		d := NewDialer(Options{
			Dial: func(context.Context, string, string) (net.Conn, error) { return nil, dialError{io.ErrNoProgress} },
			Proxy: func(context.Context, *url.URL) (*url.URL, error) {
				if scheme == "" {
					return nil, nil
				}
				return &url.URL{Scheme: scheme, Host: "127.0.0.1"}, nil
			},
			MaxSpares: 2,
		})
		for _, dial := range []func(context.Context, string, string) (net.Conn, error){d.DialTLSContext, d.DialContext} {
			conn, err := dial(t.Context(), "tcp", "127.0.0.1:1")
			var want dialError
			if conn != nil || !errors.As(err, &want) {
				t.Errorf("proxy %q: %v, %v", scheme, conn, err)
			}
		}
		d.Close()
	}
}

// Who takes connections and says nothing is found out, at each stage; and who gives
// up waiting does not have to wait for that.
func TestSilence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes them
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, scheme := range []string{"", "http", "https", "socks5"} {
		proxy := func(context.Context, *url.URL) (*url.URL, error) {
			if scheme == "" {
				return nil, nil
			}
			return &url.URL{Scheme: scheme, Host: l.Addr().String()}, nil
		}
		d := NewDialer(Options{Dial: dialTCP, Proxy: proxy, HandshakeTimeout: 20 * time.Millisecond})
		var timeout net.Error
		if _, err := d.DialTLSContext(t.Context(), "tcp", l.Addr().String()); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("proxy %q: %v", scheme, err)
		}
		d = NewDialer(Options{Dial: dialTCP, Proxy: proxy})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := d.DialTLSContext(ctx, "tcp", l.Addr().String()); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("proxy %q: %v", scheme, err)
		}
	}
}

// A certificate that is nobody's, or somebody else's, is found out.
func TestStrangers(t *testing.T) {
	s, config := listenTLS(t, 0)
	if _, err := NewDialer(Options{Dial: dialTCP}).DialTLSContext(t.Context(), "tcp", s.Addr().String()); err == nil {
		t.Error("a certificate of nobody's was taken")
	}
	name := "stranger.test"
	d := NewDialer(Options{Dial: dialTCP, TLS: config, ServerName: func(context.Context, string) string { return name }})
	if _, err := d.DialTLSContext(t.Context(), "tcp", s.Addr().String()); err == nil {
		t.Error("a certificate of somebody else's was taken")
	}
	name = "wechat.test"
	conn, err := d.DialTLSContext(t.Context(), "tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := s.accept(t).ConnectionState().ServerName; got != name {
		t.Errorf("server name %q", got)
	}
}
