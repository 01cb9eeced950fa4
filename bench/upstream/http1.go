package upstream

// HTTP/1.1 with as little as WeChat's endpoints need. net/http would cost as much
// as the gateways that are measured.

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

const maxHead = 8 << 10

// http1 is one connection.
type http1 struct {
	w    *wechat
	tls  *tls.Conn
	conn *recordsConn
	buf  [maxHead + 16<<10]byte
	n    int // bytes in buf that are not worked off
}

// serve answers until the connection ends.
func (c *http1) serve() error {
	for {
		head, err := c.readHead()
		if err != nil {
			return err
		}
		req, err := parseHead(head)
		if err != nil {
			return err
		}
		c.consume(len(head))
		res, err := c.answer(req)
		if err != nil {
			return err
		}
		if err := c.write(res.wire); err != nil {
			return err
		}
		if res == noLength {
			return c.hangUp()
		}
	}
}

// hangUp ends the connection when it cannot be told where the next request begins.
// What still comes is taken, or the answer would be lost with it.
func (c *http1) hangUp() error {
	if err := c.tls.CloseWrite(); err != nil {
		return err
	}
	if err := c.tls.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c.tls)
	return errors.Join(io.EOF, err)
}

func (c *http1) answer(req request) (*reply, error) {
	switch {
	case req.method == "GET" && req.path == "/cgi-bin/media/get":
		return c.w.download(req.param("access_token"), req.param("media_id")), nil
	case req.method == "POST" && req.contentLength < 0:
		return noLength, nil
	case req.method == "POST" && req.path == "/cgi-bin/media/upload":
		checksum, err := c.takeUpload(req)
		return c.w.upload(req.param("access_token"), req.param("type"), checksum), err
	case req.method == "POST" && req.path == "/cgi-bin/stable_token" && req.contentLength < maxHead:
		var body bytes.Buffer
		err := c.readBody(req, &body)
		return c.w.stableToken(body.Bytes()), err
	}
	return notFound, c.readBody(req, io.Discard)
}

func (c *http1) takeUpload(req request) (checksum string, err error) {
	if !c.w.checks.Load() {
		return "", c.readBody(req, io.Discard)
	}
	sum := sha256.New()
	err = c.readBody(req, sum)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// readBody reads the whole body, in pieces as TLS gives them out.
func (c *http1) readBody(req request, to io.Writer) error {
	if req.expectContinue && c.n == 0 {
		if err := c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
			return err
		}
	}
	for left := req.contentLength; left > 0; {
		if c.n == 0 {
			n, err := c.tls.Read(c.buf[:])
			if err != nil {
				return err
			}
			c.n = n
		}
		n := min(c.n, left)
		_, _ = to.Write(c.buf[:n])
		c.consume(n)
		left -= n
	}
	return nil
}

func (c *http1) readHead() ([]byte, error) {
	for {
		if end := bytes.Index(c.buf[:c.n], []byte("\r\n\r\n")); end >= 0 {
			return c.buf[:end+4], nil
		}
		if c.n >= maxHead {
			return nil, errors.New("reading head: it is too long")
		}
		n, err := c.tls.Read(c.buf[c.n:])
		if err != nil {
			return nil, err
		}
		c.n += n
	}
}

func (c *http1) consume(n int) { c.n = copy(c.buf[:], c.buf[n:c.n]) }

func (c *http1) write(p []byte) error {
	if len(p) <= 16<<10 {
		_, err := c.tls.Write(p)
		return err
	}
	c.conn.hold()
	_, err := c.tls.Write(p)
	if flushErr := c.conn.flush(); err == nil {
		err = flushErr
	}
	return err
}

// request is what is understood of a request.
type request struct {
	method, path, query string
	contentLength       int // -1: unknown
	expectContinue      bool
}

func (r request) param(name string) string {
	for pair := range strings.SplitSeq(r.query, "&") {
		if key, value, _ := strings.Cut(pair, "="); key == name {
			return value
		}
	}
	return ""
}

func parseHead(head []byte) (request, error) {
	line, rest, _ := strings.Cut(string(head), "\r\n")
	method, target, _ := strings.Cut(line, " ")
	target, proto, _ := strings.Cut(target, " ")
	if proto != "HTTP/1.1" {
		return request{}, fmt.Errorf("parsing request: the protocol is %q", proto)
	}
	req := request{method: method, contentLength: -1}
	req.path, req.query, _ = strings.Cut(target, "?")
	if method == "GET" {
		req.contentLength = 0
		return req, nil
	}
	for line := range strings.SplitSeq(rest, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case strings.EqualFold(name, "Content-Length"):
			n, err := strconv.Atoi(value)
			if err != nil {
				return request{}, fmt.Errorf("parsing request: %w", err)
			}
			req.contentLength = n
		case strings.EqualFold(name, "Expect"):
			req.expectContinue = true
		}
	}
	return req, nil
}
