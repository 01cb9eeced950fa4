package wechatmedia

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// Every kind of failure is named and bounds its calls, asked for or not; a token
// that is there goes on serving, and the endpoint's recovery is noticed within one
// back-off.
func TestTokenFailureKinds(t *testing.T) {
	for name, tc := range map[string]struct {
		err                  error
		kind                 failureKind
		inAMinute, inAnHour  int
		noticedIn            time.Duration
		retryAfterFirstAbove time.Duration
	}{
		"busy":              {&ErrcodeError{-1, "system error"}, failureBusy, 6, 6 + 75, time.Minute, 0},
		"network":           {&wireError{"connection refused", nil}, failureNetwork, 6, 6 + 75, time.Minute, 0},
		"timeout":           {context.DeadlineExceeded, failureTimeout, 6, 6 + 75, time.Minute, 0},
		"HTML":              {badReply("no JSON"), failureReply, 6, 6 + 75, time.Minute, 0},
		"unknown errcode":   {&ErrcodeError{12345, "?"}, failureReply, 6, 6 + 75, time.Minute, 0},
		"storage":           {fmt.Errorf("loading shared token"), failureSource, 6, 6 + 75, time.Minute, 0},
		"file":              {failure{kind: failureFile, err: fmt.Errorf("no such file")}, failureFile, 16, 900, 5 * time.Second, 0},
		"minute quota":      {&ErrcodeError{45011, ""}, failureQuota, 1, 11, 10 * time.Minute, time.Minute},
		"day quota":         {&ErrcodeError{45009, ""}, failureQuota, 1, 11, 10 * time.Minute, time.Minute},
		"wrong secret":      {&ErrcodeError{40001, ""}, failureSecret, 1, 18, 5 * time.Minute, time.Minute},
		"IP":                {&ErrcodeError{40164, ""}, failureIP, 1, 18, 5 * time.Minute, time.Minute},
		"IP, other code":    {&ErrcodeError{61004, ""}, failureIP, 1, 18, 5 * time.Minute, time.Minute},
		"frozen":            {&ErrcodeError{40243, ""}, failureFrozen, 1, 18, 5 * time.Minute, time.Minute},
		"account":           {&ErrcodeError{50004, ""}, failureAccount, 1, 18, 5 * time.Minute, time.Minute},
		"third party":       {&ErrcodeError{61024, ""}, failureComponent, 1, 18, 5 * time.Minute, time.Minute},
		"to be confirmed":   {&ErrcodeError{89503, ""}, failureConfirm, 1, 6, 20 * time.Minute, 4 * time.Minute},
		"not confirmed":     {&ErrcodeError{89507, ""}, failureDenied, 1, 4, 50 * time.Minute, 5 * time.Minute},
		"request not clear": {&ErrcodeError{43002, ""}, failureRequest, 1, 18, 5 * time.Minute, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			src := newIssuer()
			src.fail(tc.err)
			inTime(t, src, tokenOptions{}, func(t *testing.T, m *tokenManager) {
				start := time.Now()
				if _, err := m.token(t.Context()); err == nil {
					t.Fatal("there is a token")
				}
				if s := m.status(); s.Failure != tc.kind || s.Hint == "" {
					t.Errorf("status is %+v", s)
				}
				if got := mustFailAtOnce(t, m).RetryAfter; got < tc.retryAfterFirstAbove-time.Second {
					t.Errorf("Retry-After is %v", got)
				}
				for time.Since(start) < time.Hour {
					mustFailAtOnce(t, m)
					time.Sleep(100 * time.Millisecond)
					if n := src.count(); n > tc.inAMinute && time.Since(start) < time.Minute {
						t.Fatalf("%d calls in the first minute", n)
					}
				}
				if n := src.count(); n > tc.inAnHour {
					t.Errorf("%d calls in an hour", n)
				}
				src.fail(nil)
				time.Sleep(tc.noticedIn + time.Second)
				mustToken(t, m)
				if s := m.status(); s.Failure != "" || s.FailuresInARow != 0 {
					t.Errorf("status is %+v", s)
				}
			})
		})
	}
}

// Real time, real sockets: nothing is left of a manager.
func TestTokenLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	defer func() {
		for range 100 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		stacks := make([]byte, 1<<16)
		t.Errorf("goroutines are left:\n%s", stacks[:runtime.Stack(stacks, true)])
	}()
	var calls atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if calls.Add(1) > 1 {
			<-r.Context().Done() // hangs
			return
		}
		fmt.Fprint(w, `{"access_token":"SENTINELtoken","expires_in":7200}`)
	}))
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	m := newTokenManager(tokenOptions{})
	detach := m.attach(&tokenBackend{fetch: func(ctx context.Context, rejected string, _ bool) (TokenReply, error) {
		return fetchToken(ctx, new(StableTokenSource), TokenRequest{
			AppID: "wxapp", AppSecret: sentinelSecret, Rejected: rejected, Client: client, BaseURLs: []string{srv.URL}})
	}})
	m.start()
	tok := mustToken(t, m)
	m.invalidate(tok, 40001)
	start := time.Now()
	detach()
	if err := m.Destruct(); err != nil || time.Since(start) > time.Second {
		t.Errorf("ended with %v after %v", err, time.Since(start))
	}
}
