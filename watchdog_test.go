package wechatmedia

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatchdogBitesWhenWechatStandsStill(t *testing.T) {
	for name, tc := range map[string]struct {
		do    func(w *watchdog)
		bites bool
	}{
		"nothing is waited for":            {func(*watchdog) {}, false},
		"WeChat takes nothing":             {func(w *watchdog) { w.wechatsTurn() }, true},
		"the caller sends nothing":         {func(w *watchdog) { w.wechatsTurn(); w.callersTurn() }, false},
		"no reply":                         {func(w *watchdog) { w.replysTurn() }, true},
		"the reply stands still":           {func(w *watchdog) { w.answer(); w.restart() }, true},
		"the reply is read":                {func(w *watchdog) { w.answer(); w.restart(); w.stop() }, false},
		"answered early, the upload lags":  {func(w *watchdog) { w.wechatsTurn(); w.answer(); w.wechatsTurn(); w.replysTurn() }, false},
		"the upload ends while it is read": {func(w *watchdog) { w.answer(); w.restart(); w.callersTurn(); w.replysTurn() }, true},
		"the upload's body is closed late": {func(w *watchdog) { w.answer(); w.restart(); closeLate(w) }, true},
		"WeChat takes something now and then": {func(w *watchdog) {
			for range 5 {
				w.wechatsTurn()
				time.Sleep(time.Minute - 1)
			}
			w.callersTurn()
		}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			bitten := false
			w := new(watchdog)
			w.init(time.Minute, time.Minute, func() { bitten = true; w.bit.Store(true) })
			tc.do(w)
			time.Sleep(time.Hour)
			synctest.Wait()
			if bitten != tc.bites {
				t.Errorf("%s: bitten %v", name, bitten)
			}
			// a connection's end may be the answer to the bite
			if err := w.err(io.EOF); errors.Is(err, errStalled) != tc.bites || w.err(nil) != nil {
				t.Errorf("%s: ends with %v", name, err)
			}
		})
	}
	var none *watchdog
	none.wechatsTurn()
	none.callersTurn()
	none.replysTurn()
}

// closeLate is what http.Transport may do after the reply.
func closeLate(w *watchdog) {
	u := newUpload(zeros{}, 10, new(budget))
	u.open(w).Close()
	u.finish()
}
