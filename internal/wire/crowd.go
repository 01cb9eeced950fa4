package wire

// How many connections there are in all.

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// crowdWait is how long a connection is waited for that may be made in place of another.
// http.Transport asks for it a moment before it closes that.
const crowdWait = time.Second

// ErrCrowded is what the making of a connection fails with that would be one too many.
var ErrCrowded = errors.New("as many connections are in use as there may be in all")

// admit counts one more connection, which leave takes back. If there are too many, those
// that nobody uses make room for it.
func (d *Dialer) admit(ctx context.Context) error {
	if d.enter() {
		return nil
	}
	if ctx.Value(spareKey{}) != nil { // for which nobody has to make room
		return ErrCrowded
	}
	ctx, cancel := context.WithTimeoutCause(ctx, crowdWait, ErrCrowded)
	defer cancel()
	for {
		for _, makeRoom := range []func(){d.dropSpare, d.options.CloseIdle} {
			if makeRoom(); d.enter() {
				return nil
			}
		}
		select {
		case <-d.left:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// spareKey marks the context of a spare being made.
type spareKey struct{}

// enter takes a place, if there is one.
func (d *Dialer) enter() bool {
	for {
		n := d.open.Load()
		if !d.hasRoom(n) {
			return false
		}
		if d.open.CompareAndSwap(n, n+1) {
			if d.hasRoom(n + 1) {
				d.tellLeft() // whoever else waits: several may have left
			}
			return true
		}
	}
}

func (d *Dialer) leave() {
	d.open.Add(-1)
	d.tellLeft()
}

func (d *Dialer) tellLeft() {
	select {
	case d.left <- struct{}{}:
	default:
	}
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
	err := c.Conn.Close()
	c.once.Do(c.d.leave)
	return err
}
