package wechatmedia

// One attempt on the wire, and the clock that runs while WeChat is waited for. Caddy's
// read_timeout is a deadline of the connection: it would end an upload that takes its
// time although bytes flow, because nothing is read meanwhile. Writes that stand still
// are the connection's own business; see internal/wire.

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/internal/replay"
	"github.com/caddy-wechat/caddy-wechat-media/internal/wire"
	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// slowestUpload is what is allowed for an upload on its way, in bytes a second: bytes
// in a buffer between here and WeChat are not bytes at WeChat, so the wait for the
// reply's headers grows with the upload's length.
const slowestUpload = 32 << 10

// stalledError is what an attempt ends with when WeChat stood still.
type stalledError struct{ what string }

func (e *stalledError) Error() string { return e.what }
func (*stalledError) Timeout() bool   { return true }
func (*stalledError) Temporary() bool { return true }

// attempt is one request on the wire and, once it is answered, the body of the reply.
// It is in one piece because every request needs one.
type attempt struct {
	url    url.URL // with the token
	tok    *token.Token
	cancel context.CancelCauseFunc // ends it; nil: it has not begun
	use    wire.Use                // of a connection
	res    *http.Response
	body   io.ReadCloser // of the reply
	broken bool          // the body ended with an error

	stall time.Duration // for the reply's next bytes; 0: any time
	conn  *wire.Conn    // nil: unknown
	got   bool          // there is a connection
	idle  bool          // it had been waiting, so WeChat may have closed it
	heard int64         // bytes that had been read from it before

	mu       sync.Mutex
	timer    *time.Timer // nil: no clock runs
	waits    time.Duration
	length   int64 // of the upload
	sends    bool  // an upload
	answered bool  // the upload has nothing more to do with the clock
	bitten   *stalledError
}

// begin returns the context of the attempt, which ends with it. The trace is the
// proxy's, made for this round trip: http.Transport calls GotConn on the goroutine that
// it serves.
func (a *attempt) begin(ctx context.Context) context.Context {
	if trace := httptrace.ContextClientTrace(ctx); trace != nil {
		trace.GotConn = a.gotConn
	} else {
		a.got = true // nobody would tell
	}
	ctx, a.cancel = context.WithCancelCause(ctx)
	return ctx
}

func (a *attempt) gotConn(info httptrace.GotConnInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = true
	if a.sends && a.timer != nil { // runs again when the upload has left
		a.timer.Stop()
	}
	if a.conn, _ = info.Conn.(*wire.Conn); a.conn != nil {
		a.idle, a.heard = info.Reused || a.conn.Waited(), a.conn.Received()
	}
}

// end is for an attempt that is over.
func (a *attempt) end() {
	a.cancel(context.Canceled)
	a.use.End()
}

// await runs the clock for the reply's headers, which have d once an upload of length
// bytes has left, or all that comes before them.
func (a *attempt) await(d time.Duration, length int64) {
	if d <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answered {
		return
	}
	a.waits, a.length = d, length
	a.startTimer(d)
}

// startTimer has the clock run for d from now on.
func (a *attempt) startTimer(d time.Duration) {
	if a.timer == nil {
		a.timer = time.AfterFunc(d, a.bite)
	} else {
		a.timer.Reset(d)
	}
}

// bite ends the attempt.
func (a *attempt) bite() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bitten = &stalledError{"WeChat sent no byte within read_timeout"}
	switch {
	case a.answered:
	case !a.got:
		a.bitten.what = fmt.Sprintf("no connection became free within %v; max_conns and max_conns_per_host are their numbers", a.waits)
	default:
		a.bitten.what = fmt.Sprintf("WeChat sent no reply within %v; response_header_timeout, and a second for each 32 KiB of an "+
			"upload, of %d bytes here, are its bounds", a.waits, a.length)
	}
	a.cancel(a.bitten)
}

// connected reports whether the attempt has had a connection.
func (a *attempt) connected() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got
}

// crowdedOut reports whether the attempt ended because all connections were in use: one
// that is being made has a clock of its own.
func (a *attempt) crowdedOut() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bitten != nil && !a.got
}

// answer stops the clock: the headers are there, or never will be. Goroutines of
// http.Transport's may go on with an upload that has been answered.
func (a *attempt) answer() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answered = true
	if a.timer != nil {
		a.timer.Stop()
	}
}

// err is what really ended the attempt. A clock that ran out counts more than what
// came of it, io.EOF included: WeChat's side may close the connection because it sees
// it being closed, which makes a reply look complete that ends with its connection.
// What it quotes of the reply does not have the token in it.
func (a *attempt) err(err error) error {
	if err == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bitten != nil {
		return a.bitten
	}
	return withoutToken(err, a.tok)
}

// accept takes the reply in: its body is read through a from now on.
func (a *attempt) accept(res *http.Response, stall time.Duration) {
	a.mu.Lock()
	a.res, a.body, a.stall = res, res.Body, stall
	a.mu.Unlock()
	res.Body = a
	a.dropTrailers()
}

// dropTrailers keeps WeChat's trailers, of which nothing is known, from the caller.
func (a *attempt) dropTrailers() { a.res.Trailer = nil }

// Read reads the reply's body. The clock stands still while the caller takes his time.
func (a *attempt) Read(p []byte) (int, error) {
	if a.stall > 0 {
		a.startTimer(a.stall)
	}
	n, err := a.body.Read(p)
	if a.timer != nil {
		a.timer.Stop()
	}
	err = a.err(err)
	a.broken = err != nil && err != io.EOF
	return n, err
}

// Close closes the reply's body and ends the attempt.
func (a *attempt) Close() error {
	if a.timer != nil {
		a.timer.Stop()
	}
	err := a.body.Close()
	a.dropTrailers() // there are some only now
	a.end()
	return err
}

// diedIdle reports whether an attempt failed because the connection that it was given
// had been closed by WeChat meanwhile, as far as that can be known: it had been
// waiting, no byte of a reply came, and no clock ran out.
func (a *attempt) diedIdle(err error) bool {
	return a.idle && a.conn.Received() == a.heard && !timedOut(err)
}

// headerTimeout is how long the reply's headers may take once an upload has left; 0
// for any time.
func (t *Transport) headerTimeout(length int64) time.Duration {
	if t.headerWait <= 0 {
		return 0
	}
	return t.headerWait + time.Duration(length/slowestUpload)*time.Second
}

// setBody has the upload go out with the attempt. The clock for the reply's headers
// runs from when the last byte has been handed over.
func (t *Transport) setBody(out *http.Request, u *replay.Upload, a *attempt) {
	sent := func() { a.await(t.headerTimeout(u.Length()), u.Length()) }
	out.ContentLength = u.Length()
	out.Body = u.Open(sent)
	out.GetBody = func() (io.ReadCloser, error) {
		if !u.Replayable() {
			return nil, errNotKept
		}
		return u.Open(sent), nil
	}
}

// again has the next connection be a new one: what waited with the one that died may
// be dead too.
func (t *Transport) again(ctx context.Context) context.Context {
	t.HTTPTransport.Transport.CloseIdleConnections()
	return wire.Fresh(ctx)
}

// Interface guards
var (
	_ io.ReadCloser = (*attempt)(nil)
)
