package wire

// Writes that may take any time as long as bytes leave.

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// stallConn is a connection whose writes fail when no byte has left for a while:
// for that long at the least, and for twice as long at the most.
type stallConn struct {
	net.Conn
	stall time.Duration

	mu    sync.Mutex
	until time.Time // a deadline that somebody else has set
}

// Write implements net.Conn.
func (c *stallConn) Write(p []byte) (n int, err error) {
	for {
		extends := c.renew()
		var m int
		m, err = c.Conn.Write(p[n:])
		n += m
		if m == 0 || !extends || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// renew sets the deadline of a write, and reports whether progress extends it.
func (c *stallConn) renew() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	deadline := time.Now().Add(c.stall)
	extends := c.until.IsZero() || c.until.After(deadline)
	if !extends {
		deadline = c.until
	}
	_ = c.Conn.SetWriteDeadline(deadline) // a closed connection says so itself
	return extends
}

// SetWriteDeadline sets a deadline that progress does not extend.
func (c *stallConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *stallConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Interface guards
var _ net.Conn = (*stallConn)(nil)
