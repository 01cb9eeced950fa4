package token

// What follows from a rejection: a token to try again with, a fetch to wait for, or
// nothing.

import (
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
)

const (
	// A token that WeChat rejects and the issuer hands out again is asked about
	// again after repeatFirst, then twice as long each time, and every repeatMost
	// in the end: 6 calls in the first 5 minutes, and then 288 a day.
	repeatFirst = 5 * time.Second
	repeatMost  = 5 * time.Minute

	// lookGap is the least time between two looks into the store because of
	// rejections that are not asked about.
	lookGap = time.Second
)

// repetition is about a token that was rejected and handed out again.
type repetition struct {
	secret string
	gap    time.Duration // before the issuer is asked about it again
	asked  time.Time
}

// rejected decides what follows from a rejection of t.
func (m *Manager) rejected(t *Token, code int) (*Token, *flight, error) {
	m.stats.Rejections++
	tok := m.current.Load()
	current := tok != nil && tok.edition == t.edition
	switch {
	case tok.usable() && !current:
		return tok, nil, nil // a late one: t has a successor
	case m.closed:
		return nil, nil, m.unavailable(errClosed)
	case !current: // others have seen to it
		return m.join()
	case !m.running():
		return nil, nil, m.unavailable(errNotStarted)
	}
	t = tok // the same secret, maybe since confirmed for longer
	switch {
	case t.secret == m.repeated.secret:
		return m.rejectedAgain(t, code)
	case m.failed != nil:
		// The endpoint is down too, maybe all of WeChat is, which is when valid
		// tokens are known to be rejected at times. Nothing is won by dropping this
		// one, but this request has had its try.
		spare := t
		if code == errcode.TokenExpired {
			spare = nil
		}
		m.setAside(t, code, spare)
		if f := m.lookAgain(t); f != nil {
			return nil, f, nil
		}
		return nil, nil, m.unavailable(m.failed.Failure)
	case m.flight != nil:
		m.setAside(t, code, nil)
		return nil, m.flight, nil
	case !m.rejections.has(time.Now()):
		return m.limit(t)
	}
	m.setAside(t, code, nil)
	f, err := m.launch(toGet, &flight{rejected: t.secret, refused: true})
	return nil, f, err
}

// setAside drops the current token for another, or for none. It comes back if no
// other is to be had, unless its time is up for certain.
func (m *Manager) setAside(t *Token, code int, now *Token) {
	news := m.aside == nil || m.aside.secret != t.secret
	m.aside = t
	if code == errcode.TokenExpired {
		m.aside = &Token{secret: t.secret, edition: t.edition, serial: t.serial} // past its end
	}
	m.current.Store(now)
	m.fleet.refuse(t.secret)
	if news {
		m.emit(Event{Kind: Rejected, Errcode: code}, nil)
	}
}

// spare returns the token that was set aside, if nothing better is to be had.
func (m *Manager) spare() *Token {
	if m.aside.usable() {
		return m.aside
	}
	return nil
}

// asideSecret is what a source must not hand out without having asked.
func (m *Manager) asideSecret() string {
	if m.aside == nil {
		return ""
	}
	return m.aside.secret
}

// lookAgain looks whether another gateway has stored a token, if that has not been
// done just now.
func (m *Manager) lookAgain(t *Token) *flight {
	if m.flight != nil || m.shelf() == nil || since(m.fleet.tried) < lookGap && !m.fleet.tried.IsZero() {
		return nil
	}
	f, err := m.launch(toLook, &flight{rejected: t.secret, refused: true})
	if err != nil {
		return nil
	}
	return f
}

// limit is for a rejection that is one too many to ask the issuer about it. The
// token stays in use. It is told once per back-off.
func (m *Manager) limit(t *Token) (*Token, *flight, error) {
	now := time.Now()
	if m.limited == nil || !now.Before(m.limited.until) {
		count := 1
		if m.limited != nil {
			count += m.limited.count
		}
		f := budgetFailure(errBudget, nil)
		m.limited = &remembered{Failure: f, count: count, at: now, until: now.Add(delay(f.Kind, count, m.jitter()))}
		ev := failedEvent(f, count)
		ev.NextTry = m.nextTry
		m.emit(ev, nil)
	}
	m.fleet.refuse(t.secret)
	if f := m.lookAgain(t); f != nil {
		return nil, f, nil
	}
	return t, nil, nil
}

// rejectedAgain is for a token that the issuer has confirmed since WeChat first
// rejected it. It stays in use: either these rejections are noise, which WeChat
// is known for, or only force gets another one.
func (m *Manager) rejectedAgain(t *Token, code int) (*Token, *flight, error) {
	now := time.Now()
	force := m.mayForce(now)
	switch {
	case m.flight != nil:
		return nil, m.flight, nil
	case m.failed != nil || !force && now.Sub(m.repeated.asked) < m.repeated.gap:
		return t, nil, nil
	case !m.rejections.has(now):
		return m.limit(t)
	}
	m.repeated.asked = now
	m.repeated.gap = min(2*m.repeated.gap, repeatMost)
	m.setAside(t, code, t)
	f, err := m.launch(toGet, &flight{rejected: t.secret, refused: true, force: force})
	if err != nil {
		return t, nil, nil
	}
	return nil, f, nil
}
