package token

// One token for a fleet: what is known of the store, and what is believed of it.

import (
	"slices"
	"time"
)

const (
	// storePoll is how often a gateway looks into the store, more often for tokens
	// of a short life. Another one may have replaced the token, and the old one
	// ends 5 minutes after that.
	storePoll      = 75 * time.Second
	storePollShare = 0.1

	// storeHaste is when a gateway looks again that has no token, or one that is
	// not in the store, or has found the store failing.
	storeHaste = 5 * time.Second

	// A gateway that has just started, and by whose clock the stored token is at
	// its end, uses it for this part of its life, and no longer than storeDoubt,
	// before it asks for another one: that clock may be wrong.
	storeDoubtShare = 0.25
	storeDoubt      = 3 * time.Minute

	// reserve is how much life a gateway's token must have left for it to do
	// nothing when the store fails, and reserveShare if it is a short one. With
	// less, it goes on alone. It is longer than any back-off between two attempts.
	reserve      = 100 * time.Second
	reserveShare = 0.25

	// The calls of one gateway while the store fails, 154 in a day at the worst:
	// with source classic, gateways that cannot share end each other's tokens.
	aloneBurst = 10
	aloneEvery = 10 * time.Minute

	// mostRefused is how many rejected tokens are remembered, so that the store
	// does not bring them back.
	mostRefused = 16
)

// fleet is what a manager knows of its store.
type fleet struct {
	serial   int64     // the latest that was seen
	record   *record   // of the current token, if that is in the store
	looked   time.Time // when the store was last read and said something
	tried    time.Time // when reading was last tried
	nextLook time.Time
	refused  []refusal
	vanished int // looks in a row that found nothing where there had been something
	delays   int // in a row, of fetches that had to wait for the store

	// what the last access ended with
	readErr, writeErr error

	own   allowance // the calls of this gateway, in case the books do not last
	alone allowance // its calls while the store fails
}

// refusal is a token that WeChat rejected. Only a record that was written after that
// brings it back.
type refusal struct {
	secret string
	after  int64 // the latest serial that may be older than the rejection; 0: not known yet
}

func newFleet() fleet {
	return fleet{
		own:   allowance{burst: fleetBurst, every: fleetEvery},
		alone: allowance{burst: aloneBurst, every: aloneEvery},
	}
}

// stored takes note of a record that this gateway has written.
func (s *fleet) stored(r *record) {
	s.serial, s.record, s.looked = r.Serial, r, time.Now()
	s.delays, s.vanished = 0, 0
}

// refuse remembers a token that was rejected.
func (s *fleet) refuse(secret string) {
	s.forgive(secret)
	if s.refused = append(s.refused, refusal{secret: secret}); len(s.refused) > mostRefused {
		s.refused = s.refused[1:]
	}
}

// forgive forgets that a token was rejected: the issuer has handed it out again.
func (s *fleet) forgive(secret string) {
	s.refused = slices.DeleteFunc(s.refused, func(r refusal) bool { return r.secret == secret })
}

// isRefused reports whether r has a token that was rejected, and may have been
// written before that. A record that is met for the first time after a rejection may.
func (s *fleet) isRefused(r *record) bool {
	refused := false
	for i := range s.refused {
		is := s.refused[i].secret == r.Token
		switch after := &s.refused[i].after; {
		case *after == 0:
			*after = max(r.Serial, s.serial)
			refused = refused || is
		case is && r.Serial <= *after:
			refused = true
		}
	}
	return refused
}

// hesitate returns how long to wait before the store is needed again.
func (s *fleet) hesitate() time.Duration {
	wait := min(storePoll, storeHaste<<min(s.delays, 8))
	s.delays++
	return wait
}

// trouble is what the store fails with, or nil.
func (s *fleet) trouble() error {
	if s.writeErr != nil {
		return s.writeErr
	}
	return s.readErr
}

// noteStore takes in how an access to the store ended.
func (m *Manager) noteStore(at *error, err error) {
	before := m.fleet.trouble()
	*at = err
	after := m.fleet.trouble()
	if err != nil {
		m.stats.StoreFailures++
	}
	switch {
	case before == nil && after != nil:
		m.emit(Event{Kind: StoreFailed, Err: after}, nil)
	case before != nil && after == nil:
		m.emit(Event{Kind: StoreRecovered}, nil)
	}
}

// load reads from the store, and takes in how that ended.
func (m *Manager) load(s *shelf, name string) ([]byte, bool, error) {
	raw, found, err := s.load(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteStore(&m.fleet.readErr, err)
	return raw, found, err
}

// save writes into the store, and takes in how that ended.
func (m *Manager) save(s *shelf, name string, value any) error {
	err := s.save(name, value)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteStore(&m.fleet.writeErr, err)
	return err
}

// lookIn returns when to look into the store again, if tok is the current token.
func (m *Manager) lookIn(tok *Token) time.Duration {
	poll := storePoll
	if tok.usable() {
		poll = pollOf(tok.expires.Sub(tok.obtained))
		if m.fleet.readErr == nil && m.fleet.vanished == 0 {
			return poll
		}
	}
	return min(poll, storeHaste)
}

func pollOf(life time.Duration) time.Duration {
	return max(minRefresh, min(storePoll, time.Duration(storePollShare*float64(life))))
}

func reserveOf(tok *Token) time.Duration {
	return min(reserve, time.Duration(reserveShare*float64(tok.expires.Sub(tok.obtained))))
}

// look reads the store, and reports whether it brought a token. The failure of a
// look changes nothing about the token in hand.
func (m *Manager) look(s *shelf) (news bool, err error) {
	m.mu.Lock()
	m.fleet.tried = time.Now()
	m.stats.StoreLooks++
	m.mu.Unlock()
	raw, found, err := m.load(s, "token")
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err != nil:
		return false, err
	case !found && m.fleet.serial > 0:
		m.fleet.vanished++ // maybe: some stores say so when they cannot be reached
		return false, nil
	case !found:
		m.fleet.looked = time.Now()
		return false, nil
	}
	m.fleet.vanished = 0
	r := parseRecord(raw)
	if r == nil {
		return false, nil // the next one takes its place
	}
	return m.meet(r), nil
}

// meet takes in what lies in the store, and reports whether it is the current token
// now. It is if it is newer than what has been seen, and was not rejected.
func (m *Manager) meet(r *record) bool {
	now := time.Now()
	last := m.fleet.looked
	m.fleet.looked = now
	refused := m.fleet.isRefused(r)
	if r.Serial <= m.fleet.serial || m.closed {
		return false
	}
	m.fleet.serial = r.Serial
	if refused {
		return false
	}
	tok := m.tokenOf(r, now, last)
	if !tok.usable() || m.preferOwn(r) {
		return false
	}
	m.install(tok, m.asideSecret())
	m.fleet.record, m.fleet.delays = r, 0
	m.noteStore(&m.fleet.writeErr, nil) // somebody writes
	m.emit(Event{Kind: Adopted, NextTry: m.nextTry}, nil)
	return true
}

// preferOwn reports whether the current token is one that the fleet does not know,
// and seems to be of later date than r's: then r's may be at its end because of it.
// The next fetch will get one for all.
func (m *Manager) preferOwn(r *record) bool {
	own := m.current.Load()
	return own.usable() && own.serial == 0 && own.secret != r.Token &&
		r.IssuedAt < time.Now().Add(-time.Since(own.obtained)).UnixMilli()
}

// tokenOf works out how old a record's token is. It was stored since the last look,
// which bounds that whatever the clocks say; without such a look they are all there
// is.
func (m *Manager) tokenOf(r *record, now, last time.Time) *Token {
	life := r.life()
	age := time.Duration(now.UnixMilli()-r.IssuedAt) * time.Millisecond
	if !last.IsZero() {
		if most := now.Sub(last); age < 0 || age > most {
			age = most
		}
	}
	age = max(0, age)
	tok := &Token{secret: r.Token, serial: r.Serial, obtained: now.Add(-age), expires: now.Add(life - age)}
	tok.refresh = tok.obtained.Add(m.refreshIn(r.reply()))
	if last.IsZero() && age < life+clockSlack && r.RefreshIn == 0 && !tok.refresh.After(now) {
		doubt := min(storeDoubt, time.Duration(storeDoubtShare*float64(life)))
		tok.expires, tok.refresh = now.Add(doubt), now.Add(doubt/2)
	}
	return tok
}
