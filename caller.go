package wechatmedia

// The caller's side: what the proxy may write to him, and how a refusal reaches one
// who is still sending. Many clients send all of a request before they read, so an
// answer that closes the connection at once is one they never see.

import (
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The bounds within which the rest of an answered request is read and thrown away.
const (
	lingerTotal = 30 * time.Second
	lingerStall = 5 * time.Second // without a byte
	lingerBytes = 64 << 20

	// lingerStream is lingerStall over HTTP/2 and 3, where Go's client sends nothing more
	// once it has seen a refusal, and then waits for the answer's end.
	lingerStream = time.Second

	lingerRenewal = 50 * time.Millisecond // by so much the wait for a byte may be shorter
)

// caller is the ResponseWriter that the proxy is given.
type caller struct {
	http.ResponseWriter
	request *http.Request
	body    io.Reader // what is left to read of the request
	ex      *exchange // whose refusal keeps the proxy from writing; nil: nobody's
	asked   bool      // the body has been read from, so a caller who waits for 100 Continue got it
	unread  bool      // the answer leaves before the request has been read to its end
}

// init makes c the writer of a request's answer.
func (c *caller) init(w http.ResponseWriter, r *http.Request, ex *exchange) {
	c.ResponseWriter, c.request, c.body, c.ex = w, r, r.Body, ex
	// below any limit that a handler in front has put on the body: what is thrown
	// away is not subject to it
	if reader, _ := caddyhttp.IdleTimeoutsFromContext(r.Context()); reader != nil {
		c.body = reader
	}
}

// refusing reports whether the answer is the gateway's own, which the handler writes.
func (c *caller) refusing() bool { return c.ex != nil && c.ex.refusal != nil }

// WriteHeader passes the status on. Interim replies of WeChat's are not the caller's:
// nothing is known of what is in them.
func (c *caller) WriteHeader(status int) {
	if status < http.StatusOK || c.refusing() {
		return
	}
	if c.unread {
		c.beforeEarlyAnswer()
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write writes part of the answer.
func (c *caller) Write(p []byte) (int, error) {
	if c.refusing() {
		return len(p), nil
	}
	return c.ResponseWriter.Write(p)
}

// FlushError sends what has been written. It is here because a wrapper's own is
// found by http.ResponseController before the one of what it wraps.
func (c *caller) FlushError() error {
	if c.refusing() {
		return nil
	}
	return http.NewResponseController(c.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (c *caller) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// interruptRead makes a read of the caller's body return.
func (c *caller) interruptRead() {
	_ = http.NewResponseController(c.ResponseWriter).SetReadDeadline(time.Unix(1, 0))
}

// waits reports whether the caller sends his body only when he is asked to, and has
// not been.
func (c *caller) waits() bool {
	return !c.asked && c.request.ProtoAtLeast(1, 1) && httpguts.HeaderValuesContainsToken(c.request.Header["Expect"], "100-continue")
}

// beforeEarlyAnswer prepares for an answer that leaves before the request has been
// read: net/http would first read up to 256 KiB of an HTTP/1 body, after asking for
// it with 100 Continue.
func (c *caller) beforeEarlyAnswer() {
	if c.request.ProtoMajor == 1 {
		_ = http.NewResponseController(c.ResponseWriter).EnableFullDuplex()
		c.Header().Set("Connection", "close")
	}
}

// flush sends what has been written.
func (c *caller) flush() { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// linger sends the answer, then reads the rest of the request and throws it away: over
// HTTP/1.1 the connection would otherwise be reset, which can throw the answer away too,
// and over HTTP/2 and 3 the stream. An answer that somebody else is to write comes after
// that, as nothing can be read behind it.
func (ex *exchange) linger(answered bool) {
	c := ex.caller
	if answered {
		c.flush()
	}
	if c.body == nil || c.waits() {
		return
	}
	if ex.upload != nil { // somebody may be reading for it
		deadline := time.Now().Add(c.lingerStall())
		ex.upload.Abandon(func() { _ = http.NewResponseController(c.ResponseWriter).SetReadDeadline(deadline) })
	}
	c.readAway()
}

// lingerStall is how long the next byte of an answered request is waited for.
func (c *caller) lingerStall() time.Duration {
	if c.request.ProtoMajor > 1 {
		return lingerStream
	}
	return lingerStall
}

// readAway reads the rest of the request within bounds.
func (c *caller) readAway() {
	rc := http.NewResponseController(c.ResponseWriter)
	buf := lingerBuffers.Get().(*[4 << 10]byte)
	defer lingerBuffers.Put(buf)
	now := time.Now()
	end, renewal := now.Add(lingerTotal), now
	for left := int64(lingerBytes); left > 0 && now.Before(end); now = time.Now() {
		if !now.Before(renewal) { // not for each read: over HTTP/2 a deadline is a message to another goroutine
			renewal = now.Add(lingerRenewal)
			deadline := now.Add(c.lingerStall())
			if deadline.After(end) {
				deadline = end
			}
			if rc.SetReadDeadline(deadline) != nil {
				return
			}
		}
		n, err := c.body.Read(buf[:])
		left -= int64(n)
		if err != nil {
			return
		}
	}
}

var lingerBuffers = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// Interface guards
var (
	_ http.ResponseWriter             = (*caller)(nil)
	_ interface{ FlushError() error } = (*caller)(nil)
)
