package main

// The callers: patient, slow, dripping, and rude ones.

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// newClients makes the callers of a load, who have fetched something small if they are
// to be connected before they are measured.
func (l load) newClients(protocol int) []*client {
	clients := make([]*client, l.connections(protocol))
	var calls sync.WaitGroup
	for i := range clients {
		c := newClient(protocol)
		c.streams = l.callers / len(clients)
		if clients[i] = c; l.connected {
			calls.Go(c.connect)
		}
	}
	calls.Wait()
	return clients
}

// run has all callers of a load call at once, and counts how it went.
func (l load) run(clients []*client) string {
	answers := make(map[string]int)
	var mu sync.Mutex
	var calls sync.WaitGroup
	for _, c := range clients {
		calls.Go(func() {
			answer := l.call(c)
			mu.Lock()
			defer mu.Unlock()
			answers[answer] += c.streams
		})
	}
	calls.Wait()
	var out []string
	for answer, n := range answers {
		out = append(out, fmt.Sprintf("%d × %s", n, answer))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// client is one caller, with a connection of its own.
type client struct {
	protocol       int
	scheme, target string // of the gateway
	transport      *http.Transport
	streams        int      // callers on this connection
	conn           net.Conn // of a caller who writes requests himself
	in             *bufio.Reader
}

func newClient(protocol int) *client {
	c := &client{protocol: protocol, scheme: "http", target: "127.0.0.1:20471", streams: 1}
	if protocol > 0 {
		c.scheme, c.target = "https", "127.0.0.1:20472"
	}
	c.transport = &http.Transport{
		DisableCompression: true, ForceAttemptHTTP2: protocol == 2,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},                  // the certificate is made for the measurement
		HTTP2:           &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}, // or no caller would be slow
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				err = conn.(*net.TCPConn).SetReadBuffer(64 << 10) // the same
			}
			return conn, err
		},
	}
	return c
}

func (c *client) small() string          { return c.get(339721, false) }
func (c *client) download() string       { return c.get(*size, false) }
func (c *client) downloadSlowly() string { return c.get(*size, true) }
func (c *client) upload() string         { return c.post("/media", io.LimitReader(zeros{}, *size), *size) }
func (c *client) uploadChunked() string  { return c.post("/media", io.LimitReader(zeros{}, *size), -1) }
func (c *client) drip() string           { return c.dripAfter(1) }
func (c *client) dripLate() string       { return c.dripAfter(128 << 10) }

// dripAfter announces 1 MiB, sends its first bytes, and then drips until it has held out.
func (c *client) dripAfter(first int64) string {
	return c.post("/media", io.MultiReader(io.LimitReader(zeros{}, first), new(drops)), 1<<20)
}

func (c *client) get(n int64, slow bool) string {
	return c.send(http.MethodGet, fmt.Sprintf("/media/media-%d", n), nil, 0, func(body io.Reader) error {
		got, err := io.Copy(io.Discard, slowly(body, slow))
		if err == nil && got != n {
			err = fmt.Errorf("%d bytes", got)
		}
		return err
	})
}

func (c *client) post(target string, body io.Reader, length int64) string {
	return c.send(http.MethodPost, target, body, length, func(body io.Reader) error {
		_, err := io.Copy(io.Discard, body)
		return err
	})
}

// hang asks for a medium and does not read it.
func (c *client) hang() string {
	return c.send(http.MethodGet, fmt.Sprintf("/media/media-%d", *size), nil, 0, func(io.Reader) error {
		time.Sleep(*hold)
		return errHeldOut
	})
}

// send makes one request, reads the reply, and says how it went.
func (c *client) send(method, target string, body io.Reader, length int64, read func(io.Reader) error) string {
	req, err := http.NewRequest(method, c.scheme+"://"+c.target+target, body)
	if err != nil {
		return err.Error()
	}
	if req.ContentLength = length; body != nil {
		req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	}
	res, err := c.transport.RoundTrip(req)
	if errors.Is(err, errHeldOut) {
		return "held out"
	} else if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	if (res.ProtoMajor == 2) != (c.protocol == 2) {
		return res.Proto
	}
	if err := read(res.Body); err != nil {
		return fmt.Sprintf("%d, %v", res.StatusCode, err)
	}
	return strconv.Itoa(res.StatusCode)
}

// hangWindow asks for media over one connection, on which it allows no byte of any. It
// writes the few frames that this takes itself: no client does it.
func (c *client) hangWindow() string {
	conn, err := tls.Dial("tcp", c.target, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	frame := func(kind, flags byte, stream int, payload []byte) []byte {
		return append([]byte{0, byte(len(payload) >> 8), byte(len(payload)), kind, flags, 0, 0, byte(stream >> 8), byte(stream)}, payload...)
	}
	const settings, headers, endOfStreamAndHeaders, initialWindow = 4, 1, 5, 4
	out := append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(settings, 0, 0, []byte{0, initialWindow, 0, 0, 0, 0})...)
	path := fmt.Sprintf("/media/media-%d", *size)
	block := append([]byte{0x82, 0x87, 0x04, byte(len(path))}, path...) // HPACK: GET, https, a path
	block = append(append(block, 0x01, byte(len(c.target))), c.target...)
	for i := range c.streams {
		out = append(out, frame(headers, endOfStreamAndHeaders, 2*i+1, block)...)
	}
	_ = conn.SetDeadline(time.Now().Add(*hold))
	if _, err := conn.Write(out); err != nil {
		return err.Error()
	}
	if _, err := io.Copy(io.Discard, conn); err == nil {
		return "ended by the gateway"
	}
	return "held out"
}

// connect makes the connection of a caller who will be refused.
func (c *client) connect() {
	if c.protocol == 2 {
		c.get(100, false)
		return
	}
	conn, err := net.Dial("tcp", c.target)
	if err != nil {
		return
	}
	if c.conn = conn; c.protocol == 1 {
		c.conn = tls.Client(conn, c.transport.TLSClientConfig)
	}
	c.in = bufio.NewReader(c.conn)
	fmt.Fprintf(c.conn, "GET /media/media-100 HTTP/1.1\r\nHost: %s\r\n\r\n", c.target)
	c.read()
}

// read reads an answer of the caller's own connection.
func (c *client) read() string {
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return "no answer"
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return strconv.Itoa(res.StatusCode)
}

// refused sends an upload of a type that may not be uploaded, slowly and to its end,
// before it reads, as many clients do; over HTTP/2 none does.
func (c *client) refused() string {
	target, body := "/media?type=video", slowly(io.LimitReader(zeros{}, *size), true)
	switch {
	case c.protocol == 2:
		return c.post(target, body, *size)
	case c.conn == nil:
		return "not connected"
	}
	defer c.conn.Close()
	fmt.Fprintf(c.conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n", target, c.target, *size)
	_, _ = io.Copy(c.conn, body) // whether it could be sent does not matter if there is an answer
	return c.read()
}

// paced is a reader that brings so many bytes a second and no more.
type paced struct {
	io.Reader
	start time.Time
	n     int
}

func (p *paced) Read(b []byte) (int, error) {
	if p.start.IsZero() {
		p.start = time.Now()
	}
	time.Sleep(time.Until(p.start.Add(time.Duration(p.n) * time.Second / pace)))
	n, err := p.Reader.Read(b[:min(len(b), pace/20)])
	p.n += n
	return n, err
}

func slowly(r io.Reader, slow bool) io.Reader {
	if !slow {
		return r
	}
	return &paced{Reader: r}
}

// drops is a byte every half second, until it has held out.
type drops struct{ end time.Time }

var errHeldOut = errors.New("held out")

func (d *drops) Read(p []byte) (int, error) {
	if d.end.IsZero() {
		d.end = time.Now().Add(*hold)
	}
	if time.Now().After(d.end) {
		return 0, errHeldOut
	}
	time.Sleep(500 * time.Millisecond)
	p[0] = 0
	return 1, nil
}

// zeros is no end of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
