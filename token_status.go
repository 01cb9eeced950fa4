package wechatmedia

// What a token manager tells about itself: events as they happen, and its state
// when asked. Neither has a token or a secret in it.

import "time"

type tokenEventKind string

const (
	tokenRefreshed tokenEventKind = "refreshed"
	tokenConfirmed tokenEventKind = "confirmed" // asked for a new one, the source had none yet
	tokenFailed    tokenEventKind = "failed"
	tokenRejected  tokenEventKind = "rejected" // by WeChat, the current one
)

// tokenEvent is something that happened to a token.
type tokenEvent struct {
	Kind tokenEventKind

	// when refreshed, confirmed or failed
	Took      time.Duration
	Forced    bool
	NextTry   time.Time
	ExpiresAt time.Time // of the current token; zero: there is none

	// when refreshed: whether a rejected token came back
	Repeated bool

	// when failed; Errcode is 0 if WeChat gave none
	Failure  failureKind
	Err      error
	Hint     string // what the operator must do, in one line
	Failures int    // in a row

	// when failed, or rejected
	Errcode int
}

// tokenStatus is the state of a manager. Times are for people to read.
type tokenStatus struct {
	HasToken   bool
	ObtainedAt time.Time
	ExpiresAt  time.Time

	Fetching bool
	NextTry  time.Time // zero: none is due
	LastTry  time.Time

	// the failure since the last success; Failures is 0 if there was none
	FailuresInARow int
	Failure        failureKind
	Errcode        int
	Error          string
	Hint           string
	FailedAt       time.Time

	// since the manager began
	Fetches, Failures, Rejections, Repeats, Forced int64
}

// status returns the manager's state.
func (m *tokenManager) status() tokenStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	if tok := m.current.Load(); tok.usable() {
		s.HasToken, s.ObtainedAt, s.ExpiresAt = true, tok.obtained, tok.expires
	}
	s.Fetching, s.NextTry, s.LastTry = m.flight != nil, m.next, m.lastTry
	if f := m.failed; f != nil {
		s.FailuresInARow, s.Failure, s.Errcode = f.count, f.kind, f.errcode
		s.Error, s.Hint, s.FailedAt = f.err.Error(), f.hint, f.at
	}
	return s
}

// notice returns a function that tells the config in use of ev, to be called
// without the lock.
func (m *tokenManager) notice(ev tokenEvent) func() {
	b := m.backend()
	if b == nil || b.observe == nil {
		return func() {}
	}
	return func() { b.observe(ev) }
}
