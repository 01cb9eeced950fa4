// Package wire makes connections to WeChat: TLS with its records read and written
// in bulk and its sessions resumed, writes that fail when they stall, ways through
// egress proxies, and connections made ahead of the requests that will need them.
package wire

// How a connection is asked for, and what is handed out.

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how connections are made. Dial is required.
type Options struct {
	// Dial makes a connection to an upstream or to an egress proxy. What it returns as
	// an error is found by errors.As in what the Dialer returns.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Proxy names the egress proxy on the way to a URL of scheme https and with a host
	// alone, by a URL of scheme http, https, socks5 or socks5h; nil for none. It is
	// asked once for each request and connection. Default: no proxies.
	Proxy func(ctx context.Context, u *url.URL) (*url.URL, error)

	// TLS is the configuration of connections with TLS, which has its own cache of
	// sessions here. Default: an empty one.
	TLS *tls.Config

	// ServerName returns the name that the peer's certificate must have; an empty one
	// means that of TLS or, failing that, the host of addr. Default: always empty.
	ServerName func(ctx context.Context, addr string) string

	// HandshakeTimeout is how long a TLS handshake, or an egress proxy's answer, may
	// take. Default: as long as ctx.
	HandshakeTimeout time.Duration

	// Stall is how long a write may go on without a byte leaving. The error of one that
	// ends so says true to Timeout. Default: as long as it takes.
	Stall time.Duration

	// IdleTimeout is how long a spare is kept. Default: 15s.
	IdleTimeout time.Duration

	// MaxSpares is how many connections may be kept ready for a destination beyond those
	// that requests wait for. Default: none.
	MaxSpares int

	// MaxConns is how many connections there may be in all, to whatever destination,
	// spares and those being made included. One more ends a spare's life, or that of the
	// connections that CloseIdle closes, waits for a moment, or else fails with ErrCrowded. Default: any number.
	MaxConns int

	// CloseIdle closes connections that were handed out and are not in use. Default:
	// none are closed.
	CloseIdle func()

	// Key names the destination that ctx and addr lead to: connections of one name can
	// stand in for each other. For an empty one no spares are made. Default: network
	// and addr.
	Key func(ctx context.Context, network, addr string) string

	// Detach returns a context that leads to the same destination as ctx and outlives
	// it. It is kept for a minute or two. Default: context.WithoutCancel.
	Detach func(ctx context.Context) context.Context

	// Observe is told what becomes of spares. It must not block, nor use the Dialer.
	// Default: nobody is told.
	Observe func(event SpareEvent)
}

// SpareEvent is what became of a spare, or of the wish for one.
type SpareEvent string

const (
	SpareTaken   SpareEvent = "taken"   // by a request, which did not have to wait
	SpareMissed  SpareEvent = "missed"  // by a request that had to wait for its connection
	SpareExpired SpareEvent = "expired" // without having been taken: too old, or closed by the peer
)

const defaultIdleTimeout = 15 * time.Second

// Dialer makes connections. Its methods may be called at the same time.
type Dialer struct {
	options Options
	config  *tls.Config

	ctx        context.Context // ends with the Dialer
	cancel     context.CancelFunc
	background sync.WaitGroup // of spares
	open       atomic.Int64   // connections, and those being made
	left       chan struct{}  // says that one of them has gone

	mu           sync.Mutex
	closed       bool
	destinations map[string]*destination
}

// NewDialer returns a Dialer. It makes no connection before it is asked for one.
func NewDialer(options Options) *Dialer {
	if options.IdleTimeout <= 0 {
		options.IdleTimeout = defaultIdleTimeout
	}
	if options.Key == nil {
		options.Key = func(_ context.Context, network, addr string) string { return network + " " + addr }
	}
	if options.Detach == nil {
		options.Detach = context.WithoutCancel
	}
	if options.CloseIdle == nil {
		options.CloseIdle = func() {}
	}
	if options.Observe == nil {
		options.Observe = func(SpareEvent) {}
	}
	d := &Dialer{options: options, config: new(tls.Config), destinations: make(map[string]*destination), left: make(chan struct{}, 1)}
	if options.TLS != nil {
		d.config = options.TLS.Clone()
	}
	d.config.ClientSessionCache = tls.NewLRUClientSessionCache(0) // WeChat closes connections after replies
	d.config.DynamicRecordSizingDisabled = true                   // uploads are in no hurry for their first bytes
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// DialTLSContext returns a connection with TLS to addr, its handshake done. It is
// for http.Transport, with no Proxy there.
func (d *Dialer) DialTLSContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return d.dial(ctx, network, addr, true)
}

// DialContext returns a connection to addr without TLS, past all egress proxies. It
// is for http.Transport, which sends plain requests to a proxy in its own way.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return d.dial(ctx, network, addr, false)
}

func (d *Dialer) dial(ctx context.Context, network, addr string, secure bool) (net.Conn, error) {
	r, err := d.route(ctx, network, addr, secure)
	if err != nil {
		return nil, err
	}
	if !isFresh(ctx) {
		if c, err := d.take(ctx, r); c != nil || err != nil {
			return c, err
		}
	}
	s, err := d.connect(ctx, r)
	if err != nil {
		return nil, err
	}
	return d.lend(r, s), nil
}

// Begin says that a request to u is under way, until End is called. ctx is the one
// that connections for it are made with. Connections are made ahead as such
// requests need them.
func (d *Dialer) Begin(ctx context.Context, u *url.URL) Use {
	secure := u.Scheme == "https"
	addr := u.Host
	switch {
	case u.Port() != "":
	case secure:
		addr = net.JoinHostPort(u.Hostname(), "443")
	default:
		addr = net.JoinHostPort(u.Hostname(), "80")
	}
	r, err := d.route(ctx, "tcp", addr, secure)
	if err != nil || r.key == "" {
		return Use{}
	}
	return d.begin(r)
}

// Use is a request under way. Its zero value is none.
type Use struct {
	d   *Dialer
	dst *destination
}

// End says that the request is over.
func (u Use) End() {
	if u.dst == nil {
		return
	}
	u.d.mu.Lock()
	defer u.d.mu.Unlock()
	u.dst.requests--
	u.dst.last = time.Now()
	u.dst.maintain()
}

// Conn is a connection as it is handed out.
type Conn struct {
	net.Conn
	waited bool
	read   atomic.Int64
	closed atomic.Bool
	dest   *destination // nil if nobody counts
}

// Waited reports whether the connection had been made before it was asked for: its
// peer may have closed it meanwhile, a moment before it was taken.
func (c *Conn) Waited() bool { return c.waited }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// Received returns how many bytes have been read: by it a request can be told that got
// no byte of a reply.
func (c *Conn) Received() int64 { return c.read.Load() }

// ReadFrom writes what r yields. If that is an io.LimitedReader on an io.WriterTo,
// as http.Transport makes of an upload, the io.WriterTo writes in pieces of its own.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	w, ok := limited.R.(io.WriterTo)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	before := limited.N
	_, err := w.WriteTo(limitedWriter{c, limited})
	return before - limited.N, err
}

// limitedWriter lets no more through than limit still allows.
type limitedWriter struct {
	io.Writer
	limit *io.LimitedReader
}

// Write implements io.Writer.
func (w limitedWriter) Write(p []byte) (int, error) {
	allowed := p[:min(int64(len(p)), max(w.limit.N, 0))]
	n, err := w.Writer.Write(allowed)
	w.limit.N -= int64(n)
	if err == nil && len(allowed) < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	if c.closed.CompareAndSwap(false, true) && c.dest != nil {
		c.dest.returned()
	}
	return err
}

// Interface guards
var (
	_ net.Conn      = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
)
