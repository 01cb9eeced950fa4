package wire

import (
	"errors"
	"net"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
)

// However many destinations there are, no more connections than MaxConns are open or
// being made; spares and idle connections make room for those that somebody waits for.
func TestConnectionsInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 8, false)
		defer w.end()
		var idle []net.Conn
		w.options.MaxConns = 4
		w.options.CloseIdle = func() {
			for _, c := range idle {
				_ = c.Close()
			}
			idle = nil
		}
		dial := func(addr string) (net.Conn, error) { return w.DialContext(t.Context(), "tcp", addr) }
		must := func(addr string) net.Conn {
			t.Helper()
			conn, err := dial(addr)
			if err != nil {
				t.Fatal(err)
			}
			return conn
		}
		for range 2 {
			defer w.Begin(t.Context(), &url.URL{Scheme: "http", Host: "one:80"}).End()
		}
		one, two := must("one:80"), must("one:80")
		pass(connecting)
		if n := w.Dialer.open.Load(); n < 3 || n > 4 {
			t.Errorf("%d connections are open; want the two and some ahead", n)
		}
		idle = append(idle, must("two:80"), must("two:80"))
		pass(connecting)
		if n, spares := w.Dialer.open.Load(), w.Spares(); n != 4 || spares != 0 {
			t.Errorf("%d connections are open, %d of them spares", n, spares)
		}
		three := must("three:80") // in place of what is idle
		pass(connecting)
		if idle != nil || w.Dialer.open.Load() > 4 {
			t.Errorf("%d connections are open", w.Dialer.open.Load())
		}
		four := must("one:80")
		if _, err := dial("one:80"); !errors.Is(err, ErrCrowded) {
			t.Errorf("one too many: %v", err)
		}
		_ = four.Close()
		_ = four.Close() // counts once
		w.failDials(errors.New("refused"))
		for range 10 {
			if _, err := dial("one:80"); errors.Is(err, ErrCrowded) || err == nil {
				t.Errorf("dials that fail: %v", err)
			}
		}
		for _, c := range []net.Conn{one, two, three} {
			_ = c.Close()
		}
		pass(serverIdles)
		if n := w.Dialer.open.Load(); n != 0 {
			t.Errorf("%d connections are counted when none is left", n)
		}
	})
}

// http.Transport lets who waits for one of its connections dial a moment before it closes
// the one that makes room.
func TestRoomThatComesAMomentLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0, true)
		defer w.end()
		w.options.MaxConns = 3
		w.transport.MaxConnsPerHost = 3
		var callers sync.WaitGroup
		for range 50 {
			callers.Go(func() {
				for range 20 {
					w.get()
				}
			})
		}
		callers.Wait()
		var first []net.Conn
		for range 3 {
			conn, err := w.DialContext(t.Context(), "tcp", "one:80")
			if err != nil {
				t.Fatal(err)
			}
			first = append(first, conn)
		}
		var second sync.WaitGroup
		for range 3 {
			second.Go(func() {
				conn, err := w.DialContext(t.Context(), "tcp", "one:80")
				if err != nil {
					t.Errorf("it did not wait: %v", err)
					return
				}
				_ = conn.Close()
			})
		}
		pass(crowdWait / 2)
		for _, c := range first {
			_ = c.Close()
		}
		second.Wait()
	})
}

// A crowd that comes at once opens no more than that.
func TestCrowdAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 8, false)
		defer w.end()
		w.options.MaxConns = 10
		var callers sync.WaitGroup
		var mu sync.Mutex
		var conns []net.Conn
		refused := 0
		for range 100 {
			callers.Go(func() {
				conn, err := w.DialContext(t.Context(), "tcp", "one:80")
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, ErrCrowded):
					refused++
				case err != nil:
					t.Error(err)
				default:
					conns = append(conns, conn)
				}
			})
		}
		callers.Wait()
		if opened, _ := w.connections(); opened > 10 || refused < 90 {
			t.Errorf("%d were opened, %d refused", opened, refused)
		}
		for _, c := range conns {
			_ = c.Close()
		}
	})
}
