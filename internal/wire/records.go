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
// What crypto/tls is given ends where a record ends: the start of another has it keep a
// buffer of 40 KiB in place of 18 for as long as the connection is open, which would be
// most of what many slow downloads cost. What has arrived behind that end is kept in one
// of few rooms, which all connections share.

import (
	"bytes"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
)

const (
	recordData   = 16 << 10                         // bytes that a record carries at the most
	recordHeader = 5                                // bytes in front of it
	recordFull   = recordHeader + recordData + 17   // bytes that such a record takes with TLS 1.3
	recordMost   = recordHeader + recordData + 2048 // bytes that one may take, RFC 5246, section 6.2.3

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

// newTLSConn returns a connection that has yet to shake hands.
func newTLSConn(conn net.Conn, config *tls.Config) *tlsConn {
	records := &records{Conn: conn, socket: newSocket(conn), largest: recordFull}
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
		return c.records.Close()
	}
	return c.Conn.Close()
}

// records is what lies beneath TLS.
type records struct {
	net.Conn
	shaken  bool // the handshake is over, so reads wait only when they may
	patient bool // the next read may wait

	// Where the records end that arrive.
	socket  *socket            // nil: bytes are read as crypto/tls asks for them
	header  [recordHeader]byte // of the record that is arriving
	headed  int                // bytes of that
	left    int                // bytes of the record behind it that are still to come
	largest int                // length of the largest record with its header, up to recordMost
	more    bool               // the last read brought all that it asked for

	reading sync.Mutex
	over    []byte // bytes in hand, behind the end of the record that crypto/tls has
	room    *room  // what they lie in; nil for memory of their own
	closed  bool   // nothing is kept in hand

	mu       sync.Mutex
	held     *[]byte // what hold keeps back
	writeErr error   // of a flush: there is a gap behind it
}

// Read waits for bytes if it may. If it may not, it brings what is there, or says "not
// now".
func (r *records) Read(p []byte) (int, error) {
	if n := r.inHand(p); n > 0 {
		return n, nil
	}
	wait := r.patient || !r.shaken
	if !wait && !r.more {
		return 0, errNotNow
	}
	r.patient = false
	if r.socket == nil {
		return r.Conn.Read(p)
	}
	p = p[:min(len(p), r.expected())]
	n, room, err := r.socket.read(p, r.shaken, wait)
	r.more = n == len(p) || room != nil && n == len(p)+len(room)-recordMost
	p = p[:min(len(p), n)]
	end := r.upToEnd(p)
	if room != nil || end < len(p) {
		r.keep(p[end:], room, n-len(p))
	}
	return end, err
}

// inHand brings what is in hand of the record that is arriving.
func (r *records) inHand(p []byte) int {
	r.reading.Lock()
	defer r.reading.Unlock()
	n := copy(p, r.over[:r.upToEnd(r.over[:min(len(p), len(r.over))])])
	if r.over = r.over[n:]; len(r.over) == 0 {
		r.drop()
	}
	return n
}

// keep takes in hand what was read behind the end of a record: first, and n bytes of
// room, which may be nil.
func (r *records) keep(first []byte, room *room, n int) {
	r.reading.Lock()
	defer r.reading.Unlock()
	r.room = room
	if room == nil {
		r.over = bytes.Clone(first)
	} else {
		begin := recordMost - len(first)
		copy(room[begin:], first)
		r.over = room[begin : recordMost+n]
	}
	if r.closed {
		r.drop()
	}
}

// drop forgets what is in hand. The caller holds r.reading.
func (r *records) drop() {
	if r.room != nil {
		r.room.free()
	}
	r.over, r.room = nil, nil
}

// Close implements net.Conn.
func (r *records) Close() error {
	r.reading.Lock()
	r.closed = true
	r.drop()
	r.reading.Unlock()
	return r.Conn.Close()
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
		r.largest = min(max(r.largest, recordHeader+r.left), recordMost)
	}
	m := min(r.left, len(b)-n)
	r.left -= m
	return n + m
}

// room is where bytes wait that were read behind the end of a record. Those that were
// read together with them, in front, belong to another record.
type room [48 << 10]byte

// maxRooms is how many rooms there are. A connection whose caller takes no more for now
// keeps its room; those that find none read one record at a time.
const maxRooms = 32

var (
	rooms     = sync.Pool{New: func() any { return new(room) }}
	roomsUsed atomic.Int32
)

// newRoom returns a room, or nil if all are in use.
func newRoom() *room {
	if roomsUsed.Add(1) > maxRooms {
		roomsUsed.Add(-1)
		return nil
	}
	return rooms.Get().(*room)
}

func (r *room) free() {
	rooms.Put(r)
	roomsUsed.Add(-1)
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
