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
	done     chan struct{} // closed when the rest is set
	tok      *Token
	err      error
	followed *flight // wait for this one instead

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
	for {
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.followed == nil {
			return f.tok, f.err
		}
		f = f.followed
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
	ctx, cancel := context.WithCancel(m.ctx)
	f.done, f.cancel = make(chan struct{}), cancel
	f.goal.Store(goal)
	m.flight = f
	go func() {
		defer cancel()
		out := m.attempt(ctx, f)
		m.mu.Lock()
		m.land(f, out)
		m.schedule()
		m.mu.Unlock()
		close(f.done)
	}()
	return f, nil
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

// land takes in what a flight has brought.
func (m *Manager) land(f *flight, out outcome) {
	m.flight = nil
	m.fleet.nextLook = time.Time{}
	if m.shelf() != nil {
		defer func() { m.fleet.nextLook = time.Now().Add(m.lookIn(m.current.Load())) }()
	}
	switch {
	case m.closed:
		f.err = m.unavailable(errClosed)
	case out.orphan:
		m.follow(f, f.rejected)
	case out.failure != nil:
		m.fail(f, out)
	case out.asked && m.aside != nil && m.aside.secret == out.reply.AccessToken && f.rejected != m.aside.secret:
		// rejected while on its way: the issuer has not been asked about it yet
		m.follow(f, m.aside.secret)
	case out.asked:
		m.publish(f, out)
	default:
		m.settle(f)
	}
}

// follow makes those who wait for f wait for another flight.
func (m *Manager) follow(f *flight, rejected string) {
	next := &flight{rejected: rejected, refused: f.refused || m.aside != nil}
	if f.followed, f.err = m.launch(max(toGet, f.goal.Load()), next); f.err != nil && m.current.Load() == nil {
		m.current.Store(m.spare())
	}
}

// settle is for a flight that did not call the issuer, and did not fail.
func (m *Manager) settle(f *flight) {
	tok := m.current.Load()
	switch {
	case f.goal.Load() == toAsk: // asked for when the flight was nearly over
		m.follow(f, m.asideSecret())
		return
	case m.failed != nil && (!tok.usable() || f.refused && tok.secret == f.rejected):
		f.err = m.unavailable(m.failed.Failure)
		return
	case !tok.usable(): // rejected meanwhile, or at its end
		m.follow(f, m.asideSecret())
		return
	}
	f.tok = tok
	if f.goal.Load() == toLook {
		return
	}
	if now := time.Now(); !m.nextTry.After(now) { // the store fails, and this token lasts
		m.nextTry = now.Add(m.fleet.hesitate())
		if last := tok.expires.Add(-reserveOf(tok)); last.After(now) && last.Before(m.nextTry) {
			m.nextTry = last
		}
	}
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
	m.prefer(out.by)
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
