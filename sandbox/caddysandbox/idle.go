package caddysandbox

// Connections that are closed because nothing happens on them, as WeChat does it.

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// idleCloser closes the connections of a server that have served the sandbox, and
// leaves those of other sites at the same address alone. Only a server can tell that a
// connection is idle, and its idle_timeout is for all of its sites.
type idleCloser struct {
	limit time.Duration
	conns sync.Map // *idleConn by net.Conn
}

// idleConn is a connection.
type idleConn struct {
	mu     sync.Mutex
	served bool        // by the sandbox
	timer  *time.Timer // runs while the connection is idle
}

// attach has the closer told of a server's connections.
func (i *idleCloser) attach(server *caddyhttp.Server) {
	server.RegisterConnContext(i.context)
	server.RegisterConnState(i.state)
}

// context is an http.Server's ConnContext.
func (i *idleCloser) context(ctx context.Context, conn net.Conn) context.Context {
	c := new(idleConn)
	i.conns.Store(conn, c)
	return context.WithValue(ctx, i, c)
}

// serves notes that a request's connection has come to the sandbox.
func (i *idleCloser) serves(r *http.Request) {
	if c, ok := r.Context().Value(i).(*idleConn); ok { // not over HTTP/3
		c.mu.Lock()
		defer c.mu.Unlock()
		c.served = true
	}
}

// state is an http.Server's ConnState.
func (i *idleCloser) state(conn net.Conn, state http.ConnState) {
	v, ok := i.conns.Load(conn)
	if !ok {
		return
	}
	if state == http.StateClosed || state == http.StateHijacked {
		i.conns.Delete(conn)
	}
	c := v.(*idleConn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	if state == http.StateIdle && c.served {
		c.timer = time.AfterFunc(i.limit, func() { _ = conn.Close() })
	}
}
