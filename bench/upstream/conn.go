package upstream

// A TCP connection under TLS that moves several records at once, so that the
// upstream is cheaper than any gateway and does not set the pace.

import (
	"bufio"
	"net"
	"sync"
)

const (
	heldSize = 128 << 10
	readSize = 32 << 10
)

type recordsConn struct {
	net.Conn
	r    *bufio.Reader
	held *[]byte // nil: written at once
}

func newRecordsConn(conn net.Conn) *recordsConn {
	return &recordsConn{Conn: conn, r: bufio.NewReaderSize(conn, readSize)}
}

func (c *recordsConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *recordsConn) Write(p []byte) (int, error) {
	if c.held == nil {
		return c.Conn.Write(p)
	}
	if len(*c.held)+len(p) > heldSize {
		if err := c.writeHeld(); err != nil {
			return 0, err
		}
	}
	*c.held = append(*c.held, p...)
	return len(p), nil
}

var heldBuffers = sync.Pool{New: func() any { b := make([]byte, 0, heldSize); return &b }}

// hold keeps back what is written until there is a lot of it, or flush.
func (c *recordsConn) hold() { c.held = heldBuffers.Get().(*[]byte) }

func (c *recordsConn) flush() error {
	err := c.writeHeld()
	heldBuffers.Put(c.held)
	c.held = nil
	return err
}

func (c *recordsConn) writeHeld() error {
	_, err := c.Conn.Write(*c.held)
	*c.held = (*c.held)[:0]
	return err
}
