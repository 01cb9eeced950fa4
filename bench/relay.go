package main

// The relay between a gateway and WeChat, which is as far away or as slow.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// relay passes connections on. Every byte, and the end of a stream, arrives rtt/2 after
// it was sent. The kernel completes a connection to a relay at once; so what a caller
// sends first is held for one round trip more, which is when it could have sent it had
// its SYN gone the distance. What there is not: loss, and TCP's slow start.
type relay struct {
	rtt  time.Duration // there and back
	pace int           // bytes a second, of each connection and direction; 0: no limit

	open, most atomic.Int64 // connections at once
}

// chunk is what was read at once, and when it may arrive.
type chunk struct {
	data []byte
	due  time.Time
	err  error // what ended the stream, after data
}

// relays are those of the distance, one for each variant, until they are killed.
func relays([]string) {
	r := &relay{rtt: rtt}
	for i := range variants {
		r.listen(relayPort+i, upstreamPort+i)
	}
	select {}
}

// listen passes what comes to a port on to another, until the listener is closed.
func (r *relay) listen(port, target int) net.Listener {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	must(err)
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			r.most.Store(max(r.most.Load(), r.open.Add(1)))
			go r.pass(near, fmt.Sprintf("127.0.0.1:%d", target))
		}
	}()
	return l
}

func (r *relay) pass(near net.Conn, target string) {
	defer r.open.Add(-1)
	defer near.Close()
	accepted := time.Now()
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan bool)
	go func() { r.pump(far, near, accepted); close(done) }()
	r.pump(near, far, accepted)
	<-done
}

// pump passes on what src sends, and never as if it had been sent less than a round trip
// after the connection was accepted. An end is passed on as an end, a reset as a reset.
func (r *relay) pump(dst, src net.Conn, accepted time.Time) {
	chunks := make(chan chunk, 256)
	if r.rtt == 0 { // holds nothing back
		chunks = make(chan chunk)
		_ = src.(*net.TCPConn).SetReadBuffer(64 << 10)
	}
	go func() {
		buf := make([]byte, 32<<10)
		for n, err := 0, error(nil); err == nil; {
			n, err = src.Read(buf)
			sent := max(time.Since(accepted), r.rtt)
			chunks <- chunk{bytes.Clone(buf[:n]), accepted.Add(sent + r.rtt/2), err}
		}
		close(chunks)
	}()
	for c := range chunks {
		time.Sleep(time.Until(c.due))
		if r.pace > 0 {
			time.Sleep(time.Duration(len(c.data)) * time.Second / time.Duration(r.pace))
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
