package token

// A fetch on behalf of a fleet: look, claim the right to fetch, look again, call,
// and store. Without the store, a gateway goes on alone.

import (
	"context"
	"errors"
	"time"
)

// attemptShared is a flight of a manager that shares.
func (m *Manager) attemptShared(ctx context.Context, f *flight, s *shelf) outcome {
	news, err := m.look(ctx, s)
	m.mu.Lock()
	only, own := f.lookOnly, f.own
	m.mu.Unlock()
	switch {
	case only:
		m.restore(ctx, s)
		return outcome{}
	case news && !own:
		return outcome{}
	case err != nil:
		return m.alone(ctx, f)
	}
	c, news, err := m.claim(ctx, f, s)
	switch {
	case err != nil:
		return m.alone(ctx, f)
	case c == nil:
		return outcome{orphan: !news}
	}
	defer c.release()
	force, failure, err := m.enterBooks(ctx, f, s)
	switch {
	case err != nil:
		return m.alone(ctx, f)
	case failure != nil:
		return outcome{failure: failure}
	}
	out := m.call(ctx, f, force)
	if out.asked {
		return m.put(ctx, f, s, out)
	}
	return out
}

// alone is for when the store fails. A gateway whose token lasts waits for the
// store to recover; one that needs a token gets it, for itself.
func (m *Manager) alone(ctx context.Context, f *flight) outcome {
	if !m.needs(f) {
		return outcome{}
	}
	m.mu.Lock()
	ok := m.fleet.alone.take(time.Now())
	m.mu.Unlock()
	if !ok {
		return outcome{failure: budgetFailure(errAlone, nil)}
	}
	return m.call(ctx, f, f.force)
}

// enterBooks enters the call that is about to be made into the fleet's books. A
// store that cannot be written to is found out here, before the call.
func (m *Manager) enterBooks(ctx context.Context, f *flight, s *shelf) (force bool, _ *Failure, _ error) {
	var b books
	raw, found, err := s.load(ctx, "calls")
	if err != nil {
		return false, nil, m.noted(&m.fleet.readErr, err)
	}
	if found {
		b = parseBooks(raw)
	}
	ok, force := b.enter(time.Now(), f.force)
	m.mu.Lock()
	ok = ok && m.fleet.own.take(time.Now())
	m.mu.Unlock()
	if !ok {
		return false, budgetFailure(errFleetBudget, nil), nil
	}
	return force, nil, m.noted(&m.fleet.writeErr, s.save(ctx, "calls", b))
}

var errFleetBudget = errors.New("the gateways' own limit on token calls is reached")

// noted takes note of how an access to the store ended, and returns that.
func (m *Manager) noted(at *error, err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteStore(at, err)
	return err
}

// put stores what the issuer gave, unless somebody has stored something newer
// meanwhile: then that is used. If it cannot be stored it is good all the same.
func (m *Manager) put(ctx context.Context, f *flight, s *shelf, out outcome) outcome {
	switch news, err := m.look(ctx, s); {
	case err != nil:
		return out
	case news && !f.strict(m):
		return outcome{}
	}
	m.mu.Lock()
	r := &record{
		Serial: max(m.fleet.serial+1, time.Now().UnixMilli()), Token: out.reply.AccessToken,
		IssuedAt: time.Now().Add(-since(out.start)).UnixMilli(), ExpiresIn: out.reply.ExpiresIn.Milliseconds(),
		RefreshIn: out.reply.RefreshIn.Milliseconds(),
	}
	m.mu.Unlock()
	if m.noted(&m.fleet.writeErr, s.save(ctx, "token", r)) != nil {
		return out
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fleet.serial, m.fleet.record, m.fleet.delays, m.fleet.vanished = r.Serial, r, 0, 0
	m.fleet.looked = time.Now()
	out.serial = r.Serial
	return out
}

// strict reports whether the issuer must be called whatever is in the store.
func (f *flight) strict(m *Manager) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f.own
}

// restore puts the current token back into a store that has lost everything. One
// that only says so, because it cannot be reached, fails to take it.
func (m *Manager) restore(ctx context.Context, s *shelf) {
	m.mu.Lock()
	r, tok := m.fleet.record, m.current.Load()
	lost := m.fleet.vanished >= 2 && r != nil && tok.usable() && tok.serial == r.Serial
	m.mu.Unlock()
	if lost {
		_ = m.noted(&m.fleet.writeErr, s.save(ctx, "token", r))
	}
}
