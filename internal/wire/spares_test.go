package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What things take in a world of net.Pipes, where the clock runs as it is told.
const (
	roundTrip   = 30 * time.Millisecond
	connecting  = 95 * time.Millisecond // with its handshakes
	serverIdles = 20 * time.Second
)

// world is a server far away and a caller's http.Transport.
type world struct {
	*Dialer
	t         testing.TB
	transport *http.Transport
	server    *http.Server
	incoming  chan net.Conn
	events    map[SpareEvent]int
	done      chan struct{}

	mu        sync.Mutex
	opened    int
	used      int // connections that carried a request
	open      map[*farConn]bool
	dialError error // of what is dialed from now on
	closes    bool  // the server closes each connection after its reply
}

// farConn is the server's end of a connection.
type farConn struct {
	net.Conn
	w    *world
	used bool
}

func (c *farConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.used {
		c.used = true
		c.w.mu.Lock()
		c.w.used++
		c.w.mu.Unlock()
	}
	return n, err
}

func (c *farConn) Close() error {
	c.w.mu.Lock()
	delete(c.w.open, c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

func newWorld(t testing.TB, spares int, closes bool) *world {
	w := &world{
		t: t, incoming: make(chan net.Conn), events: make(map[SpareEvent]int),
		done: make(chan struct{}), open: make(map[*farConn]bool), closes: closes,
	}
	w.Dialer = NewDialer(Options{Dial: w.dial, MaxSpares: spares, Observe: func(e SpareEvent) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events[e]++
	}})
	w.transport = &http.Transport{DialContext: w.DialContext, IdleConnTimeout: 15 * time.Second, MaxIdleConnsPerHost: 512}
	w.server = &http.Server{
		IdleTimeout: serverIdles, ReadHeaderTimeout: serverIdles,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			time.Sleep(roundTrip)
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.closes {
				rw.Header().Set("Connection", "close")
			}
		}),
	}
	go func() { _ = w.server.Serve(w) }()
	return w
}

// pass lets virtual time go by, until all has come to rest that it brings.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// dial takes its time.
func (w *world) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	w.mu.Lock()
	w.opened++
	err := w.dialError
	w.mu.Unlock()
	select {
	case <-time.After(connecting):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	ours, far := net.Pipe()
	c := &farConn{Conn: far, w: w}
	w.mu.Lock()
	w.open[c] = true
	w.mu.Unlock()
	select {
	case w.incoming <- c:
		return ours, nil
	case <-w.done:
		_ = far.Close()
		return nil, net.ErrClosed
	}
}

// Accept implements net.Listener.
func (w *world) Accept() (net.Conn, error) {
	select {
	case c := <-w.incoming:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (w *world) Addr() net.Addr { return &net.TCPAddr{} }

// Close implements net.Listener.
func (w *world) Close() error { return nil }

// get makes a request and returns how long that took.
func (w *world) get() time.Duration {
	w.t.Helper()
	start := time.Now()
	req, _ := http.NewRequest(http.MethodGet, "http://wechat.test/", nil)
	end := w.Begin(req.Context(), req.URL)
	defer end.End()
	res, err := w.transport.RoundTrip(req)
	if err != nil {
		w.t.Error(err)
		return 0
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return time.Since(start)
}

// end closes everything, and sees that nothing is left.
func (w *world) end() {
	w.t.Helper()
	w.Dialer.Close()
	if n := w.Spares(); n != 0 {
		w.t.Errorf("%d spares after Close", n)
	}
	w.transport.CloseIdleConnections()
	synctest.Wait()
	w.mu.Lock()
	if len(w.open) != 0 {
		w.t.Errorf("%d connections are left", len(w.open))
	}
	w.mu.Unlock()
	close(w.done)
	_ = w.server.Close()
}

// connections returns how many have been opened, and how many carried a request.
func (w *world) connections() (opened, used int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opened, w.used
}

// count returns how many events there were.
func (w *world) count(e SpareEvent) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.events[e]
}

// A lone caller waits for one round trip from the second request on, whether
// connections are closed after replies or not, also after a lull, and hardly more
// often for connections when it does not pause.
func TestLoneCaller(t *testing.T) {
	for _, closes := range []bool{true, false} {
		for _, pause := range []time.Duration{time.Second, 5 * time.Second, 14 * time.Second, 16 * time.Second, 19 * time.Second, 22 * time.Second, 40 * time.Second, time.Minute, 70 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 16, closes)
				defer w.end()
				for i := range 20 {
					if took := w.get(); i > 0 && took != roundTrip {
						t.Errorf("closes %t, pause %v: the %d. request took %v", closes, pause, i, took)
					}
					pass(pause)
				}
			})
		}
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 16, closes)
			defer w.end()
			var took []time.Duration
			for range 1000 {
				took = append(took, w.get())
			}
			slices.Sort(took)
			if took[len(took)/2] != roundTrip || took[len(took)*98/100] != roundTrip {
				t.Errorf("closes %t: %v, p98 %v", closes, took[len(took)/2], took[len(took)*98/100])
			}
		})
	}
}

// Callers who come together wait for one round trip each, after a lull too.
func TestManyCallersAfterALull(t *testing.T) {
	const callers = 32
	for _, closes := range []bool{true, false} {
		for _, pause := range []time.Duration{5 * time.Second, 16 * time.Second, 25 * time.Second, time.Minute, 70 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 128, closes)
				defer w.end()
				for i := range 4 {
					var together sync.WaitGroup
					for range callers {
						together.Go(func() {
							if took := w.get(); i > 0 && took != roundTrip {
								t.Errorf("closes %t, pause %v: in the %d. round a request took %v", closes, pause, i, took)
							}
						})
					}
					together.Wait()
					time.Sleep(pause)
				}
				if opened, used := w.connections(); opened > 4*callers*(2+int(pause/(13*time.Second))) {
					t.Errorf("closes %t, pause %v: %d connections, of which %d were used", closes, pause, opened, used)
				}
			})
		}
	}
}

// Callers who come one shortly after the other need more connections than there are
// requests at once, as making one takes longer than using it.
func TestCallersInARowAfterALull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 128, true)
		defer w.end()
		for round := range 3 {
			var all sync.WaitGroup
			for i := range 32 {
				all.Go(func() {
					time.Sleep(time.Duration(i) * 6 * time.Millisecond)
					if took := w.get(); round > 0 && took != roundTrip {
						t.Errorf("in the %d. round the %d. request took %v", round, i, took)
					}
				})
			}
			all.Wait()
			time.Sleep(25 * time.Second)
		}
	})
}

// load has callers ask, each after a pause, for a while.
func (w *world) load(callers int, pause, lasting time.Duration) (took []time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	end := time.Now().Add(lasting)
	for i := range callers {
		wg.Go(func() {
			time.Sleep(pause * time.Duration(i) / time.Duration(callers))
			for time.Now().Before(end) {
				d := w.get()
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
				time.Sleep(pause)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

// Under steady load not more than one connection in two is made in vain.
func TestSparesInVain(t *testing.T) {
	for _, closes := range []bool{true, false} {
		for _, callers := range []int{1, 8} {
			for _, pause := range []time.Duration{0, 100 * time.Millisecond, time.Second, 6 * time.Second, 13 * time.Second, 20 * time.Second, 28 * time.Second} {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, 128, closes)
					defer w.end()
					lasting := min(max(3*time.Second, 20*pause), 4*time.Minute)
					took := w.load(callers, pause, lasting)
					opened, used := w.connections()
					line := fmt.Sprintf("closes %t, %d callers, pause %v: %d requests, p50 %v, p95 %v, %d connections, %d in vain",
						closes, callers, pause, len(took), took[len(took)/2], took[len(took)*95/100], opened, opened-used)
					t.Log(line)
					if opened-used-w.Spares() > used { // what still stands by may come to use
						t.Error(line)
					}
				})
			}
		}
	}
}

// A flood of requests opens no more than twice the connections that it would open
// without spares.
func TestFlood(t *testing.T) {
	for _, closes := range []bool{true, false} {
		for _, requests := range []int{1, 2, 10, 100} {
			for _, warm := range []bool{false, true} {
				var opened [2]int
				for i, spares := range []int{0, 128} {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t, spares, closes)
						defer w.end()
						if warm {
							w.load(4, 10*time.Millisecond, time.Second)
						}
						before, _ := w.connections()
						var wg sync.WaitGroup
						for range requests {
							wg.Go(func() { w.get() })
						}
						wg.Wait()
						after, _ := w.connections()
						opened[i] = after - before
					})
				}
				t.Logf("closes %t, %d requests, warm %t: %d for %d", closes, requests, warm, opened[1], opened[0])
				if opened[1] > 2*opened[0] {
					t.Errorf("closes %t, %d requests, warm %t: %d connections for %d", closes, requests, warm, opened[1], opened[0])
				}
			}
		}
	}
}

// Nothing is dialed before the first request, and two minutes after the last one
// there is no connection.
func TestNoDemandNoConnections(t *testing.T) {
	for _, closes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 16, closes)
			defer w.end()
			w.Begin(t.Context(), &url.URL{Scheme: "http", Host: "wechat.test"}).End()
			pass(time.Minute)
			if opened, _ := w.connections(); opened != 0 {
				t.Errorf("%d connections before the first request", opened)
			}
			w.load(8, 50*time.Millisecond, 10*time.Second)
			pass(2 * time.Minute)
			w.mu.Lock()
			if len(w.open) != 0 {
				t.Errorf("%d connections after two minutes", len(w.open))
			}
			w.mu.Unlock()
			w.Dialer.mu.Lock()
			if len(w.destinations) != 0 {
				t.Errorf("%d destinations are kept", len(w.destinations))
			}
			w.Dialer.mu.Unlock()
			before, _ := w.connections()
			pass(time.Hour)
			if opened, _ := w.connections(); opened != before {
				t.Errorf("%d connections in an idle hour", opened-before)
			}
		})
	}
}

// closeAll has the server close all its connections.
func (w *world) closeAll() {
	w.mu.Lock()
	var all []*farConn
	for c := range w.open {
		all = append(all, c)
	}
	w.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
	synctest.Wait()
}

// A spare that the server has closed is not handed out, and replaced.
func TestDeadSpares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 16, true)
		defer w.end()
		w.get()
		pass(time.Second)
		if n := w.Spares(); n != 1 {
			t.Fatalf("%d spares", n)
		}
		w.closeAll()
		if n := w.Spares(); n != 0 || w.count(SpareExpired) != 1 {
			t.Errorf("%d spares, %d expired", n, w.count(SpareExpired))
		}
		pass(retryFirst + 2*connecting) // it died young
		if n := w.Spares(); n != 1 {
			t.Errorf("%d spares later", n)
		}
		pass(retryFirst)
		w.closeAll() // not so young
		pass(2 * connecting)
		if took := w.get(); took != roundTrip {
			t.Errorf("took %v", took)
		}
	})
}

// A server that closes what is not used at once is not asked again and again.
func TestSparesThatDoNotLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 16, true)
		defer w.end()
		w.get()
		for range 60 {
			pass(time.Second)
			w.closeAll()
		}
		if opened, _ := w.connections(); opened > 10 {
			t.Errorf("%d connections for one request", opened)
		}
	})
}

// Spares that cannot be made are no request's failure, and not tried all the time.
func TestSparesThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 16, true)
		defer w.end()
		w.get()
		pass(time.Second)
		w.mu.Lock()
		w.dialError = errors.New("nobody there")
		w.opened = 0
		w.mu.Unlock()
		w.get() // by the spare
		pass(time.Minute)
		if opened, _ := w.connections(); opened > 8 {
			t.Errorf("tried %d times", opened)
		}
		if _, err := w.DialContext(t.Context(), "tcp", "wechat.test:80"); err == nil {
			t.Error("dialed")
		}
		w.mu.Lock()
		w.dialError = nil
		w.mu.Unlock()
		pass(retryMost + connecting)
		if n := w.Spares(); n != 1 {
			t.Errorf("%d spares later", n)
		}
	})
}

// dialLater dials, and tells how that went and how long it took.
func (w *world) dialLater(ctx context.Context) chan dialing {
	done := make(chan dialing, 1)
	go func() {
		start := time.Now()
		conn, err := w.DialContext(ctx, "tcp", "wechat.test:80")
		done <- dialing{conn, err, time.Since(start)}
	}()
	synctest.Wait()
	return done
}

type dialing struct {
	conn net.Conn
	err  error
	took time.Duration
}

func (w *world) failDials(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialError = err
}

// Who waits for a connection that is being made gets it when it is ready, and makes
// its own if there will be none.
func TestWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 16, true)
		defer w.end()
		first := w.dialLater(t.Context()) // and a spare
		pass(connecting / 2)
		second := w.dialLater(t.Context()) // takes that, and another one is begun
		for _, done := range []chan dialing{first, second} {
			d := <-done
			if d.err != nil || d.conn.(*Conn).Waited() {
				t.Fatal(d.err)
			}
			defer d.conn.Close()
		}
		if n := w.Spares(); n != 0 {
			t.Errorf("%d spares", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 16, true)
		defer w.end()
		w.failDials(errors.New("nobody there"))
		first, second := w.dialLater(t.Context()), w.dialLater(t.Context())
		w.failDials(nil)
		if d := <-first; d.err == nil {
			t.Error("the first one went well")
		}
		d := <-second
		if d.err != nil || d.took != 2*connecting {
			t.Errorf("%v after %v", d.err, d.took)
		}
		_ = d.conn.Close()
	})
}

// Who gives up waiting leaves the connection for others.
func TestWaiterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 16, true)
		defer w.end()
		first := w.dialLater(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), connecting/2)
		defer cancel()
		if d := <-w.dialLater(ctx); !errors.Is(d.err, context.DeadlineExceeded) || d.took != connecting/2 {
			t.Errorf("%v after %v", d.err, d.took)
		}
		defer (<-first).conn.Close()
		pass(connecting)
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := w.Spares(); n == 0 || n != len(w.open)-1 {
			t.Errorf("%d spares, %d connections", n, len(w.open))
		}
	})
}

// Close ends what is being made, and what waits for that goes on by itself.
func TestCloseWhileMaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 16, true)
		for range 20 {
			w.get()
		}
		done := make(chan time.Duration)
		for range 10 {
			go func() { done <- w.get() }()
		}
		synctest.Wait()
		w.Dialer.Close()
		w.Dialer.Close() // again
		for range 10 {
			if took := <-done; took == 0 {
				t.Error("a request failed")
			}
		}
		if took := w.get(); took != connecting+roundTrip {
			t.Errorf("after Close: %v", took)
		}
		w.end()
	})
}

// Spares go where they were made for, by contexts that have nothing of a request's
// life, and only where that has a name.
func TestSparesKnowTheirWay(t *testing.T) {
	type upstream struct{}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		dialed := make(map[string]int)
		var far []net.Conn
		d := NewDialer(Options{
			MaxSpares: 16,
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				to := ctx.Value(upstream{}).(string)
				dialed[to]++
				ours, theirs := net.Pipe()
				far = append(far, theirs)
				return namedConn{ours, to}, ctx.Err()
			},
			Key: func(ctx context.Context, _, _ string) string {
				if to := ctx.Value(upstream{}).(string); to != "nameless" {
					return to
				}
				return ""
			},
			Detach: func(ctx context.Context) context.Context {
				return context.WithValue(context.Background(), upstream{}, ctx.Value(upstream{}))
			},
		})
		for range 3 {
			for _, to := range []string{"one", "two", "nameless"} {
				ctx, cancel := context.WithCancel(context.WithValue(t.Context(), upstream{}, to))
				end := d.Begin(ctx, &url.URL{Scheme: "http", Host: "ignored"})
				conn, err := d.DialContext(ctx, "tcp", "ignored:80")
				if err != nil {
					t.Fatal(err)
				}
				if got := conn.(*Conn).Conn.(*admittedConn).Conn.(namedConn).to; got != to {
					t.Errorf("%s for %s", got, to)
				}
				cancel()
				_ = conn.Close()
				end.End()
				synctest.Wait()
			}
		}
		if n := d.Spares(); n != 2 {
			t.Errorf("%d spares", n)
		}
		d.Close()
		if dialed["one"] != 4 || dialed["two"] != 4 || dialed["nameless"] != 3 {
			t.Errorf("dialed %v", dialed)
		}
		for _, conn := range far {
			_ = conn.Close()
		}
	})
}

type namedConn struct {
	net.Conn
	to string
}
