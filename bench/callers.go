package main

// The callers: patient, slow, dripping, and rude ones.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing/iotest"
	"time"
)

// caller has a connection of its own.
type caller struct {
	download, upload string // URLs; the length of what is fetched is to be filled in
	transport        *http.Transport
	patient          bool              // sends all of a request before it reads, as many clients do; HTTP/1.1 alone
	conn             net.Conn          // of a patient caller,
	buffered         *bufio.ReadWriter // and with buffers
}

const good = "200" // is how a call went that went well

var errHeldOut = errors.New("held out")

// newCaller makes a caller of a gateway.
func newCaller(url string, http2 bool) *caller {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(64 << 10) // or no caller would be slow
		}
		return conn, err
	}
	return &caller{download: url + "/media/media-%d", upload: url + "/media", transport: &http.Transport{
		DisableCompression: true, ForceAttemptHTTP2: http2, DialContext: dial,
		TLSClientConfig: &tls.Config{ServerName: "api.weixin.qq.com", ClientSessionCache: tls.NewLRUClientSessionCache(0)},
		HTTP2:           &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}, // the same
	}}
}

// newDirectCaller makes one that talks to WeChat itself, and keeps no connection for
// longer than WeChat does.
func newDirectCaller(port int) *caller {
	url := fmt.Sprintf("https://127.0.0.1:%d", port)
	const token = "bench-token-bench-token-bench-token-bench-token-bench-token-bench-token-bench-token-bench-token-0123"
	c := newCaller(url, false)
	c.download = url + "/cgi-bin/media/get?media_id=media-%d&access_token=" + token
	c.upload = url + "/cgi-bin/media/upload?type=image&access_token=" + token
	c.transport.IdleConnTimeout = 15 * time.Second
	return c
}

// each has all callers do something at once, to its end.
func each(callers []*caller, do func(*caller)) {
	var running sync.WaitGroup
	for _, c := range callers {
		running.Go(func() { do(c) })
	}
	running.Wait()
}

// get fetches so many bytes.
func (c *caller) get(n int64, slow bool) string {
	return c.send(http.MethodGet, fmt.Sprintf(c.download, n), nil, 0, func(body io.Reader) error {
		if slow {
			body = slowly(body, pace)
		}
		got, err := io.Copy(io.Discard, body)
		if err == nil && got != n {
			err = fmt.Errorf("%d bytes", got)
		}
		return err
	})
}

// post uploads n bytes, which the upstream answers that it has had; if they are announced as -1, chunked.
func (c *caller) post(url string, body io.Reader, announced, n int64) string {
	return c.send(http.MethodPost, url, body, announced, func(body io.Reader) error {
		answer, err := io.ReadAll(body)
		if err == nil && !bytes.Contains(answer, fmt.Appendf(nil, `"media_id":"%d"`, n)) {
			err = fmt.Errorf("%.100q", answer)
		}
		return err
	})
}

// send makes one request, has the reply read if it is a good one, and says how it went.
func (c *caller) send(method, url string, body io.Reader, length int64, read func(io.Reader) error) string {
	req, err := http.NewRequest(method, url, body)
	must(err)
	if req.ContentLength = length; body != nil {
		req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	}
	res, err := c.roundTrip(req)
	if errors.Is(err, errHeldOut) {
		return errHeldOut.Error()
	} else if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	if (res.ProtoMajor == 2) != c.transport.ForceAttemptHTTP2 {
		return res.Proto
	}
	if res.StatusCode == http.StatusOK {
		err = read(res.Body)
	} else {
		_, err = io.Copy(io.Discard, res.Body)
	}
	if err != nil {
		return fmt.Sprintf("%d, %v", res.StatusCode, err)
	}
	return strconv.Itoa(res.StatusCode)
}

// roundTrip is the transport's, but for a patient caller.
func (c *caller) roundTrip(req *http.Request) (*http.Response, error) {
	if !c.patient {
		return c.transport.RoundTrip(req)
	}
	if c.conn == nil {
		conn, err := c.transport.DialContext(req.Context(), "tcp", req.URL.Host)
		if err != nil {
			return nil, err
		}
		if c.conn = conn; req.URL.Scheme == "https" {
			c.conn = tls.Client(conn, c.transport.TLSClientConfig)
		}
		c.buffered = bufio.NewReadWriter(bufio.NewReader(c.conn), bufio.NewWriterSize(c.conn, 32<<10))
	}
	if err := req.Write(c.buffered.Writer); err == nil { // whether it could be sent does not matter if there is an answer
		_ = c.buffered.Flush()
	}
	return http.ReadResponse(c.buffered.Reader, req)
}

func (c *caller) close() {
	c.transport.CloseIdleConnections()
	if c.conn != nil {
		c.conn.Close()
	}
}

var form = "--b\r\nContent-Disposition: form-data; name=\"media\"; filename=\"a.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n" +
	strings.Repeat("x", picture) + "\r\n--b--\r\n"

func (c *caller) getPicture() string { return c.get(picture, false) }
func (c *caller) postPicture() string {
	return c.post(c.upload, strings.NewReader(form), int64(len(form)), int64(len(form)))
}
func (c *caller) downloadAll() string    { return c.get(*size, false) }
func (c *caller) downloadSlowly() string { return c.get(*size, true) }
func (c *caller) uploadAll() string      { return c.post(c.upload, zeros(*size), *size, *size) }
func (c *caller) uploadChunked() string  { return c.post(c.upload, zeros(*size), -1, *size) }
func (c *caller) drip() string           { return c.dripAfter(1) }
func (c *caller) dripLate() string       { return c.dripAfter(128 << 10) }

// dripAfter announces 1 MiB, sends its first bytes, and then a byte every half second until it has held out.
func (c *caller) dripAfter(first int64) string {
	drops := slowly(zeros(int64(2*hold.Seconds())), 2)
	return c.post(c.upload, io.MultiReader(zeros(first), drops, iotest.ErrReader(errHeldOut)), 1<<20, 1<<20)
}

// hang asks for a medium and does not read it.
func (c *caller) hang() string {
	return c.send(http.MethodGet, fmt.Sprintf(c.download, *size), nil, 0, func(io.Reader) error {
		time.Sleep(*hold)
		return errHeldOut
	})
}

// refused uploads, slowly, what is of a type that may not be uploaded.
func (c *caller) refused() string {
	return c.post(c.upload+"?type=video", slowly(zeros(*size), pace), *size, *size)
}

// hangWindow asks for media over one connection, on which it allows no byte of any. It
// writes the few frames that this takes itself: no client does it.
func (c *caller) hangWindow() string {
	config := c.transport.TLSClientConfig.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", gatewayTLS, config)
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
	block = append(append(block, 0x01, byte(len(gatewayTLS))), gatewayTLS...)
	for i := range streams {
		out = append(out, frame(headers, endOfStreamAndHeaders, 2*i+1, block)...)
	}
	_ = conn.SetDeadline(time.Now().Add(*hold))
	if _, err = conn.Write(out); err == nil {
		_, err = io.Copy(io.Discard, conn)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Sprintf("ended by the gateway: %v", err)
	}
	return errHeldOut.Error()
}

// paced is a reader that brings so many bytes a second and no more.
type paced struct {
	io.Reader
	start   time.Time
	rate, n int
}

func slowly(r io.Reader, rate int) io.Reader { return &paced{r, time.Now(), rate, 0} }

func (p *paced) Read(b []byte) (int, error) {
	time.Sleep(time.Until(p.start.Add(time.Duration(p.n) * time.Second / time.Duration(p.rate))))
	n, err := p.Reader.Read(b[:min(len(b), max(p.rate/20, 1))])
	p.n += n
	return n, err
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }
