package wechatmedia

// One attempt on the wire, and the clock that runs while WeChat's side is waited
// for. Caddy's read_timeout and write_timeout are deadlines of the connection: the
// one would end an upload that takes its time although bytes flow, because nothing
// is read meanwhile, and the other is not renewed by every kind of write.

import (
	"context"
	"errors"
	"io"
	"net/url"
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
type watchdog struct {
	timer *time.Timer
	after time.Duration
	reply time.Duration // what the reply's headers may take; 0 for any time
	bit   atomic.Bool
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

func (w *watchdog) restart() {
	if !w.sleeps() {
		w.timer.Reset(w.after)
	}
}

// restartForReply is for the end of an upload: its last bytes have to leave, and
// then http.Transport's own timeout for the reply's headers runs.
func (w *watchdog) restartForReply() {
	switch {
	case w.sleeps():
	case w.reply > 0:
		w.timer.Reset(w.after + w.reply)
	default:
		w.timer.Stop()
	}
}

func (w *watchdog) stop() {
	if !w.sleeps() {
		w.timer.Stop()
	}
}

// err is errStalled if the watchdog bit, and otherwise err.
func (w *watchdog) err(err error) error {
	if err != nil && w.bit.Load() && !errors.Is(err, io.EOF) {
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
