package token

// What a manager tells of itself: events as they happen, and its state when asked.
// Neither has a token or a secret in it.

import "time"

// mostEvents is how many events wait for an observer. When there are more the
// oldest is forgotten: the newest says what is so now.
const mostEvents = 64

// queue is the events that have not been delivered.
type queue struct {
	waiting []addressed
	busy    bool // somebody delivers
}

// addressed is an event with the binding it is about; nil: any.
type addressed struct {
	Event
	about *Attachment
}

// emit tells of an event. It waits for nothing.
func (m *Manager) emit(ev Event, about *Attachment) {
	if tok := m.current.Load(); tok.usable() {
		ev.ExpiresAt = tok.expires
	}
	q := &m.events
	if q.waiting = append(q.waiting, addressed{ev, about}); len(q.waiting) > mostEvents {
		q.waiting[1].Missed += 1 + q.waiting[0].Missed
		q.waiting = q.waiting[1:]
	}
	if !q.busy {
		q.busy = true
		go m.deliver()
	}
}

// deliver hands out events one after another until there are none.
func (m *Manager) deliver() {
	for {
		m.mu.Lock()
		if len(m.events.waiting) == 0 {
			m.events.busy = false
			m.mu.Unlock()
			return
		}
		next := m.events.waiting[0]
		m.events.waiting = m.events.waiting[1:]
		observe := m.observer(next.about)
		m.mu.Unlock()
		if observe != nil {
			tell(observe, next.Event)
		}
	}
}

// observer returns who is told of what concerns a: its own config if that still
// runs, or another one that does.
func (m *Manager) observer(a *Attachment) func(Event) {
	if a != nil && a.started && a.b.Observe != nil {
		return a.b.Observe
	}
	for _, other := range m.started() {
		if other.b.Observe != nil {
			return other.b.Observe
		}
	}
	return nil
}

// tell calls an observer. Its panic is its own affair, and would end the process.
func tell(observe func(Event), ev Event) {
	defer func() { _ = recover() }()
	observe(ev)
}

// Status returns the manager's state.
func (m *Manager) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	if tok := m.current.Load(); tok.usable() {
		s.HasToken, s.ObtainedAt, s.ExpiresAt = true, tok.obtained, tok.expires
	}
	s.Fetching = m.flight != nil && m.flight.goal.Load() != toLook
	s.NextTry, s.LastTry = m.nextTry, m.lastTry
	f := m.failed
	if f == nil {
		f = m.limited
	}
	if f != nil {
		s.FailuresInARow, s.Failure, s.Errcode = f.count, f.Kind, f.Errcode
		s.Error, s.Hint, s.FailedAt = f.Error(), f.Hint, f.at
	}
	s.Shared = m.shelf() != nil
	if err := m.fleet.trouble(); err != nil {
		s.StoreError = err.Error()
	}
	return s
}

// failedEvent is the event of a failure.
func failedEvent(f *Failure, count int) Event {
	return Event{Kind: Failed, Called: f.Kind != KindBudget, Failure: f.Kind, Errcode: f.Errcode, Hint: f.Hint, Err: f.Err, Failures: count}
}

func since(start time.Time) time.Duration {
	if start.IsZero() {
		return 0
	}
	return time.Since(start)
}
