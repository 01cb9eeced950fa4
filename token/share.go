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
	for {
		out, err := m.attemptWith(ctx, f, s)
		if err == nil {
			return out
		}
		next := m.successor(s)
		switch {
		case next != nil: // its config is gone, and has closed it
			s = next
		case m.needs(f):
			return m.alone(ctx, f)
		default: // a token that lasts waits for the store to recover
			return outcome{}
		}
	}
}

// attemptWith is an attempt with one store. An error is the store's; the issuer was
// not called then.
func (m *Manager) attemptWith(ctx context.Context, f *flight, s *shelf) (outcome, error) {
	news, err := m.look(ctx, s)
	m.mu.Lock()
	only, own := f.lookOnly, f.own
	m.mu.Unlock()
	switch {
	case only:
		m.restore(ctx, s)
		return outcome{}, nil
	case err != nil || news && !own:
		return outcome{}, err
	}
	c, news, err := m.claim(ctx, f, s)
	if c == nil {
		return outcome{orphan: !news}, err
	}
	defer c.release()
	force, failure, err := m.enterBooks(ctx, f, s)
	if err != nil || failure != nil {
		return outcome{failure: failure}, err
	}
	out := m.call(ctx, f, force)
	if out.asked {
		out = m.put(ctx, f, s, out)
	}
	return out, nil
}

// successor returns the store to use in place of s, or nil: s is the one.
func (m *Manager) successor(s *shelf) *shelf {
	m.mu.Lock()
	defer m.mu.Unlock()
	if next := m.shelf(); next != s {
		return next
	}
	return nil
}

// alone is for when the store fails and a token is needed: the gateway gets one for
// itself.
func (m *Manager) alone(ctx context.Context, f *flight) outcome {
	m.mu.Lock()
	ok := m.fleet.alone.take(time.Now())
	m.mu.Unlock()
	if !ok {
		return outcome{failure: budgetFailure(errAlone, nil)}
	}
	return m.call(ctx, f, f.force)
}

// enterBooks enters the call that is about to be made into the fleet's books: before
// it is made, so that a gateway which is killed in the middle has counted it.
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
	for s != nil {
		news, err := m.look(ctx, s)
		if news && !f.strict(m) {
			return outcome{}
		}
		if err == nil {
			r := m.recordOf(out)
			if err = m.noted(&m.fleet.writeErr, s.save(ctx, "token", r)); err == nil {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.fleet.stored(r)
				out.serial = r.Serial
				return out
			}
		}
		s = m.successor(s)
	}
	return out
}

func (m *Manager) recordOf(out outcome) *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	return &record{
		Serial: max(m.fleet.serial+1, now.UnixMilli()), Token: out.reply.AccessToken,
		IssuedAt: now.Add(-now.Sub(out.start)).UnixMilli(), ExpiresIn: out.reply.ExpiresIn.Milliseconds(),
		RefreshIn: out.reply.RefreshIn.Milliseconds(),
	}
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
