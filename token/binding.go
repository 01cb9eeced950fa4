package token

// The configurations that a manager works for: which of them it goes through.

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync/atomic"
	"time"
)

// Attachment is a binding in the hands of a manager.
type Attachment struct {
	m      *Manager
	b      Binding
	traits Traits
	shelf  *shelf       // nil: the binding does not share
	hangs  atomic.Int32 // calls of the source that were given up and have not returned
	secret [sha256.Size]byte
	gone   context.Context // until it is detached
	leave  context.CancelFunc

	// with the manager's lock
	started  bool
	failures int  // in a row
	wrong    bool // its secret was, when it was tried last
}

// Attach makes b known to the manager, which does not use it before it is started.
// The caller must detach it.
func (m *Manager) Attach(b Binding) *Attachment {
	a := &Attachment{m: m, b: b, traits: b.Source.Traits(), secret: sha256.Sum256([]byte(b.Request.AppSecret))}
	a.gone, a.leave = context.WithCancel(context.Background())
	if b.Store != nil {
		a.shelf = newShelf(b.Store, m.key)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bindings = append(m.bindings, a)
	return a
}

// Start lets the manager fetch through the binding and tell it what happens. If
// there is no token it fetches one. A failure that is remembered does not hold the
// config up for longer than some seconds: it may be what mends it. If the secret is
// not the one that worked last, it is tried soon.
func (a *Attachment) Start() {
	if a == nil {
		return
	}
	m := a.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.started || a.gone.Err() != nil || m.closed {
		return
	}
	a.started = true
	m.remove(a)
	m.bindings = slices.Insert(m.bindings, 0, a)
	close(m.ready)
	m.ready = make(chan struct{})
	m.wake(a)
	m.schedule()
}

// wake decides what the start of a is a reason for.
func (m *Manager) wake(a *Attachment) {
	now := time.Now()
	tok := m.current.Load()
	if a.shelf != nil && m.fleet.nextLook.IsZero() {
		m.fleet.nextLook = now.Add(m.lookIn(tok))
	}
	switch {
	case m.failed != nil:
		at := m.lastTry.Add(startGap)
		switch {
		case m.flight != nil:
			m.flight.fresh = true
		case !at.After(now) || m.starts.take(now):
			_, _ = m.launch(toGet, &flight{rejected: m.asideSecret(), fresh: true})
		case m.nextTry.IsZero() || at.Before(m.nextTry):
			m.nextTry = at
		}
	case tok.usable():
		if m.nextTry.IsZero() {
			m.nextTry = tok.refresh
		}
		if m.proven != nil && *m.proven != a.secret {
			if m.proveAt = now.Add(proveDelay); m.proveAt.Before(m.lastTry.Add(wakeGap)) {
				m.proveAt = m.lastTry.Add(wakeGap)
			}
		}
	case m.flight == nil:
		_, _ = m.launch(toGet, &flight{rejected: m.asideSecret()})
	}
}

// prove tries a secret that is not the one that worked last.
func (m *Manager) prove() {
	m.proveAt = time.Time{}
	for _, a := range m.started() {
		if a.secret != *m.proven {
			_, _ = m.launch(toAsk, &flight{rejected: m.asideSecret(), through: a})
			return
		}
	}
	m.schedule()
}

// Detach takes the binding away. It may be called more than once, and on nil. A call
// in flight through it goes on for a little if it is of use to another binding.
func (a *Attachment) Detach() {
	if a == nil {
		return
	}
	m := a.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.gone.Err() != nil {
		return
	}
	a.leave()
	a.started = false
	m.remove(a)
	if !m.running() {
		m.nextTry, m.proveAt, m.fleet.nextLook = time.Time{}, time.Time{}, time.Time{}
		if m.flight != nil {
			m.flight.cancel()
		}
	}
	m.schedule()
}

// putOff makes a the last one.
func (m *Manager) putOff(a *Attachment) {
	m.remove(a)
	m.bindings = append(m.bindings, a)
}

func (m *Manager) remove(a *Attachment) {
	m.bindings = slices.DeleteFunc(m.bindings, func(other *Attachment) bool { return other == a })
}

// started returns the bindings that are, in the order in which they are gone
// through: what was started last goes first, and what failed last goes last.
func (m *Manager) started() []*Attachment {
	return slices.DeleteFunc(slices.Clone(m.bindings), func(a *Attachment) bool { return !a.started })
}

// running reports whether a binding is started.
func (m *Manager) running() bool {
	return slices.ContainsFunc(m.bindings, func(a *Attachment) bool { return a.started })
}

// shelf returns the store of the first binding that has one, or nil.
func (m *Manager) shelf() *shelf {
	for _, a := range m.started() {
		if a.shelf != nil {
			return a.shelf
		}
	}
	return nil
}
