package wire

// How a connection is made: the way through egress proxies, and TLS.

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"golang.org/x/net/proxy"
)

// maxProxyReply is how long an egress proxy's answer may be, in bytes.
const maxProxyReply = 64 << 10

// route is where a connection leads.
type route struct {
	network, addr string
	secure        bool
	proxy         *url.URL // nil for none
	serverName    string   // of TLS
	key           string   // names the route; "" if no two of them are known to be the same
}

func (d *Dialer) route(ctx context.Context, network, addr string, secure bool) (route, error) {
	r := route{network: network, addr: addr, secure: secure}
	key := d.options.Key(ctx, network, addr)
	if secure {
		if d.options.Proxy != nil {
			var err error
			if r.proxy, err = d.options.Proxy(ctx, &url.URL{Scheme: "https", Host: addr}); err != nil {
				return r, errors.New("the egress proxy's address is not valid") // err may quote its password
			}
		}
		r.serverName = d.serverName(ctx, addr)
	}
	switch {
	case key == "":
	case r.proxy != nil:
		r.key = r.proxy.String() + " " + r.serverName + " " + key
	default:
		r.key = r.serverName + " " + key // a server name is never empty where there is TLS
	}
	return r, nil
}

func (d *Dialer) serverName(ctx context.Context, addr string) string {
	if d.options.ServerName != nil {
		if name := d.options.ServerName(ctx, addr); name != "" {
			return name
		}
	}
	if d.config.ServerName != "" {
		return d.config.ServerName
	}
	return hostOf(addr)
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// connect makes a connection.
func (d *Dialer) connect(ctx context.Context, r route) (net.Conn, error) {
	conn, err := d.reach(ctx, r)
	if err != nil || !r.secure {
		return conn, err
	}
	return d.shakeHands(ctx, conn, r.serverName)
}

// reach makes what TLS will run on.
func (d *Dialer) reach(ctx context.Context, r route) (net.Conn, error) {
	if r.proxy == nil {
		return d.dialRaw(ctx, r.network, r.addr)
	}
	switch r.proxy.Scheme {
	case "http", "https":
		return d.tunnel(ctx, r)
	case "socks5", "socks5h":
		return d.socks(ctx, r)
	}
	return nil, fmt.Errorf("egress proxy of an unknown kind: %s", r.proxy.Scheme)
}

func (d *Dialer) dialRaw(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := d.admit(ctx); err != nil {
		return nil, err
	}
	conn, err := d.options.Dial(ctx, network, addr)
	if err != nil {
		d.leave()
		return nil, err
	}
	conn = &admittedConn{Conn: conn, d: d}
	if d.options.Stall > 0 {
		conn = &stallConn{Conn: conn, stall: d.options.Stall}
	}
	return conn, nil
}

// shakeHands puts TLS on conn, and closes that if it fails.
func (d *Dialer) shakeHands(ctx context.Context, conn net.Conn, serverName string) (net.Conn, error) {
	ctx, cancel := d.withHandshakeTimeout(ctx)
	defer cancel()
	config := d.config.Clone()
	config.ServerName = serverName
	c := newTLSConn(conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	c.records.shaken = true
	return c, nil
}

func (d *Dialer) withHandshakeTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.options.HandshakeTimeout <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d.options.HandshakeTimeout)
}

// socks goes through a SOCKS5 proxy, which resolves names.
func (d *Dialer) socks(ctx context.Context, r route) (net.Conn, error) {
	var auth *proxy.Auth
	if u := r.proxy.User; u != nil {
		auth = &proxy.Auth{User: u.Username()}
		auth.Password, _ = u.Password()
	}
	addr := proxyAddr(r.proxy, "1080")
	conn, err := d.dialRaw(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	dialer, err := proxy.SOCKS5("tcp", addr, auth, dialed{conn})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	ctx, cancel := d.withHandshakeTimeout(ctx)
	defer cancel()
	if _, err := dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", r.addr); err != nil {
		return nil, err // and conn is closed
	}
	return conn, nil
}

// tunnel goes through an HTTP proxy by CONNECT.
func (d *Dialer) tunnel(ctx context.Context, r route) (net.Conn, error) {
	port := map[string]string{"http": "80", "https": "443"}[r.proxy.Scheme]
	conn, err := d.dialRaw(ctx, "tcp", proxyAddr(r.proxy, port))
	if err != nil {
		return nil, err
	}
	if r.proxy.Scheme == "https" {
		if conn, err = d.shakeHands(ctx, conn, r.proxy.Hostname()); err != nil {
			return nil, fmt.Errorf("shaking hands with egress proxy: %w", err)
		}
	}
	ctx, cancel := d.withHandshakeTimeout(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = connectThrough(conn, r)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connecting through egress proxy: %w", err)
	}
	return conn, nil
}

// connectThrough asks an HTTP proxy for a tunnel.
func connectThrough(conn net.Conn, r route) error {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: r.addr}, Host: r.addr, Header: make(http.Header)}
	if u := r.proxy.User; u != nil {
		password, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	reader := bufio.NewReader(io.LimitReader(conn, maxProxyReply))
	res, err := http.ReadResponse(reader, req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %d", res.StatusCode)
	}
	if reader.Buffered() > 0 {
		return errUnasked // TLS is for the client to begin
	}
	return nil
}

func proxyAddr(u *url.URL, defaultPort string) string {
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// dialed is a dialer that has been to work.
type dialed struct{ conn net.Conn }

// Dial implements proxy.Dialer.
func (d dialed) Dial(string, string) (net.Conn, error) { return d.conn, nil }

// DialContext implements proxy.ContextDialer.
func (d dialed) DialContext(context.Context, string, string) (net.Conn, error) { return d.conn, nil }

// Interface guards
var (
	_ proxy.Dialer        = dialed{}
	_ proxy.ContextDialer = dialed{}
)
