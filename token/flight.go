package token

// A flight: one fetch, or one look into the store, and what follows from what it
// brings.

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// How far a flight goes.
const (
	toLook int32 = iota // into the store, and no farther
	toGet               // a token, from the store or from the issuer
	toAsk               // the issuer is called, whatever is in the store
)

// flight is one fetch or look, and what those who wait for it get.
type flight struct {
	done chan struct{} // closed when tok or err is set
	tok  *Token
	err  error

	cancel   context.CancelFunc
	rejected string      // the token that must not come back unasked
	refused  bool        // it is because of a rejection
	force    bool        // the issuer is to be made to issue another one
	through  *Attachment // the binding to go through first; nil: as they come

	goal  atomic.Int32 // it may become a farther one on the way
	fresh bool         // with the manager's lock: a config has started that may mend the failure remembered
}

// outcome is what a flight has brought. Its zero value is nothing: the current
// token stays, or another one has been found in the store.
type outcome struct {
	asked   bool // the issuer was called and has answered with reply
	reply   Reply
	start   time.Time // of the call
	serial  int64     // under which the reply is in the store; 0: it is not
	forced  bool
	by      *Attachment // the binding that was called last
	failure *Failure
	orphan  bool // the failure of configs that are gone
}

// wait is on the caller's own context; the flight is not.
func (f *flight) wait(ctx context.Context) (*Token, error) {
	select {
	case <-f.done:
		return f.tok, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// launch begins a flight.
func (m *Manager) launch(goal int32, f *flight) (*flight, error) {
	switch {
	case m.closed:
		return nil, m.unavailable(errClosed)
	case !m.running():
		return nil, m.unavailable(errNotStarted)
	}
	f.done = make(chan struct{})
	f.goal.Store(goal)
	m.flight = f
	m.takeOff(f)
	return f, nil
}

// takeOff begins an attempt of a flight, and lands it.
func (m *Manager) takeOff(f *flight) {
	ctx, cancel := context.WithCancel(m.ctx)
	f.cancel = cancel
	go func() {
		defer cancel()
		out := m.attempt(ctx, f)
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.land(f, out) {
			m.flight = nil
			m.schedule()
			close(f.done)
		}
	}()
}

// attempt is what a flight does, without the lock.
func (m *Manager) attempt(ctx context.Context, f *flight) outcome {
	s := m.successor(nil)
	switch {
	case s == nil && f.goal.Load() == toLook:
		return outcome{}
	case s == nil:
		return m.call(ctx, f, f.force)
	}
	for s != nil {
		out, err := m.share(ctx, f, s)
		if err == nil {
			return out
		}
		s = m.successor(s) // if its config is gone, which has closed it
	}
	return m.alone(ctx, f)
}

// land takes in what a flight has brought, and reports whether it is over.
func (m *Manager) land(f *flight, out outcome) bool {
	m.fleet.nextLook = time.Time{}
	if m.shelf() != nil {
		defer func() { m.fleet.nextLook = time.Now().Add(m.lookIn(m.current.Load())) }()
	}
	switch {
	case m.closed:
		f.err = m.unavailable(errClosed)
	case out.orphan:
		return m.again(f, f.rejected)
	case out.failure != nil:
		m.fail(f, out)
	case out.asked && m.aside != nil && m.aside.secret == out.reply.AccessToken && f.rejected != m.aside.secret:
		// rejected while on its way: the issuer has not been asked about it yet
		return m.again(f, m.aside.secret)
	case out.asked:
		m.publish(f, out)
	default:
		return m.settle(f)
	}
	return true
}

// again begins another attempt of f, if one can be made.
func (m *Manager) again(f *flight, rejected string) (over bool) {
	if !m.running() {
		f.err = m.unavailable(errNotStarted)
		if m.current.Load() == nil {
			m.current.Store(m.spare())
		}
		return true
	}
	f.rejected, f.refused, f.force = rejected, f.refused || m.aside != nil, false
	f.goal.CompareAndSwap(toLook, toGet)
	m.takeOff(f)
	return false
}

// settle is for an attempt that did not call the issuer, and did not fail.
func (m *Manager) settle(f *flight) (over bool) {
	tok := m.current.Load()
	switch {
	case f.goal.Load() == toAsk: // asked for when the flight was nearly over
		return m.again(f, m.asideSecret())
	case m.failed != nil && (!tok.usable() || f.refused && tok.secret == f.rejected):
		f.err = m.unavailable(m.failed.Failure)
		return true
	case !tok.usable(): // rejected meanwhile, or at its end
		return m.again(f, m.asideSecret())
	}
	f.tok = tok
	if f.goal.Load() == toLook {
		return true
	}
	if now := time.Now(); !m.nextTry.After(now) { // the store fails, and this token lasts
		m.nextTry = now.Add(m.fleet.hesitate())
		if last := tok.expires.Add(-reserveOf(tok)); last.After(now) && last.Before(m.nextTry) {
			m.nextTry = last
		}
	}
	return true
}

// publish makes what the issuer gave the current token.
func (m *Manager) publish(f *flight, out outcome) {
	tok := &Token{secret: out.reply.AccessToken, serial: out.serial, obtained: out.start, expires: out.start.Add(out.reply.ExpiresIn)}
	tok.refresh = out.start.Add(m.refreshIn(out.reply))
	again, confirmed := m.install(tok, f.rejected)
	ev := Event{Kind: Refreshed, Called: true, Took: since(out.start), Forced: out.forced, Repeated: again}
	if confirmed {
		ev.Kind = Confirmed
	}
	if m.shelf() != nil && tok.serial == 0 { // nobody else knows it
		if soon := time.Now().Add(m.fleet.hesitate()); soon.Before(m.nextTry) {
			m.nextTry = soon
		}
	}
	m.proven = &out.by.secret
	out.by.failures = 0
	f.tok = tok
	ev.NextTry = m.nextTry
	m.emit(ev, out.by)
}

// install makes tok the current token. again says that it was rejected before, and
// handed out once more; confirmed, that it is the one that was in use.
func (m *Manager) install(tok *Token, rejected string) (again, confirmed bool) {
	again = rejected != "" && rejected == tok.secret
	if old := m.current.Load(); old != nil && old.secret == tok.secret && !again {
		confirmed, tok.obtained, tok.edition = true, old.obtained, old.edition
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
	m.aside, m.failed, m.limited = nil, nil, nil
	m.fleet.forgive(tok.secret)
	m.current.Store(tok)
	m.nextTry = tok.refresh
	return again, confirmed
}

// fail takes in a failed flight.
func (m *Manager) fail(f *flight, out outcome) {
	cause := out.failure
	tok := m.current.Load()
	if out.forced && tok.usable() {
		// what WeChat hands out unforced is still there, and the schedule stands
		m.aside = nil
		f.tok = tok
		m.nextTry = tok.refresh
		ev := failedEvent(cause, 1)
		ev.Forced, ev.Took, ev.NextTry = true, since(out.start), m.nextTry
		m.emit(ev, out.by)
		return
	}
	m.remember(cause)
	if tok == nil {
		m.current.Store(m.spare())
	}
	f.err = m.unavailable(m.failed.Failure)
	ev := failedEvent(cause, m.failed.count)
	ev.Took, ev.NextTry = since(out.start), m.nextTry
	m.emit(ev, out.by)
}

// remember keeps a failure from being repeated before its back-off is over. With
// an endpoint that is down or busy these are at most 6 calls in the first minute
// and 75 in an hour after that; with a wrong secret it is one in the first minute
// and 15 in an hour; with a used-up quota 1 and 8.
func (m *Manager) remember(cause *Failure) {
	count, now := 1, time.Now()
	if m.failed != nil {
		count += m.failed.count
	}
	until := now.Add(delay(cause.Kind, count, m.jitter()))
	m.failed = &remembered{Failure: cause, count: count, at: now, until: until}
	m.nextTry = until
}

// mayForce keeps to what WeChat allows, as far as this process knows.
func (m *Manager) mayForce(now time.Time) bool {
	m.forced = slices.DeleteFunc(m.forced, func(at time.Time) bool { return now.Sub(at) >= 24*time.Hour })
	n := len(m.forced)
	allowed := slices.ContainsFunc(m.bindings, func(a *Attachment) bool { return a.started && a.traits.MayForce })
	return allowed && n < forcedPerDay && (n == 0 || now.Sub(m.forced[n-1]) >= forcedGap)
}
