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

// run has all callers of a load call at once, and counts how it went.
func (l load) run(g *gateway, protocol int) string {
	answers := make(map[string]int)
	var mu sync.Mutex
	var calls sync.WaitGroup
	connections := l.connections(protocol)
	for range connections {
		calls.Go(func() {
			c := newClient(g, protocol)
			c.streams = l.callers / connections
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
	gateway   *gateway
	protocol  int
	transport *http.Transport
	streams   int // callers on this connection
}

// trusting is for a certificate that was made for the measurement.
var trusting = &tls.Config{InsecureSkipVerify: true}

func newClient(g *gateway, protocol int) *client {
	return &client{g, protocol, &http.Transport{
		DisableCompression: true, ForceAttemptHTTP2: protocol == 2, TLSClientConfig: trusting,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}, // or no caller would be slow
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				err = conn.(*net.TCPConn).SetReadBuffer(64 << 10) // the same
			}
			return conn, err
		},
	}, 1}
}

func (c *client) small() string          { return c.get(64<<10, false) }
func (c *client) download() string       { return c.get(*size, false) }
func (c *client) downloadSlowly() string { return c.get(*size, true) }
func (c *client) upload() string         { return c.post(io.LimitReader(zeros{}, *size), *size) }
func (c *client) uploadChunked() string  { return c.post(io.LimitReader(zeros{}, *size), -1) }

func (c *client) get(n int64, slow bool) string {
	res, err := c.send(context.Background(), http.MethodGet, "/media/"+strconv.FormatInt(n, 10), nil, 0)
	if err != nil {
		return err.Error()
	}
	defer c.transport.CloseIdleConnections()
	defer res.Body.Close()
	got, err := io.Copy(io.Discard, slowly(res.Body, slow))
	if err != nil || got != n {
		return fmt.Sprintf("%d with %d bytes: %v", res.StatusCode, got, err)
	}
	return strconv.Itoa(res.StatusCode)
}

func (c *client) post(body io.Reader, length int64) string {
	res, err := c.send(context.Background(), http.MethodPost, "/media", body, length)
	if err != nil {
		return err.Error()
	}
	defer c.transport.CloseIdleConnections()
	defer res.Body.Close()
	reply, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode == http.StatusOK && !strings.Contains(string(reply), strconv.FormatInt(*size, 10)) {
		return fmt.Sprintf("%d with %s: %v", res.StatusCode, reply, err)
	}
	return strconv.Itoa(res.StatusCode)
}

func (c *client) send(ctx context.Context, method, target string, body io.Reader, length int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.gateway.base+target, body)
	if err != nil {
		return nil, err
	}
	if req.ContentLength = length; body != nil {
		req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	}
	res, err := c.transport.RoundTrip(req)
	if err == nil && (res.ProtoMajor == 2) != (c.protocol == 2) {
		err = fmt.Errorf("%s", res.Proto)
	}
	return res, err
}

func (c *client) drip() string     { return c.dripAfter(1) }
func (c *client) dripLate() string { return c.dripAfter(128 << 10) }

// dripAfter announces an upload, sends its first bytes, then one every half second, and
// leaves when it has held out.
func (c *client) dripAfter(first int64) string {
	rest := new(drops)
	res, err := c.send(context.Background(), http.MethodPost, "/media", io.MultiReader(io.LimitReader(zeros{}, first), rest), mib)
	switch {
	case errors.Is(err, errHeldOut):
		return "held out"
	case err != nil:
		return err.Error()
	}
	defer res.Body.Close()
	return strconv.Itoa(res.StatusCode)
}

// hang asks for a medium and does not read it.
func (c *client) hang() string {
	res, err := c.send(context.Background(), http.MethodGet, "/media/"+strconv.FormatInt(*size, 10), nil, 0)
	if err != nil {
		return err.Error()
	}
	time.Sleep(*hold)
	defer c.transport.CloseIdleConnections()
	defer res.Body.Close()
	return strconv.Itoa(res.StatusCode) + " and held out"
}

// hangWindow asks for media over one connection, on which it allows no byte of any. It
// writes the few frames that this takes itself: no client does it.
func (c *client) hangWindow() string {
	conn, err := tls.Dial("tcp", c.gateway.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	frame := func(kind, flags byte, stream int, payload []byte) []byte {
		return append([]byte{0, byte(len(payload) >> 8), byte(len(payload)), kind, flags, 0, 0, byte(stream >> 8), byte(stream)}, payload...)
	}
	const settings, headers, endOfStreamAndHeaders, initialWindow = 4, 1, 5, 4
	out := append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(settings, 0, 0, []byte{0, initialWindow, 0, 0, 0, 0})...)
	path := "/media/" + strconv.FormatInt(*size, 10)
	block := []byte{0x82, 0x87, 0x04, byte(len(path))} // HPACK: GET, https, a path
	block = append(append(block, path...), 0x01, byte(len(c.gateway.address)))
	block = append(block, c.gateway.address...)
	for i := range c.streams {
		out = append(out, frame(headers, endOfStreamAndHeaders, 2*i+1, block)...)
	}
	if _, err := conn.Write(out); err != nil {
		return err.Error()
	}
	_ = conn.SetReadDeadline(time.Now().Add(*hold))
	if _, err := io.Copy(io.Discard, conn); err == nil {
		return "ended by the gateway"
	}
	return "held out"
}

// refused sends an upload of a type that may not be uploaded, slowly and to its end,
// before it reads, as many clients do; over HTTP/2 none does.
func (c *client) refused() string {
	const target = "/media?type=video"
	if c.protocol == 2 {
		res, err := c.send(context.Background(), http.MethodPost, target, slowly(io.LimitReader(zeros{}, *size), true), *size)
		if err != nil {
			return err.Error()
		}
		defer c.transport.CloseIdleConnections()
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return describe(res.StatusCode, err)
	}
	conn, err := net.Dial("tcp", c.gateway.address)
	if err == nil && c.protocol == 1 {
		conn = tls.Client(conn, trusting)
	}
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n",
		target, c.gateway.address, *size)
	if _, err := io.Copy(conn, slowly(io.LimitReader(zeros{}, *size), true)); err != nil {
		return "no answer read"
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "no answer read"
	}
	res.Body.Close()
	return strconv.Itoa(res.StatusCode)
}

func describe(status int, err error) string {
	if err != nil {
		return fmt.Sprintf("%d and then %v", status, err)
	}
	return strconv.Itoa(status)
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
