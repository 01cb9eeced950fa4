package wire

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wireConn is one end of a connection in memory that takes any number of bytes at
// once, and counts.
type wireConn struct {
	in, out       *wireHalf
	reads, writes int
	piece         func() int // how much a read brings at the most; nil for all
}

type wireHalf struct {
	mu      sync.Mutex
	changed *sync.Cond
	bytes.Buffer
	full   bool // takes nothing
	closed bool
}

func newWire() (a, b *wireConn) {
	one, two := new(wireHalf), new(wireHalf)
	one.changed, two.changed = sync.NewCond(&one.mu), sync.NewCond(&two.mu)
	return &wireConn{in: one, out: two}, &wireConn{in: two, out: one}
}

func (c *wireConn) Read(p []byte) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	for c.in.Len() == 0 && !c.in.closed {
		c.in.changed.Wait()
	}
	c.reads++
	if c.piece != nil {
		p = p[:min(len(p), c.piece())]
	}
	return c.in.Buffer.Read(p)
}

func (c *wireConn) Write(p []byte) (int, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	for c.out.full && !c.out.closed {
		c.out.changed.Wait()
	}
	if c.out.closed {
		return 0, net.ErrClosed
	}
	c.writes++
	c.out.changed.Broadcast()
	return c.out.Buffer.Write(p)
}

func (c *wireConn) Close() error {
	for _, half := range []*wireHalf{c.in, c.out} {
		half.mu.Lock()
		half.closed = true
		half.changed.Broadcast()
		half.mu.Unlock()
	}
	return nil
}

func (*wireConn) LocalAddr() net.Addr              { return nil }
func (*wireConn) RemoteAddr() net.Addr             { return nil }
func (*wireConn) SetDeadline(time.Time) error      { return nil }
func (*wireConn) SetReadDeadline(time.Time) error  { return nil }
func (*wireConn) SetWriteDeadline(time.Time) error { return nil }

var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

// connected is a tlsConn with a server at the other end, in memory.
func connected(t testing.TB, version uint16) (c *tlsConn, client *wireConn, server *tls.Conn, wire *wireConn) {
	t.Helper()
	serverConfig, clientConfig := serverTLS(t)
	serverConfig.MaxVersion = version
	clientConfig.ServerName = "wechat.test"
	serverConfig.DynamicRecordSizingDisabled = true
	clientConfig.DynamicRecordSizingDisabled = true
	client, wire = newWire()
	server = tls.Server(wire, serverConfig)
	c = newTLSConn(client, clientConfig)
	handshake := make(chan error)
	go func() { handshake <- server.Handshake() }()
	if err := errors.Join(c.Handshake(), <-handshake); err != nil {
		t.Fatal(err)
	}
	c.records.shaken = true
	return c, client, server, wire
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// pour writes b in pieces of any size.
func pour(t testing.TB, w io.Writer, b []byte) {
	for len(b) > 0 {
		n := min(len(b), 1+rand.IntN(1<<rand.IntN(19)))
		if _, err := w.Write(b[:n]); err != nil {
			t.Error(err)
			return
		}
		b = b[n:]
	}
}

// drain reads what should be want in pieces of any size.
func drain(t testing.TB, r io.Reader, want []byte) {
	got := make([]byte, 0, len(want))
	for len(got) < len(want) {
		p := make([]byte, min(len(want)-len(got), 1+rand.IntN(1<<rand.IntN(17))))
		n, err := r.Read(p)
		if err != nil {
			t.Error(err)
			return
		}
		got = append(got, p[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Error("the bytes differ")
	}
}

// bothWays has bytes go through in both directions at once.
func bothWays(t *testing.T, name string, c, server net.Conn) {
	t.Helper()
	sent, answered := randomBytes(1<<20), randomBytes(4<<20)
	var wg sync.WaitGroup
	wg.Go(func() { pour(t, c, sent) })
	wg.Go(func() { drain(t, server, sent) })
	wg.Go(func() { pour(t, server, answered) })
	wg.Go(func() { drain(t, c, answered) })
	wg.Wait()
	if t.Failed() {
		t.Error(name)
	}
}

// Bytes come through in both directions at once, whatever the sizes of reads,
// writes, records and what arrives together.
func TestBytesComeThrough(t *testing.T) {
	for name, version := range versions {
		for _, odd := range []bool{false, true} {
			c, client, server, _ := connected(t, version)
			if odd {
				client.piece = func() int { return 1 + rand.IntN(1<<rand.IntN(16)) }
			}
			bothWays(t, name, c, server)
		}
	}
}

// They do over sockets, too, whether there is room for what is read ahead always, never,
// or sometimes.
func TestBytesComeThroughSockets(t *testing.T) {
	for name, version := range versions {
		for _, left := range []int{maxRooms, 0, 2} {
			leaveRooms(t, left)
			var wg sync.WaitGroup
			for range 4 {
				c, server := connectedBySockets(t, version)
				wg.Go(func() { bothWays(t, name, c, server) })
			}
			wg.Wait()
			if used := int(roomsUsed.Load()); used != maxRooms-left {
				t.Errorf("%s: %d rooms are in use, want %d", name, used, maxRooms-left)
			}
		}
	}
}

// leaveRooms takes all rooms but some for the rest of the test.
func leaveRooms(t *testing.T, n int) {
	taken := int32(maxRooms-n) - roomsUsed.Load()
	roomsUsed.Add(taken)
	t.Cleanup(func() { roomsUsed.Add(-taken) })
}

// What a read brings ends where a record ends, whatever records are long, those included
// that TLS does not allow, and whatever arrives together.
func TestReadsEndWhereRecordsEnd(t *testing.T) {
	for _, left := range []int{maxRooms, 0} {
		leaveRooms(t, left)
		near, far := sockets(t)
		r := &records{Conn: near, shaken: true, socket: newSocket(near), largest: recordFull}
		var bursts [][]byte
		begins, ends, total := map[int]bool{}, map[int]bool{}, 0
		for _, length := range []int{0, 1, 100, recordData + 17, 100, recordMost - 5, 3, 20, recordMost - 5, 0, 0, 4096, 0xffff, 7, 8000, 8000, 8000} {
			var burst []byte
			begins[total] = true
			for range 10 + rand.IntN(50) {
				burst = append(burst, 23, 3, 3, byte(length>>8), byte(length))
				burst = append(burst, randomBytes(length)...)
				ends[total+len(burst)] = true
			}
			bursts, total = append(bursts, burst), total+len(burst)
		}
		next := make(chan bool)
		go func() {
			for _, burst := range bursts {
				<-next
				pour(t, far, burst)
			}
			_ = far.Close()
		}()
		var got []byte
		for {
			if begins[len(got)] {
				next <- true
				time.Sleep(10 * time.Millisecond) // so much of a burst is there
			}
			r.patient = rand.IntN(3) > 0
			p := make([]byte, 600+rand.IntN(70_000))
			n, err := r.Read(p)
			if err == io.EOF {
				break
			} else if err != nil && err != errNotNow {
				t.Fatal(err)
			} else if err == errNotNow {
				r.patient = true
				if n, err = r.Read(p); err == io.EOF {
					break
				}
			}
			for i := len(got) + 1; i < len(got)+n; i++ {
				if ends[i] {
					t.Fatalf("a read brings bytes %d to %d, and a record ends at %d", len(got), len(got)+n, i)
				}
			}
			got = append(got, p[:n]...)
		}
		if !bytes.Equal(got, slices.Concat(bursts...)) {
			t.Error("the bytes differ")
		}
	}
}

// A connection that is closed gives its room back, whatever its reader does, and those
// that got none go on.
func TestRoomsComeBack(t *testing.T) {
	var closers sync.WaitGroup
	for i := range 2 * maxRooms {
		c, server := connectedBySockets(t, tls.VersionTLS13)
		sent := make([]byte, 100_000)
		go func() { _, _ = server.Write(sent) }()
		p := make([]byte, 100) // much less than what has arrived
		if _, err := io.ReadFull(c, p); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			closers.Go(func() { _, _ = io.Copy(io.Discard, c) }) // until the end, which does not come
		}
		closers.Go(func() {
			time.Sleep(100 * time.Millisecond)
			_ = c.Close()
		})
	}
	if used := roomsUsed.Load(); used > maxRooms {
		t.Errorf("%d rooms were in use at once", used)
	}
	closers.Wait()
	if used := roomsUsed.Load(); used != 0 {
		t.Errorf("%d rooms were not given back", used)
	}
}

// Records that are there are read together, and those of one write are written so.
func TestMuchAtOnce(t *testing.T) {
	for name, version := range versions {
		c, client, server, _ := connected(t, version)
		const size = 1 << 20
		if _, err := server.Write(make([]byte, size)); err != nil { // all of it is there now
			t.Fatal(err)
		}
		client.reads = 0
		reads := 0
		for p, n := make([]byte, 32<<10), 0; n < size; reads++ {
			m, err := c.Read(p)
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		if reads > 40 || client.reads > 40 {
			t.Errorf("%s: %d reads, %d from below TLS", name, reads, client.reads)
		}

		client.writes = 0
		if n, err := c.Write(make([]byte, size)); n != size || err != nil {
			t.Fatal(n, err)
		}
		if client.writes > size/maxWrite {
			t.Errorf("%s: %d writes below TLS", name, client.writes)
		}
		if n, err := io.ReadFull(server, make([]byte, size)); n != size || err != nil {
			t.Error(n, err)
		}
	}
}

// What is there is handed out without waiting for more.
func TestNothingIsWaitedFor(t *testing.T) {
	for name, version := range versions {
		synctest.Test(t, func(t *testing.T) { // in here, waiting for ever fails
			c, _, server, wire := connected(t, version)
			defer wire.Close()
			for _, size := range []int{1, 100, recordData, recordData + 1, 20_000, 100_000} {
				for _, room := range []int{1, 5, 4096, 4097, 32 << 10, 1 << 20} {
					if _, err := server.Write(make([]byte, size)); err != nil {
						t.Fatal(err)
					}
					for n := 0; n < size; {
						m, err := c.Read(make([]byte, room))
						if m == 0 || err != nil {
							t.Fatal(name, m, err)
						}
						n += m
					}
				}
			}
		})
	}
}

// Messages of TLS behind a reply do not hold it up, wherever what has arrived of
// them ends.
func TestMessagesBehindReply(t *testing.T) {
	for name, tail := range map[string][]byte{
		"ticket":                 newSessionTicket,
		"two tickets":            append(bytes.Clone(newSessionTicket), newSessionTicket...),
		"key update":             {keyUpdate, 0, 0, 1, 0},
		"key update, both sides": {keyUpdate, 0, 0, 1, 1},
		"close_notify":           {1, 0},
	} {
		kind := byte(recordHandshake)
		if name == "close_notify" {
			kind = recordAlert
		}
		for _, cut := range []int{0, 1, 4, 5, 6, 20, 1 << 20} {
			synctest.Test(t, func(t *testing.T) {
				c, server := connectedToScribe(t)
				defer server.Close()
				reply := server.seal(recordApplicationData, []byte("reply"))
				behind := server.seal(kind, tail)
				cut := min(cut, len(behind))
				server.send(reply, behind[:cut])
				p := make([]byte, 32<<10)
				if n, err := c.Read(p); err != nil || string(p[:n]) != "reply" {
					t.Fatalf("%s, cut after %d bytes: %q, %v", name, cut, p[:n], err)
				}
				server.send(behind[cut:])
				if kind == recordAlert {
					if n, err := c.Read(p); err != io.EOF {
						t.Fatalf("%s, behind: %q, %v", name, p[:n], err)
					}
					return
				}
				if tail[0] == keyUpdate {
					server.updateKey()
				}
				server.send(server.seal(recordApplicationData, []byte("next")))
				if n, err := c.Read(p); err != nil || string(p[:n]) != "next" {
					t.Fatalf("%s, behind: %q, %v", name, p[:n], err)
				}
			})
		}
	}
}

// A connection that breaks off anywhere in a record is seen to, and what had come
// before is handed out.
func TestStreamBreaksOff(t *testing.T) {
	body := randomBytes(20_000)
	for name, version := range versions {
		for cut := 1; cut < 20_040; cut += 997 {
			c, _, server, wire := connected(t, version)
			wire.out.mu.Lock()
			tickets := wire.out.Len() // of TLS itself, not read yet
			wire.out.mu.Unlock()
			if _, err := server.Write(body); err != nil {
				t.Fatal(err)
			}
			wire.out.mu.Lock()
			wire.out.Truncate(tickets + cut)
			wire.out.mu.Unlock()
			_ = wire.Close()
			got, err := io.ReadAll(c)
			if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.HasPrefix(body, got) || cut > recordData+64 && len(got) < recordData {
				t.Errorf("%s, cut after %d bytes: %d bytes, %v", name, cut, len(got), err)
			}
		}
	}
}

// A stream that is closed in the way of TLS ends, and says so again.
func TestStreamEnds(t *testing.T) {
	for name, version := range versions {
		c, _, server, _ := connected(t, version)
		body := randomBytes(50_000)
		if _, err := server.Write(body); err != nil {
			t.Fatal(err)
		}
		_ = server.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: then %v", name, err)
		}
	}
}

// A write that failed leaves a gap, so nothing is written behind it.
func TestNothingBehindAGap(t *testing.T) {
	c, client, _, _ := connected(t, tls.VersionTLS13)
	broken := &brokenConn{Conn: client, err: os.ErrDeadlineExceeded}
	c.records.Conn = broken
	if n, err := c.Write(make([]byte, 200_000)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(n, err)
	}
	broken.err = nil
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("a record went out behind a gap")
	}
}

type brokenConn struct {
	net.Conn
	err error
}

func (c *brokenConn) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Write(p)
}

// A reply is read while an upload is stuck, and also what would have crypto/tls
// answer.
func TestReplyWhileWriteIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := connectedToScribe(t)
		defer server.Close()
		server.stuff()
		ended := make(chan error)
		go func() {
			_, err := c.Write(make([]byte, 1<<20))
			ended <- err
		}()
		synctest.Wait()
		server.send(server.seal(recordApplicationData, []byte("reply")), server.seal(recordHandshake, []byte{keyUpdate, 0, 0, 1, 1}))
		p := make([]byte, 32<<10)
		if n, err := c.Read(p); err != nil || string(p[:n]) != "reply" {
			t.Errorf("%q, %v", p[:n], err)
		}
		_ = c.Close() // does not wait
		if err := <-ended; err == nil {
			t.Error("the write went well")
		}
	})
}

// FuzzFragments has bytes come in fragments, and read into little and much room.
func FuzzFragments(f *testing.F) {
	f.Add([]byte{1}, []byte{1}, true)
	f.Add([]byte{4, 1, 255, 0, 16}, []byte{255, 0, 3}, false)
	f.Add([]byte{200, 200, 1}, []byte{128}, true)
	f.Fuzz(func(t *testing.T, fragments, rooms []byte, modern bool) {
		if len(fragments) == 0 || len(rooms) == 0 {
			return
		}
		version := uint16(tls.VersionTLS12)
		if modern {
			version = tls.VersionTLS13
		}
		c, client, server, _ := connected(t, version)
		i := 0
		client.piece = func() int { i++; n := int(fragments[i%len(fragments)]); return 1 + n*n }
		body := randomBytes(80_000)
		for rest := body; len(rest) > 0; {
			n := min(len(rest), 1+int(fragments[len(rest)%len(fragments)])*150)
			if _, err := server.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		_ = server.CloseWrite()
		var got []byte
		for j := 0; ; j++ {
			p := make([]byte, 1+int(rooms[j%len(rooms)])*300)
			n, err := c.Read(p)
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			if n == 0 || err != nil {
				t.Fatal(n, err)
			}
		}
		if !bytes.Equal(got, body) {
			t.Errorf("%d bytes of %d, or others", len(got), len(body))
		}
	})
}

// A deadline that passes does not break the connection, whatever has come by then.
func TestDeadlineWhileWaiting(t *testing.T) {
	for name, version := range versions {
		s, config := listenTLS(t, version)
		d := NewDialer(Options{Dial: dialTCP, TLS: config})
		conn, err := d.DialTLSContext(t.Context(), "tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		server := s.accept(t)
		for range 3 {
			_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s: ended with %v", name, err)
			}
			_ = conn.SetReadDeadline(time.Time{})
			_, _ = io.WriteString(server, "late")
			got := make([]byte, 4)
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "late" {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	}
}

// Downloads of 2 MiB over loopback, as a proxy reads them.
func BenchmarkRead(b *testing.B) {
	serverConfig, clientConfig := serverTLS(b)
	for _, stock := range []bool{false, true} {
		name := map[bool]string{false: "wire", true: "stock"}[stock]
		b.Run(name, func(b *testing.B) {
			l, err := tls.Listen("tcp", "127.0.0.1:0", serverConfig)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			const size = 2 << 20
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				body := make([]byte, size)
				for ask := make([]byte, 1); ; {
					if _, err := io.ReadFull(conn, ask); err != nil {
						return
					}
					if _, err := conn.Write(body); err != nil {
						return
					}
				}
			}()
			raw, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			counted := &countedConn{Conn: raw}
			var c net.Conn
			if stock {
				clientConfig.ServerName = "127.0.0.1"
				c = tls.Client(counted, clientConfig)
			} else {
				c, err = NewDialer(Options{TLS: clientConfig}).shakeHands(b.Context(), counted, "127.0.0.1")
				if err != nil {
					b.Fatal(err)
				}
			}
			defer c.Close()
			p := make([]byte, 32<<10)
			b.SetBytes(size)
			b.ReportAllocs()
			counted.reads = 0
			calls := 0
			for b.Loop() {
				if _, err := c.Write([]byte{1}); err != nil {
					b.Fatal(err)
				}
				for n := 0; n < size; calls++ {
					m, err := c.Read(p)
					if err != nil {
						b.Fatal(err)
					}
					n += m
				}
			}
			b.ReportMetric(float64(counted.reads)/float64(b.N)/2, "reads/MiB")
			b.ReportMetric(float64(calls)/float64(b.N)/2, "pieces/MiB")
		})
	}
}

type countedConn struct {
	net.Conn
	reads int
}

func (c *countedConn) Read(p []byte) (int, error) {
	c.reads++
	return c.Conn.Read(p)
}

// sockets are the two ends of a connection over loopback.
func sockets(t testing.TB) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}

// connectedBySockets is a tlsConn with a server at the other end, over loopback.
func connectedBySockets(t testing.TB, version uint16) (*tlsConn, *tls.Conn) {
	t.Helper()
	serverConfig, clientConfig := serverTLS(t)
	serverConfig.MaxVersion = version
	clientConfig.ServerName = "wechat.test"
	serverConfig.DynamicRecordSizingDisabled = true
	near, far := sockets(t)
	c, server := newTLSConn(near, clientConfig), tls.Server(far, serverConfig)
	handshake := make(chan error)
	go func() { handshake <- server.Handshake() }()
	if err := errors.Join(c.Handshake(), <-handshake); err != nil {
		t.Fatal(err)
	}
	c.records.shaken = true
	return c, server
}

// What crypto/tls keeps for a connection over which much has come is one record, however
// its bytes arrive: of all that many slow downloads cost it would be the most.
func TestOneRecordIsKept(t *testing.T) {
	for name, version := range versions {
		for i, piece := range []int{1000, recordData, 100_000, 1 << 20, 1000, 1 << 20} {
			if i == 4 {
				leaveRooms(t, 0)
			}
			c, server := connectedBySockets(t, version)
			const size = 2 << 20
			go func() {
				for sent := 0; sent < size; sent += piece {
					_, _ = server.Write(make([]byte, min(piece, size-sent)))
				}
			}()
			for p, n := make([]byte, 32<<10), 0; n < size; {
				m, err := c.Read(p)
				if err != nil {
					t.Fatal(err)
				}
				n += m
			}
			kept := reflect.ValueOf(c.Conn).Elem().FieldByName("rawInput").FieldByName("buf").Cap()
			if kept > 20<<10 {
				t.Errorf("%s, %d bytes at a time: %d bytes are kept", name, piece, kept)
			}
		}
	}
}

// What is there is read together from a socket, too, and its end is told.
func TestMuchAtOnceFromSocket(t *testing.T) {
	for name, version := range versions {
		c, server := connectedBySockets(t, version)
		const size = 32 << 10
		if _, err := server.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // all of it is there now
		p := make([]byte, 2*size)
		if n, err := c.Read(p); n != size || err != nil {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		if n, err := c.Read(p); n != 0 || err != io.EOF {
			t.Errorf("%s: %d bytes behind the end, %v", name, n, err)
		}
	}
}
