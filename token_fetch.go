package wechatmedia

// One fetch of a token: how the source is asked, and what follows from what it
// brings.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// flight is one fetch, and what those who wait for it get.
type flight struct {
	done     chan struct{} // closed when the rest is set
	tok      *token
	err      error
	followed *flight // wait for this one instead

	backend  *tokenBackend
	cancel   context.CancelFunc
	rejected string
	force    bool
}

// launch begins a fetch. rejected is the token that must not come back unasked.
func (m *tokenManager) launch(rejected string, force bool) (*flight, error) {
	b := m.backend()
	switch {
	case m.closed:
		return nil, m.unavailable(errManagerClosed)
	case b == nil:
		return nil, m.unavailable(errNoBackend)
	}
	now := time.Now()
	if !m.opts.calls.take(now) {
		m.remember(failure{kind: failureBudget, hint: failureTraits[failureBudget].hint,
			err: errors.New("the gateway's own limit on token calls is reached")}, now)
		return nil, m.unavailable(m.failed.failure)
	}
	ctx, cancel := context.WithTimeout(m.ctx, m.opts.timeout)
	f := &flight{done: make(chan struct{}), backend: b, cancel: cancel, rejected: rejected, force: force}
	m.flight = f
	m.lastTry = now
	m.stats.Fetches++
	if force {
		m.forced = append(m.forced, now)
		m.stats.Forced++
	}
	m.fleet.Go(func() {
		defer cancel()
		reply, err := m.ask(ctx, f)
		m.mu.Lock()
		notify := m.land(f, reply, err, now)
		m.mu.Unlock()
		close(f.done)
		notify()
	})
	return f, nil
}

// ask calls the source, and stops waiting for it at the deadline whatever it does.
func (m *tokenManager) ask(ctx context.Context, f *flight) (TokenReply, error) {
	type answer struct {
		reply TokenReply
		err   error
	}
	if m.hangs.Add(1) > mostHanging {
		m.hangs.Add(-1)
		return TokenReply{}, errors.New("earlier calls of the token source still hang")
	}
	ch := make(chan answer, 1)
	go func() {
		defer m.hangs.Add(-1)
		defer func() { // outside of any request, a panic would end the process
			if r := recover(); r != nil {
				ch <- answer{err: fmt.Errorf("the token source panicked: %s", redact(fmt.Sprint(r)))}
			}
		}()
		reply, err := f.backend.fetch(ctx, f.rejected, f.force)
		ch <- answer{reply, err}
	}()
	var a answer
	select {
	case a = <-ch:
	case <-ctx.Done():
		// a source that keeps its deadline says more about it
		select {
		case a = <-ch:
		case <-time.After(100 * time.Millisecond):
			return TokenReply{}, ctx.Err()
		}
	}
	if a.err == nil && (a.reply.AccessToken == "" || a.reply.ExpiresIn <= 0) {
		a.err = badReply("no access_token, or one that has expired")
	}
	return a.reply, a.err
}

// land takes in what a fetch that began at start has brought.
func (m *tokenManager) land(f *flight, reply TokenReply, err error, start time.Time) (notify func()) {
	m.flight = nil
	switch {
	case m.closed:
		f.err = &tokenUnavailableError{RetryAfter: time.Second, cause: errManagerClosed}
		return func() {}
	case err == nil && m.aside != nil && m.aside.secret == reply.AccessToken && f.rejected != reply.AccessToken:
		// rejected while on its way: the source has not been asked about it yet
		return m.follow(f, reply.AccessToken)
	case err == nil:
		return m.publish(f, reply, start)
	case !slices.Contains(m.backends, f.backend):
		// the failure of a config that is gone says nothing about the next one
		return m.follow(f, f.rejected)
	}
	return m.fail(f, classify(err))
}

// follow makes those who wait for f wait for another fetch.
func (m *tokenManager) follow(f *flight, rejected string) (notify func()) {
	if f.followed, f.err = m.launch(rejected, false); f.err != nil && m.current.Load() == nil {
		m.current.Store(m.spare())
	}
	return func() {}
}

// publish makes what a fetch has brought the current token.
func (m *tokenManager) publish(f *flight, reply TokenReply, start time.Time) (notify func()) {
	tok := &token{secret: reply.AccessToken, obtained: start, expires: start.Add(reply.ExpiresIn)}
	tok.refresh = start.Add(m.refreshIn(reply))
	again := f.rejected != "" && f.rejected == tok.secret
	kind := tokenRefreshed
	if old := m.current.Load(); old != nil && old.secret == tok.secret && !again {
		kind, tok.obtained, tok.edition = tokenConfirmed, old.obtained, old.edition
	} else {
		m.edition++
		tok.edition = m.edition
	}
	switch {
	case again && m.repeated.secret != tok.secret:
		m.repeated = repetition{secret: tok.secret, gap: repeatFirst, asked: time.Now()}
	case tok.secret != m.repeated.secret:
		m.repeated = repetition{}
	}
	m.aside, m.failed = nil, nil
	m.current.Store(tok)
	m.arm(tok.refresh)
	f.tok = tok
	m.stats.Repeats += b2i(again)
	return m.notice(tokenEvent{
		Kind: kind, Took: time.Since(start), Forced: f.force, Repeated: again,
		ExpiresAt: tok.expires, NextTry: tok.refresh,
	})
}

// refreshIn says when to ask again, counted from when the fetch began.
func (m *tokenManager) refreshIn(reply TokenReply) time.Duration {
	if reply.RefreshIn > 0 {
		early := time.Duration(refreshInJitter * m.opts.jitter() * float64(reply.RefreshIn))
		return max(minRefresh, min(reply.RefreshIn-early, reply.ExpiresIn))
	}
	life := float64(reply.ExpiresIn)
	earliest := min(float64(refreshEarliest), refreshEarliestShare*life)
	latest := min(float64(refreshLatest), refreshLatestShare*life)
	before := latest + m.opts.jitter()*(earliest-latest)
	return max(minRefresh, reply.ExpiresIn-time.Duration(before))
}

// fail takes in a failed fetch.
func (m *tokenManager) fail(f *flight, cause failure) (notify func()) {
	now := time.Now()
	tok := m.current.Load()
	m.stats.Failures++
	if f.force && tok.usable() {
		// what WeChat hands out unforced is still there, and the schedule stands
		m.aside = nil
		f.tok = tok
		m.arm(tok.refresh)
		return m.notice(tokenEvent{Kind: tokenFailed, Failure: cause.kind, Errcode: cause.errcode, Hint: cause.hint, Err: cause.err,
			Took: now.Sub(m.lastTry), Forced: true, Failures: 1, ExpiresAt: tok.expires, NextTry: m.next})
	}
	m.remember(cause, now)
	if tok == nil {
		m.current.Store(m.spare())
	}
	f.err = m.unavailable(m.failed.failure)
	ev := tokenEvent{Kind: tokenFailed, Failure: cause.kind, Errcode: cause.errcode, Hint: cause.hint, Err: cause.err,
		Took: now.Sub(m.lastTry), Failures: m.failed.count, NextTry: m.next}
	if tok = m.current.Load(); tok.usable() {
		ev.ExpiresAt = tok.expires
	}
	return m.notice(ev)
}

// remember keeps a failure from being repeated before its back-off is over. With
// an endpoint that is down or busy these are at most 6 calls in the first minute
// and 75 in an hour after that; with a wrong secret it is one in the first minute
// and 15 in an hour; with a used-up quota 1 and 8.
func (m *tokenManager) remember(cause failure, now time.Time) {
	count := 1
	if m.failed != nil {
		count += m.failed.count
	}
	until := now.Add(cause.kind.delay(count, m.opts.jitter()))
	m.failed = &remembered{failure: cause, count: count, at: now, until: until}
	m.arm(until)
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
