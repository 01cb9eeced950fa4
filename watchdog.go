package wechatmedia

// The clock that runs while WeChat's side is waited for. Caddy's read_timeout
// and write_timeout are deadlines of the connection: the one would end an
// upload that takes its time although bytes flow, because nothing is read
// meanwhile, and the other is not renewed by every kind of write.

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// errStalled is what a transfer ends with when WeChat's side stood still.
var errStalled error = stalledError{}

type stalledError struct{}

func (stalledError) Error() string   { return "WeChat sent or took no byte for too long" }
func (stalledError) Timeout() bool   { return true }
func (stalledError) Temporary() bool { return true }

// watchdog cancels an attempt when it is not stopped or restarted in time. A
// nil watchdog never bites.
type watchdog struct {
	timer *time.Timer
	after time.Duration
	reply time.Duration // what the reply's headers may take; 0 for any time
	bit   atomic.Bool
}

// newWatchdog returns a stopped watchdog, or nil if after is not positive.
func newWatchdog(after, reply time.Duration, cancel context.CancelCauseFunc) *watchdog {
	if after <= 0 {
		return nil
	}
	w := &watchdog{after: after, reply: reply}
	w.timer = time.AfterFunc(after, func() {
		w.bit.Store(true)
		cancel(errStalled)
	})
	w.timer.Stop()
	return w
}

func (w *watchdog) restart() {
	if w != nil {
		w.timer.Reset(w.after)
	}
}

// restartForReply is for the end of an upload: its last bytes have to leave, and
// then http.Transport's own timeout for the reply's headers runs.
func (w *watchdog) restartForReply() {
	switch {
	case w == nil:
	case w.reply > 0:
		w.timer.Reset(w.after + w.reply)
	default:
		w.timer.Stop()
	}
}

func (w *watchdog) stop() {
	if w != nil {
		w.timer.Stop()
	}
}

// err is errStalled if the watchdog bit, and otherwise err.
func (w *watchdog) err(err error) error {
	if err != nil && w != nil && w.bit.Load() && !errors.Is(err, io.EOF) {
		return errStalled
	}
	return err
}

// guardedBody is a reply's body under a watchdog. Closing it ends the attempt.
type guardedBody struct {
	io.ReadCloser
	watchdog *watchdog
	cancel   context.CancelCauseFunc
}

func guardBody(res *http.Response, w *watchdog, cancel context.CancelCauseFunc) {
	res.Body = &guardedBody{ReadCloser: res.Body, watchdog: w, cancel: cancel}
}

func (b *guardedBody) Read(p []byte) (int, error) {
	b.watchdog.restart()
	n, err := b.ReadCloser.Read(p)
	b.watchdog.stop()
	return n, b.watchdog.err(err)
}

func (b *guardedBody) Close() error {
	b.watchdog.stop()
	err := b.ReadCloser.Close()
	b.cancel(context.Canceled)
	return err
}
