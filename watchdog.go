package wechatmedia

// One attempt on the wire, and the clock that runs while WeChat's side is waited
// for. Caddy's read_timeout and write_timeout are deadlines of the connection: the
// one would end an upload that takes its time although bytes flow, because nothing
// is read meanwhile, and the other is not renewed by every kind of write.

import (
	"context"
	"io"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// errStalled is what a transfer ends with when WeChat's side stood still.
var errStalled error = stalledError{}

type stalledError struct{}

func (stalledError) Error() string   { return "WeChat sent or took no byte for too long" }
func (stalledError) Timeout() bool   { return true }
func (stalledError) Temporary() bool { return true }

// watchdog bites when it is not stopped or restarted in time. It never does if it
// is nil, or after is not positive.
//
// First the upload has it, then the reply. Goroutines of http.Transport's may go on
// with an upload that has been answered, and must not stop the clock of the reply.
type watchdog struct {
	timer *time.Timer
	after time.Duration
	reply time.Duration // what the reply's headers may take; 0 for any time
	bit   atomic.Bool

	mu       sync.Mutex
	answered bool
}

// init makes w a stopped watchdog.
func (w *watchdog) init(after, reply time.Duration, bite func()) {
	if after <= 0 {
		return
	}
	w.after, w.reply = after, reply
	w.timer = time.AfterFunc(after, bite)
	w.timer.Stop()
}

func (w *watchdog) sleeps() bool { return w == nil || w.timer == nil }

// ofUpload has the upload's next bytes waited for that long; 0 for any time.
func (w *watchdog) ofUpload(d time.Duration) {
	if w.sleeps() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.answered:
	case d > 0:
		w.timer.Reset(d)
	default:
		w.timer.Stop()
	}
}

// callersTurn is for while an upload waits for its caller.
func (w *watchdog) callersTurn() { w.ofUpload(0) }

// wechatsTurn is for while WeChat's side has to take bytes of an upload.
func (w *watchdog) wechatsTurn() {
	if w != nil {
		w.ofUpload(w.after)
	}
}

// replysTurn is for the end of an upload: its last bytes have to leave, and then
// http.Transport's own timeout for the reply's headers runs.
func (w *watchdog) replysTurn() {
	switch {
	case w == nil:
	case w.reply > 0:
		w.ofUpload(w.after + w.reply)
	default:
		w.ofUpload(0)
	}
}

// answer stops w for good as far as the upload is concerned.
func (w *watchdog) answer() {
	if w.sleeps() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered = true
	w.timer.Stop()
}

// restart is for while the reply's next bytes are waited for.
func (w *watchdog) restart() {
	if !w.sleeps() {
		w.timer.Reset(w.after)
	}
}

func (w *watchdog) stop() {
	if !w.sleeps() {
		w.timer.Stop()
	}
}

// err is errStalled if the watchdog bit, and otherwise err. That holds for io.EOF,
// too: WeChat's side may close the connection because it sees it being closed, which
// makes a reply look complete that ends with its connection.
func (w *watchdog) err(err error) error {
	if err != nil && w.bit.Load() {
		return errStalled
	}
	return err
}

// attempt is one request on the wire and, once it is answered, the body of the
// reply. It is in one piece because every request needs one.
type attempt struct {
	watchdog
	url    url.URL                 // with the token
	cancel context.CancelCauseFunc // ends an upload; nil if there is none
	body   io.ReadCloser           // of the reply
	broken bool                    // the body ended with an error
}

// bite ends the attempt. The watchdog of a download only runs while the reply's
// body is read, and closing that does.
func (a *attempt) bite() {
	a.bit.Store(true)
	if a.cancel != nil {
		a.cancel(errStalled)
		return
	}
	_ = a.body.Close()
}

// Read reads the reply's body.
func (a *attempt) Read(p []byte) (int, error) {
	a.restart()
	n, err := a.body.Read(p)
	a.stop()
	a.broken = err != nil && err != io.EOF
	return n, a.err(err)
}

// Close closes the reply's body and ends the attempt.
func (a *attempt) Close() error {
	a.stop()
	err := a.body.Close()
	if a.cancel != nil {
		a.cancel(context.Canceled)
	}
	return err
}

// Interface guards
var _ io.ReadCloser = (*attempt)(nil)
