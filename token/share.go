package token

// A fetch on behalf of a fleet: look, claim the right to fetch, look again, call,
// and store. Without the store, a gateway goes on alone.

import (
	"context"
	"errors"
	"time"
)

var (
	errFleetBudget = errors.New("the gateways' own limit on token calls is reached")
	errAlone       = errors.New("the store fails, and the gateway's own limit on token calls without it is reached")
)

// successor returns the store to use in place of s, or nil: s is the one, or there is
// none.
func (m *Manager) successor(s *shelf) *shelf {
	m.mu.Lock()
	defer m.mu.Unlock()
	if next := m.shelf(); next != s {
		return next
	}
	return nil
}

// share is an attempt with a store. An error is the store's; the issuer was not called
// then.
func (m *Manager) share(ctx context.Context, f *flight, s *shelf) (outcome, error) {
	news, err := m.look(s)
	switch {
	case f.goal.Load() == toLook:
		m.restore(s)
		return outcome{}, nil
	case err != nil || news && f.goal.Load() != toAsk:
		return outcome{}, err
	}
	c, news, err := m.claim(ctx, f, s)
	if c == nil {
		return outcome{orphan: !news}, err
	}
	defer c.release()
	force, failure, err := m.enterBooks(f, s)
	if err != nil || failure != nil {
		return outcome{failure: failure}, err
	}
	out := m.call(ctx, f, force)
	if out.asked {
		out = m.put(f, s, out)
	}
	return out, nil
}

// alone is for when the store fails. A token that lasts waits for it to recover; if one
// is needed, the gateway gets it for itself.
func (m *Manager) alone(ctx context.Context, f *flight) outcome {
	m.mu.Lock()
	tok := m.current.Load()
	needed := f.goal.Load() == toAsk || f.force || f.refused || !tok.usable() || tok.left() <= reserveOf(tok)
	ok := needed && m.fleet.alone.take(time.Now())
	m.mu.Unlock()
	switch {
	case !needed:
		return outcome{}
	case !ok:
		return outcome{failure: budgetFailure(errAlone, nil)}
	}
	return m.call(ctx, f, f.force)
}

// enterBooks enters the call that is about to be made into the fleet's books: before
// it is made, so that a gateway which is killed in the middle has counted it.
func (m *Manager) enterBooks(f *flight, s *shelf) (force bool, _ *Failure, _ error) {
	var b books
	raw, found, err := m.load(s, "calls")
	if err != nil {
		return false, nil, err
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
	return force, nil, m.save(s, "calls", b)
}

// put stores what the issuer gave, unless somebody has stored something newer
// meanwhile: then that is used. If it cannot be stored it is good all the same.
func (m *Manager) put(f *flight, s *shelf, out outcome) outcome {
	for ; s != nil; s = m.successor(s) {
		news, err := m.look(s)
		if news && f.goal.Load() != toAsk {
			return outcome{}
		}
		if err != nil {
			continue
		}
		r := m.recordOf(out)
		if m.save(s, "token", r) == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.fleet.stored(r)
			out.serial = r.Serial
			return out
		}
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

// restore puts the current token back into a store that has lost everything. One
// that only says so, because it cannot be reached, fails to take it.
func (m *Manager) restore(s *shelf) {
	m.mu.Lock()
	r, tok := m.fleet.record, m.current.Load()
	lost := m.fleet.vanished >= 2 && r != nil && tok.usable() && tok.serial == r.Serial
	m.mu.Unlock()
	if lost {
		_ = m.save(s, "token", r)
	}
}
