package wire

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A write goes on for as long as bytes leave, and fails when none do.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stall = 10 * time.Second
		ours, peers := net.Pipe()
		defer ours.Close()
		defer peers.Close()
		c := &stallConn{Conn: ours, stall: stall}
		const taken = 20
		go func() {
			for range taken {
				time.Sleep(stall - time.Second)
				_, _ = peers.Read(make([]byte, 1))
			}
		}()
		start := time.Now()
		n, err := c.Write(make([]byte, 100))
		var timeout net.Error
		if n != taken || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatal(n, err)
		}
		if stood := time.Since(start) - taken*(stall-time.Second); stood < stall || stood > 2*stall {
			t.Errorf("stood still for %v", stood)
		}

		// it is the writes that are limited, not the time between them
		pass(5 * stall)
		go func() { _, _ = peers.Read(make([]byte, 10)) }()
		if n, err := c.Write(make([]byte, 10)); n != 10 || err != nil {
			t.Error(n, err)
		}
	})
}

// A deadline of somebody else's holds, also for a write under way.
func TestStallAndDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, peers := net.Pipe()
		defer ours.Close()
		defer peers.Close()
		c := &stallConn{Conn: ours, stall: time.Hour}
		start := time.Now()
		_ = c.SetDeadline(start.Add(5 * time.Second))
		time.AfterFunc(time.Second, func() { _, _ = peers.Read(make([]byte, 1)) }) // no progress makes it longer
		if n, err := c.Write(make([]byte, 10)); n != 1 || err == nil || time.Since(start) != 5*time.Second {
			t.Errorf("%d, %v after %v", n, err, time.Since(start))
		}
		_ = c.SetWriteDeadline(time.Time{})
		start = time.Now()
		time.AfterFunc(time.Second, func() { _ = c.SetWriteDeadline(time.Unix(1, 0)) })
		if _, err := c.Write(make([]byte, 10)); err == nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// Connections of a Dialer with a stall timeout have one.
func TestDialedConnStalls(t *testing.T) {
	secure, config := listenTLS(t, 0)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	d := NewDialer(Options{Dial: dialTCP, TLS: config, Stall: 50 * time.Millisecond})
	for _, dial := range []func() (net.Conn, error){
		func() (net.Conn, error) { return d.DialTLSContext(t.Context(), "tcp", secure.Addr().String()) },
		func() (net.Conn, error) { return d.DialContext(t.Context(), "tcp", plain.Addr().String()) },
	} {
		conn, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for err == nil { // nobody reads it
			_, err = conn.Write(make([]byte, 1<<20))
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Error(err)
		}
	}
}
