package main

// A relay that is as far away as WeChat.

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"time"
)

// The ports of the first variant of connections.
const (
	upstreamPort = 20441
	relayPort    = 20451
)

// chunk is what was read at once, and when it may arrive.
type chunk struct {
	data []byte
	due  time.Time
	err  error // what ended the stream, after data
}

// relay passes connections to the relays' ports on to the upstream's, with a round trip
// of rtt. Every byte, and the end of a stream, arrives rtt/2 after it was sent. The kernel
// completes a connection to a relay at once; so what a caller sends first is held for one
// round trip more, which is when it could have sent it had its SYN gone the distance.
// What there is not: loss, a limit of bandwidth, TCP's slow start.
func relay(rtt time.Duration) error {
	ended := make(chan error)
	for i := range variants {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", relayPort+i))
		if err != nil {
			return err
		}
		go func() {
			for {
				near, err := l.Accept()
				if err != nil {
					ended <- err
					return
				}
				go pass(near, fmt.Sprintf("127.0.0.1:%d", upstreamPort+i), rtt)
			}
		}()
	}
	return <-ended
}

func pass(near net.Conn, target string, rtt time.Duration) {
	established := time.Now().Add(rtt)
	far, err := net.Dial("tcp", target)
	if err != nil {
		log.Printf("relay: %v", err)
		near.Close()
		return
	}
	done := make(chan bool, 2)
	go func() { pump(far, near, established, rtt/2); done <- true }()
	go func() { pump(near, far, established, rtt/2); done <- true }()
	<-done
	<-done
	near.Close()
	far.Close()
}

// pump passes what src sends on to dst, delay later, and never as if it had been sent
// before established. An end is passed on as an end, a reset as a reset.
func pump(dst, src net.Conn, established time.Time, delay time.Duration) {
	chunks := make(chan chunk, 256)
	go func() {
		defer close(chunks)
		for {
			buf := make([]byte, 32<<10)
			n, err := src.Read(buf)
			sent := time.Now()
			if sent.Before(established) {
				sent = established
			}
			chunks <- chunk{buf[:n], sent.Add(delay), err}
			if err != nil {
				return
			}
		}
	}()
	for c := range chunks {
		time.Sleep(time.Until(c.due))
		if _, err := dst.Write(c.data); err != nil {
			src.Close() // which ends the reader, too
			continue
		}
		switch {
		case errors.Is(c.err, io.EOF):
			_ = dst.(*net.TCPConn).CloseWrite()
		case c.err != nil:
			_ = dst.(*net.TCPConn).SetLinger(0)
			dst.Close()
		}
	}
}
