package token

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Every kind of failure is named and bounds its calls, asked for or not; a token
// that is there goes on serving, and the endpoint's recovery is noticed within one
// back-off.
func TestTokenFailureKinds(t *testing.T) {
	for name, tc := range map[string]struct {
		err                  error
		kind                 Kind
		inAMinute, inAnHour  int
		noticedIn            time.Duration
		retryAfterFirstAbove time.Duration
	}{
		"busy":              {&ErrcodeError{-1, "system error"}, KindBusy, 6, 6 + 75, time.Minute, 0},
		"network":           {&Failure{Kind: KindNetwork, Err: errors.New("connection refused")}, KindNetwork, 6, 6 + 75, time.Minute, 0},
		"timeout":           {context.DeadlineExceeded, KindTimeout, 6, 6 + 75, time.Minute, 0},
		"HTML":              {BadReply("no JSON"), KindReply, 6, 6 + 75, time.Minute, 0},
		"unknown errcode":   {&ErrcodeError{12345, "?"}, KindReply, 6, 6 + 75, time.Minute, 0},
		"storage":           {fmt.Errorf("loading shared token"), KindSource, 6, 6 + 75, time.Minute, 0},
		"file":              {&Failure{Kind: KindFile, Err: fmt.Errorf("no such file")}, KindFile, 16, 900, 5 * time.Second, 0},
		"minute quota":      {&ErrcodeError{45011, ""}, KindQuota, 1, 11, 10 * time.Minute, time.Minute},
		"day quota":         {&ErrcodeError{45009, ""}, KindQuota, 1, 11, 10 * time.Minute, time.Minute},
		"wrong secret":      {&ErrcodeError{40001, ""}, KindSecret, 1, 18, 5 * time.Minute, time.Minute},
		"IP":                {&ErrcodeError{40164, ""}, KindIP, 1, 18, 5 * time.Minute, time.Minute},
		"IP, other code":    {&ErrcodeError{61004, ""}, KindIP, 1, 18, 5 * time.Minute, time.Minute},
		"frozen":            {&ErrcodeError{40243, ""}, KindFrozen, 1, 18, 5 * time.Minute, time.Minute},
		"account":           {&ErrcodeError{50004, ""}, KindAccount, 1, 18, 5 * time.Minute, time.Minute},
		"third party":       {&ErrcodeError{61024, ""}, KindComponent, 1, 18, 5 * time.Minute, time.Minute},
		"to be confirmed":   {&ErrcodeError{89503, ""}, KindConfirm, 1, 6, 20 * time.Minute, 4 * time.Minute},
		"not confirmed":     {&ErrcodeError{89507, ""}, KindDenied, 1, 4, 50 * time.Minute, 5 * time.Minute},
		"request not clear": {&ErrcodeError{43002, ""}, KindRequest, 1, 18, 5 * time.Minute, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			src := newIssuer()
			src.fail(tc.err)
			begin(t, src, func(t *testing.T, m *Manager) {
				start := time.Now()
				if _, err := m.Token(t.Context()); err == nil {
					t.Fatal("there is a token")
				}
				if s := m.Status(); s.Failure != tc.kind || s.Hint == "" {
					t.Errorf("status is %+v", s)
				}
				if got := mustFailAtOnce(t, m).RetryAfter; got < tc.retryAfterFirstAbove-time.Second {
					t.Errorf("Retry-After is %v", got)
				}
				for time.Since(start) < time.Hour {
					mustFailAtOnce(t, m)
					if n := src.count(); n > tc.inAMinute && time.Since(start) < time.Minute {
						t.Fatalf("%d calls in the first minute", n)
					}
					pass(time.Since(start)/100 + 100*time.Millisecond)
				}
				if n := src.count(); n > tc.inAnHour {
					t.Errorf("%d calls in an hour", n)
				}
				src.fail(nil)
				pass(tc.noticedIn + time.Second)
				mustToken(t, m)
				if s := m.Status(); s.Failure != "" || s.FailuresInARow != 0 {
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
		fmt.Fprint(w, "SENTINELtoken")
	}))
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	m := NewManager(testIdentity, Traits{})
	a := m.Attach(Binding{
		Request: Request{Client: client, BaseURL: srv.URL},
		Source: sourceFunc(func(ctx context.Context, req Request) (Reply, error) {
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, req.BaseURL, nil)
			res, err := req.Client.Do(r)
			if err != nil {
				return Reply{}, Scrub(err)
			}
			defer res.Body.Close()
			raw, err := io.ReadAll(res.Body)
			return Reply{AccessToken: string(raw), ExpiresIn: time.Hour}, err
		}),
	})
	a.Start()
	tok := mustToken(t, m)
	m.Invalidate(tok, 40001)
	start := time.Now()
	a.Detach()
	if m.Close(); time.Since(start) > time.Second {
		t.Errorf("ended after %v", time.Since(start))
	}
}

// A source that hangs is left behind, and one that panics ends nothing; what it
// panicked with is not told as it is.
func TestSourceThatHangsOrPanics(t *testing.T) {
	const secret = "0123456789abcdef0123456789SENTINEL"
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		release := make(chan struct{})
		var mode atomic.Int32
		a := m.Attach(Binding{Request: Request{AppSecret: "shortSENTINEL"}, Source: sourceFunc(func(context.Context, Request) (Reply, error) {
			switch mode.Load() {
			case 0:
				<-release // not on ctx
			case 1:
				panic("oops: " + secret + " shortSENTINEL")
			}
			return Reply{AccessToken: "t", ExpiresIn: time.Hour}, nil
		})})
		a.Start()
		start := time.Now()
		if _, err := m.Token(t.Context()); err == nil || time.Since(start) > 11*time.Second {
			t.Fatalf("got %v after %v", err, time.Since(start))
		}
		pass(time.Hour)
		if n := a.hangs.Load(); n != mostHanging {
			t.Errorf("%d calls hang", n)
		}
		mode.Store(1)
		close(release)
		pass(2 * time.Minute)
		if s := m.Status(); s.HasToken || s.Error != "the token source panicked: oops: [redacted] [redacted]" {
			t.Errorf("status is %+v", s)
		}
		mode.Store(2)
		pass(2 * time.Minute)
		mustToken(t, m)
	})
}

// The end waits for no source that hangs, and leaves a token that is usable to the
// stragglers.
func TestCloseEndsEverything(t *testing.T) {
	src := newIssuer()
	synctest.Test(t, func(t *testing.T) { // fails if a goroutine is left
		m := NewManager(testIdentity, Traits{})
		a := m.Attach(Binding{Source: src})
		a.Start()
		tok := mustToken(t, m)
		src.took = time.Hour
		done := make(chan error)
		go func() {
			_, err := m.Reject(context.Background(), tok, 40001)
			done <- err
		}()
		pass(time.Second)
		m.Close()
		m.Close()
		if err := <-done; err == nil {
			t.Error("a waiter got a token")
		}
		if _, err := m.Token(t.Context()); err == nil {
			t.Error("there is a token after the end")
		}
		_, _ = m.Renew(t.Context())
		_, _ = m.Reject(t.Context(), tok, 40001)
		m.Attach(Binding{Source: src}).Start()
		a.Detach()
		pass(time.Hour)
	})
	synctest.Test(t, func(t *testing.T) {
		src, hang := newIssuer(), make(chan struct{})
		defer close(hang)
		m := NewManager(testIdentity, Traits{})
		m.Attach(Binding{Source: src, Observe: func(Event) { <-hang }}).Start()
		tok := mustToken(t, m)
		src.answer = func(fetchCall) (Reply, error) { <-hang; return Reply{}, nil }
		go func() { _, _ = m.Renew(t.Context()) }()
		start := time.Now()
		m.Close()
		if got := mustToken(t, m); got != tok || !time.Now().Equal(start) {
			t.Errorf("got %p after %v", got, time.Since(start))
		}
		m.Invalidate(tok, 40001)
		if _, err := m.Reject(t.Context(), tok, 40001); err == nil {
			t.Error("a token after the end")
		}
	})
}
