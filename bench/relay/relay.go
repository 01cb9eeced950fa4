// Package relay stands between a gateway and WeChat, and is as far away or as slow.
package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Relay passes connections on. Every byte, and the end of a stream, arrives RTT/2 after
// it was sent. The kernel completes a connection to a relay at once; so what a caller
// sends first is held for one round trip more, which is when it could have sent it had
// its SYN gone the distance. What there is not: loss, and TCP's slow start.
type Relay struct {
	RTT  time.Duration // there and back
	Pace int           // bytes a second, of each connection and direction; 0: no limit

	open, most atomic.Int64
}

// chunk is what was read at once, and when it may arrive.
type chunk struct {
	data []byte
	due  time.Time
	err  error // what ended the stream, after data
}

// Most is how many connections there were at once, at the most.
func (r *Relay) Most() int64 { return r.most.Load() }

// Listen passes what comes to an address on to target, until the listener is closed.
func (r *Relay) Listen(address, target string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			r.most.Store(max(r.most.Load(), r.open.Add(1)))
			go r.pass(near, target)
		}
	}()
	return l, nil
}

func (r *Relay) pass(near net.Conn, target string) {
	defer r.open.Add(-1)
	defer near.Close()
	established := time.Now().Add(r.RTT)
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan bool)
	go func() { r.pump(far, near, established); close(done) }()
	r.pump(near, far, established)
	<-done
}

// pump passes on what src sends, and never as if it had been sent before established.
// An end is passed on as an end, a reset as a reset.
func (r *Relay) pump(dst, src net.Conn, established time.Time) {
	chunks := make(chan chunk, 256)
	if r.Pace > 0 { // hold nothing back
		chunks = make(chan chunk)
		_ = src.(*net.TCPConn).SetReadBuffer(64 << 10)
	}
	go func() {
		buf := make([]byte, 32<<10)
		for n, err := 0, error(nil); err == nil; {
			n, err = src.Read(buf)
			sent := time.Now()
			if sent.Before(established) {
				sent = established
			}
			chunks <- chunk{bytes.Clone(buf[:n]), sent.Add(r.RTT / 2), err}
		}
		close(chunks)
	}()
	for c := range chunks {
		time.Sleep(time.Until(c.due))
		if r.Pace > 0 {
			time.Sleep(time.Duration(len(c.data)) * time.Second / time.Duration(r.Pace))
		}
		if _, err := dst.Write(c.data); err != nil {
			src.Close() // which ends the reader, too
		} else if errors.Is(c.err, io.EOF) {
			_ = dst.(*net.TCPConn).CloseWrite()
		} else if c.err != nil {
			_ = dst.(*net.TCPConn).SetLinger(0)
			dst.Close()
		}
	}
}
