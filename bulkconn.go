package wechatmedia

// TLS connections to WeChat that move bodies in few and large pieces. crypto/tls
// reads, decrypts and hands out one record of 16 KiB at a time, and writes each by
// itself; every piece costs a system call on either side of the gateway. Here a
// read is filled from the records that have arrived, and a write of several
// records is one. Nothing is waited for to make a piece larger.

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
)

const (
	tlsHeader    = 5        // bytes of a record's header
	tlsPlaintext = 16 << 10 // bytes that a record carries at the most

	// maxRecord is the length of a record, in bytes, with what the ciphers in use add
	// to its plaintext.
	maxRecord = tlsHeader + tlsPlaintext + 24

	// readAhead is how many bytes are read from a connection at once: two full
	// records, which is what Caddy's proxy copies at once, and the short one with
	// which a reply of that length ends.
	readAhead = 2*maxRecord + shortRecord

	shortRecord = 512

	// minBulk is the length of a record, in bytes, from which it is taken to carry
	// a body. Shorter ones may be messages of TLS itself, such as a KeyUpdate, after
	// which crypto/tls waits for another record.
	minBulk = 64

	// maxWrite is how much is encrypted and written at once, in bytes.
	maxWrite = uploadChunk
)

// useBulkConns has a transport with TLS and HTTP/1.1 make its connections so. What
// goes through an egress proxy is left as it is.
func (t *Transport) useBulkConns() {
	rt := t.HTTPTransport.Transport
	if t.TLS == nil || rt.DialTLSContext != nil || !slices.Equal(t.Versions, []string{"1.1"}) {
		return
	}
	dial, handshakeTimeout := rt.DialContext, rt.TLSHandshakeTimeout
	sessions := tls.NewLRUClientSessionCache(0) // WeChat closes connections after downloads
	rt.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		config := rt.TLSClientConfig.Clone()
		if config == nil {
			config = new(tls.Config)
		}
		config.ClientSessionCache = sessions
		config.DynamicRecordSizingDisabled = true // uploads are in no hurry for their first bytes
		if config.ServerName == "" {
			if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
				config.ServerName = addr
			}
		}
		if handshakeTimeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, handshakeTimeout)
			defer cancel()
		}
		c := newBulkConn(conn, config)
		if err := c.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return c, nil
	}
}

// bulkConn is a TLS connection on a recordConn.
type bulkConn struct {
	*tls.Conn
	records *recordConn
	writes  atomic.Int32 // under way
}

func newBulkConn(conn net.Conn, config *tls.Config) *bulkConn {
	records := &recordConn{Conn: conn}
	return &bulkConn{Conn: tls.Client(records, config), records: records}
}

// Read waits for one record at the most, and takes those along that are there.
func (c *bulkConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for err == nil && n > 0 && n < len(p) && c.records.hasBulk() {
		var m int
		m, err = c.Conn.Read(p[n:])
		n += m
	}
	if n > 0 {
		err = nil // crypto/tls says it again
	}
	return n, err
}

// Write writes p's records at once.
func (c *bulkConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	defer c.writes.Add(-1)
	if len(p) <= tlsPlaintext {
		return c.Conn.Write(p)
	}
	c.records.hold()
	n, err := c.Conn.Write(p)
	if flushErr := c.records.flush(); err == nil && flushErr != nil {
		return 0, flushErr
	}
	return n, err
}

// ReadFrom writes an upload in pieces that are worth a write. http.Transport hands it
// over, once its first few KiB have left with the headers, as what io.LimitReader
// makes of it.
func (c *bulkConn) ReadFrom(r io.Reader) (int64, error) {
	if limited, ok := r.(*io.LimitedReader); ok {
		if a, ok := limited.R.(*uploadAttempt); ok {
			n, err := a.sendTo(c, limited.N)
			limited.N -= n
			return n, err
		}
	}
	return io.Copy(struct{ io.Writer }{c}, r)
}

// Close does not wait for a write under way, as tls.Conn does not.
func (c *bulkConn) Close() error {
	if c.writes.Load() > 0 {
		return c.records.Conn.Close()
	}
	return c.Conn.Close()
}

// recordConn is what lies beneath TLS. It reads ahead, and yet never hands out
// bytes of two records at once, so that it knows what crypto/tls has not seen.
type recordConn struct {
	net.Conn

	// for the goroutine that reads
	buf   *[readAhead]byte // nil while next to nothing is read ahead
	ahead []byte           // read and not handed out; of buf or of rest
	rest  [shortRecord + 128]byte
	left  int   // bytes to hand out until the record's end; 0 before its header
	more  bool  // the last read took all that it could
	err   error // what the last read ended with

	mu   sync.Mutex
	held *[]byte // what hold keeps back
}

var (
	readBuffers  = sync.Pool{New: func() any { return new([readAhead]byte) }}
	writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, maxWrite+1<<10); return &b }}
)

// Read hands out bytes of one record.
func (c *recordConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.left == 0 {
		for len(c.ahead) < tlsHeader && c.err == nil {
			c.fill()
		}
		if len(c.ahead) >= tlsHeader {
			c.left = recordLength(c.ahead)
		} else {
			c.left = len(c.ahead) // all there will be
		}
	} else if len(c.ahead) == 0 && c.err == nil {
		c.fill()
	}
	n := copy(p, c.ahead[:min(len(c.ahead), c.left)])
	c.ahead = c.ahead[n:]
	c.left -= n
	if c.buf != nil && len(c.ahead) <= len(c.rest) { // who waits, for a slow caller say, waits without
		c.ahead = c.rest[:copy(c.rest[:], c.ahead)]
		readBuffers.Put(c.buf)
		c.buf = nil
	}
	if n == 0 {
		return 0, c.takeErr()
	}
	return n, nil
}

// fill reads once, as far as the end of a record can be if there is so much. A
// connection that may be idle waits without a buffer.
func (c *recordConn) fill() {
	if len(c.ahead) == 0 && c.left == 0 && !c.more {
		n, err := c.Conn.Read(c.rest[:tlsHeader])
		c.ahead, c.err = c.rest[:n], err
		return
	}
	if c.buf == nil {
		c.buf = readBuffers.Get().(*[readAhead]byte)
	}
	kept := copy(c.buf[:], c.ahead) // less than a header
	end := readAhead
	if c.left > 0 {
		end = min(end, c.left+maxRecord+shortRecord)
	}
	n, err := c.Conn.Read(c.buf[kept:end])
	c.ahead, c.err = c.buf[:kept+n], err
	c.more = kept+n == end
}

// takeErr returns the error of the last read, which may be one that passes: a
// deadline.
func (c *recordConn) takeErr() error {
	err := c.err
	c.err = nil
	return err
}

// recordLength is the length of the record that begins b, with its header.
func recordLength(b []byte) int { return tlsHeader + int(b[3])<<8 + int(b[4]) }

// hasBulk reports whether a whole record is there that carries part of a body.
func (c *recordConn) hasBulk() bool {
	if c.left > 0 || len(c.ahead) < tlsHeader {
		return false
	}
	n := recordLength(c.ahead)
	return n >= minBulk && n <= len(c.ahead)
}

// hold keeps back what is written from now on.
func (c *recordConn) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = writeBuffers.Get().(*[]byte)
}

// flush writes what hold has kept back, and ends that.
func (c *recordConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.held
	c.held = nil
	_, err := c.Conn.Write(*held)
	*held = (*held)[:0]
	writeBuffers.Put(held)
	return err
}

// Write writes p, or keeps it back.
func (c *recordConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return c.Conn.Write(p)
	}
	*c.held = append(*c.held, p...)
	return len(p), nil
}

// Interface guards
var (
	_ net.Conn      = (*bulkConn)(nil)
	_ io.ReaderFrom = (*bulkConn)(nil)
	_ net.Conn      = (*recordConn)(nil)
)
