package wire

// TLS connections that move bodies in few and large pieces. crypto/tls hands out one
// record of 16 KiB at a time, and writes each by itself; every piece costs a system
// call on either side. Here a read takes all records that have arrived, and a write
// of several records is one.
//
// crypto/tls reads messages of its own (session tickets, KeyUpdate) and then waits
// for the record behind them, also with data in hand. So it is let wait for bytes
// once, and as long as it has no data; what lies beneath it then brings what is there,
// or says "not now", which crypto/tls survives.
//
// While there are many connections, what crypto/tls is given ends where a record ends:
// the start of another has it keep a buffer of 40 KiB in place of 18 for as long as the
// connection is open, which would be most of what many slow downloads cost.

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
)

const (
	recordData   = 16 << 10                       // bytes that a record carries at the most
	recordHeader = 5                              // bytes in front of it
	recordMost   = recordHeader + recordData + 17 // bytes that it takes with TLS 1.3 at the most; a few more with 1.2

	// maxWrite is how much is encrypted and written at once, in bytes.
	maxWrite = 128 << 10
)

var writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, maxWrite+1<<10); return &b }}

// errNotNow is what crypto/tls is told in place of waiting.
var errNotNow error = notNow{}

type notNow struct{}

func (notNow) Error() string   { return "no bytes have arrived" }
func (notNow) Timeout() bool   { return true }
func (notNow) Temporary() bool { return true }

// tlsConn is a TLS connection on records. One goroutine reads at a time.
type tlsConn struct {
	*tls.Conn
	records *records
	writes  atomic.Int32 // under way
}

// newTLSConn returns a connection that has yet to shake hands. Whether it is one of
// many may be asked at any time.
func newTLSConn(conn net.Conn, config *tls.Config, many func() bool) *tlsConn {
	records := &records{Conn: conn, many: many, socket: newSocket(conn), largest: recordMost}
	return &tlsConn{Conn: tls.Client(records, config), records: records}
}

// Read waits for data of one record at the most, and takes along what is there.
// Beside a write it takes no more than one record, as a KeyUpdate behind that has
// crypto/tls write, too.
func (c *tlsConn) Read(p []byte) (n int, err error) {
	for n == 0 {
		if n, err = c.readOnce(p); len(p) == 0 || err != nil && err != errNotNow {
			break
		}
	}
	for 0 < n && n < len(p) && err == nil && c.writes.Load() == 0 {
		var m int
		m, err = c.Conn.Read(p[n:])
		n += m
	}
	if n > 0 {
		err = nil // crypto/tls says it again
	}
	return n, err
}

// readOnce reads, and waits for bytes once at the most.
func (c *tlsConn) readOnce(p []byte) (int, error) {
	c.records.patient = true
	n, err := c.Conn.Read(p)
	c.records.patient = false
	return n, err
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
	shaken  bool // the handshake is over, so reads wait only when they may
	patient bool // the next read may wait

	// Where the records end that arrive.
	many    func() bool        // it matters
	socket  *socket            // nil: what is there cannot be read without waiting, so it does not matter
	header  [recordHeader]byte // of the record that is arriving
	headed  int                // bytes of that
	left    int                // bytes of the record behind it that are still to come
	largest int                // length of the largest record with its header
	more    bool               // the last read brought all that it asked for
	over    []byte             // what it brought of the next record

	mu       sync.Mutex
	held     *[]byte // what hold keeps back
	writeErr error   // of a flush: there is a gap behind it
}

// Read waits for bytes if it may. If it may not, it brings what is there, or says "not
// now".
func (r *records) Read(p []byte) (n int, err error) {
	if len(r.over) > 0 {
		n = copy(p, r.over[:r.upToEnd(r.over[:min(len(p), len(r.over))])])
		if r.over = r.over[n:]; len(r.over) == 0 {
			r.over = nil
		}
		return n, nil
	}
	single := r.socket != nil && r.many()
	if single {
		p = p[:min(len(p), r.expected())]
	}
	switch {
	case r.patient || !r.shaken:
		r.patient = false
		n, err = r.Conn.Read(p)
	case r.more:
		n, err = r.socket.readNow(p)
	default:
		return 0, errNotNow
	}
	r.more = single && n == len(p)
	for end := 0; end < n; {
		if end += r.upToEnd(p[end:n]); single && end < n {
			r.over = append(r.over, p[end:n]...)
			n = end
		}
	}
	return n, err
}

// expected is how many bytes the record that is arriving has yet to bring. Of one whose
// header is not there, it is what the largest one had.
func (r *records) expected() int {
	if r.left > 0 {
		return r.left
	}
	return r.largest - r.headed
}

// upToEnd returns how many bytes of b, which follows what it was given before, belong to
// the record that is arriving.
func (r *records) upToEnd(b []byte) int {
	n := 0
	if r.left == 0 {
		n = copy(r.header[r.headed:], b)
		if r.headed += n; r.headed < recordHeader {
			return n
		}
		r.headed = 0
		r.left = int(r.header[3])<<8 | int(r.header[4])
		r.largest = max(r.largest, recordHeader+r.left)
	}
	m := min(r.left, len(b)-n)
	r.left -= m
	return n + m
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

// Interface guards
var (
	_ net.Conn  = (*tlsConn)(nil)
	_ net.Error = notNow{}
)
