package wire

// How many connections there are in all.

import (
	"errors"
	"net"
	"sync"
)

// ErrCrowded is what the making of a connection fails with that would be one too many.
var ErrCrowded = errors.New("as many connections are in use as there may be in all")

// admit counts one more connection. If there are too many, those that nobody uses make
// room for it.
func (d *Dialer) admit() error {
	for _, makeRoom := range []func(){func() {}, d.dropSpare, d.options.CloseIdle} {
		if makeRoom(); d.hasRoom(d.open.Add(1) - 1) {
			return nil
		}
		d.open.Add(-1)
	}
	return ErrCrowded
}

// hasRoom reports whether there may be one more than open connections.
func (d *Dialer) hasRoom(open int64) bool {
	return d.options.MaxConns <= 0 || open < int64(d.options.MaxConns)
}

// dropSpare closes a spare, if there is one.
func (d *Dialer) dropSpare() {
	var dropped *spare
	d.mu.Lock()
	for _, dst := range d.destinations {
		if len(dst.spares) > 0 {
			dropped, dst.spares = dst.spares[0], dst.spares[1:]
			break
		}
	}
	d.mu.Unlock()
	if dropped != nil {
		_ = dropped.Close()
		d.options.Observe(SpareExpired)
	}
}

// admittedConn is a connection that counts until it is closed.
type admittedConn struct {
	net.Conn
	d    *Dialer
	once sync.Once
}

// Close implements net.Conn.
func (c *admittedConn) Close() error {
	c.once.Do(func() { c.d.open.Add(-1) })
	return c.Conn.Close()
}
