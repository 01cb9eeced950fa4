package wire

// TLS connections that move bodies in few and large pieces. crypto/tls hands out one
// record of 16 KiB at a time, and writes each by itself; every piece costs a system
// call on either side. Here a read takes all records that have arrived, and a write
// of several records is one.
//
// crypto/tls reads messages of its own (session tickets, KeyUpdate) and then waits
// for the record behind them, also with data in hand. So it is never let wait: what
// lies beneath it says "not now" when it has no bytes, which crypto/tls survives,
// and the waiting is done here.

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

const (
	recordData = 16 << 10        // bytes that a record carries at the most
	maxRecord  = recordData + 64 // with its header and what ciphers in use add

	// readAhead is how many bytes are read from a connection at once: two full
	// records, which is what Caddy's proxy copies at once, and the end of a third.
	readAhead = 2*maxRecord + fewBytes

	// fewBytes is what a connection that may be idle waits with room for.
	fewBytes = 512

	// smallRead is the longest read, in bytes, that looks like one for the header of
	// a reply, and so may take long.
	smallRead = 4 << 10

	// maxWrite is how much is encrypted and written at once, in bytes.
	maxWrite = 128 << 10
)

var (
	readBuffers  = sync.Pool{New: func() any { return new([readAhead]byte) }}
	writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, maxWrite+1<<10); return &b }}
)

// errNotNow is what crypto/tls is told in place of waiting.
var errNotNow error = notNow{}

type notNow struct{}

func (notNow) Error() string   { return "no bytes have arrived" }
func (notNow) Timeout() bool   { return true }
func (notNow) Temporary() bool { return true }

// errUnasked is what ends the life of a spare whose peer sends something.
var errUnasked = errors.New("bytes arrived that nobody asked for")

// tlsConn is a TLS connection on records. One goroutine reads at a time.
type tlsConn struct {
	*tls.Conn
	records *records
	writes  atomic.Int32 // under way
}

// newTLSConn returns a connection that has yet to shake hands.
func newTLSConn(conn net.Conn, config *tls.Config) *tlsConn {
	records := &records{Conn: conn}
	return &tlsConn{Conn: tls.Client(records, config), records: records}
}

// Read waits for data of one record at the most, and takes along what is there.
func (c *tlsConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if n, err := c.take(p); err != errNotNow {
			return n, err
		}
		if err := c.records.fill(len(p)); err != nil {
			return 0, err
		}
	}
}

// take reads from what has arrived. Beside a write it takes no more than one record,
// as a KeyUpdate behind that has crypto/tls write, too.
func (c *tlsConn) take(p []byte) (n int, err error) {
	if c.records.dry {
		return 0, errNotNow
	}
	for n < len(p) && err == nil && (n == 0 || c.writes.Load() == 0) {
		var m int
		m, err = c.Conn.Read(p[n:])
		n += m
	}
	if n > 0 {
		err = nil // crypto/tls says it again
	}
	return n, err
}

// watch waits until a deadline passes or the connection is of no use any more, and
// sees to the messages of TLS itself.
func (c *tlsConn) watch() error {
	var p [1]byte
	for {
		if n, err := c.take(p[:]); n > 0 {
			return errUnasked
		} else if err != errNotNow {
			return err
		}
		if err := c.records.fill(0); err != nil {
			return err
		}
	}
}

// Write writes the records of p together, up to 128 KiB of data at once.
func (c *tlsConn) Write(p []byte) (n int, err error) {
	c.writes.Add(1)
	defer c.writes.Add(-1)
	for len(p) > recordData && err == nil {
		var m int
		m, err = c.writeTogether(p[:min(len(p), maxWrite)])
		n += m
		p = p[m:]
	}
	if len(p) > 0 && err == nil {
		var m int
		m, err = c.Conn.Write(p)
		n += m
	}
	return n, err
}

func (c *tlsConn) writeTogether(p []byte) (int, error) {
	c.records.hold()
	n, err := c.Conn.Write(p)
	if flushErr := c.records.flush(); flushErr != nil {
		return 0, flushErr
	}
	return n, err
}

// Close does not wait for a write under way.
func (c *tlsConn) Close() error {
	if c.writes.Load() > 0 {
		return c.records.Conn.Close()
	}
	return c.Conn.Close()
}

// records is what lies beneath TLS.
type records struct {
	net.Conn
	shaken bool // the handshake is over, so reads do not wait

	// for the goroutine that reads
	ahead []byte           // has arrived; of few or of many
	many  *[readAhead]byte // nil while next to nothing is ahead
	few   [fewBytes]byte
	more  bool  // the last fill took all that it had room for
	dry   bool  // crypto/tls has been told "not now" since the last fill
	err   error // how the connection ended

	mu       sync.Mutex
	held     *[]byte // what hold keeps back
	writeErr error   // of a flush: there is a gap behind it
}

// Read hands out what has arrived.
func (r *records) Read(p []byte) (int, error) {
	switch {
	case !r.shaken:
		return r.Conn.Read(p)
	case len(r.ahead) == 0 && r.err != nil:
		return 0, r.err
	case len(r.ahead) == 0:
		r.dry = true
		return 0, errNotNow
	}
	n := copy(p, r.ahead)
	r.ahead = r.ahead[n:]
	if r.many != nil && len(r.ahead) <= fewBytes { // who waits, for a slow caller say, waits without
		r.ahead = r.few[:copy(r.few[:], r.ahead)]
		r.putMany()
	}
	return n, nil
}

// fill waits for bytes when there are none, for a read of that length. Its error is
// one that passes, a deadline; others are for crypto/tls to judge.
func (r *records) fill(want int) error {
	b := r.few[:]
	if want > smallRead || r.more {
		r.many = readBuffers.Get().(*[readAhead]byte)
		b = r.many[:]
	}
	n, err := r.Conn.Read(b)
	r.ahead, r.more = b[:n], n == len(b)
	if n == 0 && r.many != nil {
		r.putMany()
	}
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	r.err, r.dry = err, false
	return nil
}

func (r *records) putMany() {
	readBuffers.Put(r.many)
	r.many = nil
}

// hold keeps back what is written from now on.
func (r *records) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = writeBuffers.Get().(*[]byte)
}

// flush writes what hold has kept back, and ends that.
func (r *records) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := r.held
	r.held = nil
	if r.writeErr == nil {
		_, r.writeErr = r.Conn.Write(*held)
	}
	*held = (*held)[:0]
	writeBuffers.Put(held)
	return r.writeErr
}

// Write writes p, or keeps it back.
func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.writeErr != nil:
		return 0, r.writeErr
	case r.held != nil:
		*r.held = append(*r.held, p...)
		return len(p), nil
	}
	return r.Conn.Write(p)
}

// plainConn is a connection without TLS.
type plainConn struct{ net.Conn }

func (c plainConn) watch() error {
	var p [1]byte
	n, err := c.Read(p[:])
	if n > 0 {
		return errUnasked
	}
	return err
}

// Interface guards
var (
	_ stream    = (*tlsConn)(nil)
	_ stream    = plainConn{}
	_ net.Error = notNow{}
	_ io.Writer = (*records)(nil)
)
