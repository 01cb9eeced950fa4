package token

// The manager: what it knows, and what callers may ask of it.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of a manager.
const (
	// callTimeout bounds one call to the issuer, and how long a request waits for a
	// binding to be started.
	callTimeout = 10 * time.Second

	// wakeGap is the least time between two calls that somebody asks for: an
	// operator, or a config with another secret.
	wakeGap = 10 * time.Second

	// startGap is the least time between a failed call and the next because a
	// config has started, which may mend what was wrong; but startBurst configs
	// that start at once are each tried at once.
	startGap   = 3 * time.Second
	startBurst = 5

	// proveDelay is how long after a start another secret is tried. By then the
	// config before is gone.
	proveDelay = time.Second

	// All calls, for whatever reason: 60 at once and then one in 2 s, which is 43,260
	// in a day at the worst, a tenth of stable_token's quota. It is reached only by
	// tokens that live for seconds. A source that polls has one in 1 s.
	callsBurst        = 60
	callsEvery        = 2 * time.Second
	callsEveryPolling = time.Second

	// The calls that rejections cause, should every token be rejected, each a new one:
	// 30 at once, and then one a minute, which is 1,470 in a day at the worst.
	rejectionsBurst = 30
	rejectionsEvery = time.Minute

	// What WeChat allows of force_refresh.
	forcedPerDay = 20
	forcedGap    = 30 * time.Second
)

// Key returns a digest of the identity in hexadecimal: the same for the same
// identity in every process, and telling nothing of it.
func (id Identity) Key() string {
	digest := sha256.New()
	for _, part := range []string{id.AppID, id.Issuer, id.Source} {
		fmt.Fprintf(digest, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(digest.Sum(nil))
}

// Manager keeps the token of one identity. Requests read it without a lock;
// everything else is decided under one that is never held while anything is waited
// for. Its methods may be called from any goroutine, also after Close.
type Manager struct {
	key    string // of the identity
	ctx    context.Context
	end    context.CancelFunc
	jitter func() float64 // in [0,1)

	current atomic.Pointer[Token] // nil: none, or rejected

	mu       sync.Mutex
	closed   bool
	bindings []*Attachment // the one that is gone through first comes first
	ready    chan struct{} // closed when a binding is started, and then replaced
	events   queue
	stats    Status // the counters in it

	flight  *flight // the fetch or look going on, or nil
	timer   *time.Timer
	nextTry time.Time // when the issuer is called again; zero: not by itself
	lastTry time.Time

	calls, rejections, starts allowance

	proven  *[sha256.Size]byte // the digest of the secret that worked last
	proveAt time.Time          // when another one is tried; zero: there is none

	failed   *remembered // the failure since the last success, or nil
	limited  *remembered // likewise, the limit that kept a rejection from being asked about
	aside    *Token      // rejected, and not replaced yet
	edition  uint64      // the latest
	repeated repetition
	forced   []time.Time // of the last day
	fleet    fleet       // what is known of the store
}

// remembered is a failure that is not repeated before until.
type remembered struct {
	*Failure
	count int // in a row
	at    time.Time
	until time.Time
}

// NewManager returns a manager of the token of id, without a token.
func NewManager(id Identity, traits Traits) *Manager {
	m := &Manager{
		key: id.Key(), ready: make(chan struct{}), jitter: rand.Float64, fleet: newFleet(),
		calls:      allowance{burst: callsBurst, every: callsEvery},
		rejections: allowance{burst: rejectionsBurst, every: rejectionsEvery},
		starts:     allowance{burst: startBurst, every: startGap},
	}
	if traits.Polls {
		m.calls.every = callsEveryPolling
	}
	m.ctx, m.end = context.WithCancel(context.Background())
	return m
}

// UnavailableError says that there is no token, and when it pays to ask again.
type UnavailableError struct {
	RetryAfter time.Duration // at least a second
	Cause      error
}

// Error implements error.
func (e *UnavailableError) Error() string { return "no access token: " + e.Cause.Error() }

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Cause }

// TooEarlyError says that the issuer was called only just now.
type TooEarlyError struct {
	RetryAfter time.Duration // when it may be called again
}

// Error implements error.
func (e *TooEarlyError) Error() string {
	return fmt.Sprintf("the last call was made less than %v ago", wakeGap)
}

var (
	errNotStarted = errors.New("no config that could fetch one is running")
	errClosed     = errors.New("its manager has ended")
)

// unavailable is the error for want of a token.
func (m *Manager) unavailable(cause error) error {
	return &UnavailableError{RetryAfter: max(time.Second, time.Until(m.nextTry)), Cause: cause}
}

// Usable reports whether a token is at hand. It takes no lock.
func (m *Manager) Usable() bool { return m.current.Load().usable() }

// Token returns the current token. If there is none it waits, no longer than ctx
// lasts, for the one fetch that all who need it share. If a fetch has just failed,
// that is remembered, and an *[UnavailableError] returned at once.
func (m *Manager) Token(ctx context.Context) (*Token, error) {
	if tok := m.current.Load(); tok.usable() {
		return tok, nil
	}
	return m.obtain(ctx, m.join)
}

// Reject is for a token that WeChat refused with errcode. It returns the one to try
// again with: the current one if t has been replaced, or else a fresh one, which one
// fetch gets for all who wait. The fresh one is t's equal if the issuer hands it out
// again. It is t itself, the same pointer, if t was rejected so often that the issuer
// is not asked again yet.
func (m *Manager) Reject(ctx context.Context, t *Token, errcode int) (*Token, error) {
	first := true
	return m.obtain(ctx, func() (*Token, *flight, error) {
		if first {
			first = false
			return m.rejected(t, errcode)
		}
		return m.join()
	})
}

// Invalidate is like Reject, but waits for nothing.
func (m *Manager) Invalidate(t *Token, errcode int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _, _ = m.rejected(t, errcode)
}

// Renew asks the issuer now, for an operator who does not want to wait, and returns
// what it gave. The current token stays in use until there is another. It returns a
// *[TooEarlyError] less than 10 s after the last call.
func (m *Manager) Renew(ctx context.Context) (*Token, error) {
	return m.obtain(ctx, m.renew)
}

func (m *Manager) renew() (*Token, *flight, error) {
	if m.flight != nil {
		m.flight.goal.Store(toAsk)
		return nil, m.flight, nil
	}
	if wait := wakeGap - time.Since(m.lastTry); !m.lastTry.IsZero() && wait > 0 {
		return nil, nil, &TooEarlyError{RetryAfter: wait}
	}
	f, err := m.launch(toAsk, &flight{rejected: m.asideSecret()})
	return nil, f, err
}

// join returns a token, or the fetch to wait for when there is none.
func (m *Manager) join() (*Token, *flight, error) {
	if tok := m.current.Load(); tok.usable() {
		return tok, nil, nil
	}
	fresh := m.flight != nil && m.flight.fresh
	if m.failed != nil && m.running() && !fresh {
		return nil, nil, m.unavailable(m.failed.Failure)
	}
	if m.flight != nil {
		return nil, m.flight, nil
	}
	f, err := m.launch(toGet, &flight{rejected: m.asideSecret()})
	return nil, f, err
}

// obtain waits for what begin, which is called with the lock held, says. If there
// is no binding yet that has been started, it waits for one and begins again.
func (m *Manager) obtain(ctx context.Context, begin func() (*Token, *flight, error)) (*Token, error) {
	var patience <-chan time.Time
	for {
		m.mu.Lock()
		tok, f, err := begin()
		ready := m.ready
		m.mu.Unlock()
		if f != nil {
			tok, err = f.wait(ctx)
		}
		if !errors.Is(err, errNotStarted) || !m.hopeful() {
			return tok, err
		}
		if patience == nil {
			timer := time.NewTimer(callTimeout)
			defer timer.Stop()
			patience = timer.C
		}
		select {
		case <-ready:
		case <-patience:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// hopeful reports whether there are bindings, one of which may be started.
func (m *Manager) hopeful() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.bindings) > 0 && !m.closed
}

// schedule sets the timer to what is due first.
func (m *Manager) schedule() {
	var at time.Time
	for _, t := range []time.Time{m.nextTry, m.proveAt, m.fleet.nextLook} {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	switch {
	case m.closed || !m.running() || at.IsZero():
		if m.timer != nil {
			m.timer.Stop()
		}
	case m.timer == nil:
		m.timer = time.AfterFunc(time.Until(at), m.tick)
	default:
		m.timer.Reset(time.Until(at))
	}
}

// tick is what the timer calls.
func (m *Manager) tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	due := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	switch {
	case m.closed || !m.running() || m.flight != nil: // landing schedules
	case due(m.proveAt):
		m.prove()
	case due(m.nextTry):
		_, _ = m.launch(toGet, &flight{rejected: m.asideSecret()})
	case due(m.fleet.nextLook):
		_, _ = m.launch(toLook, new(flight))
	default: // set again while this one fired
		m.schedule()
	}
}

// Close ends the manager: it fetches no more. It waits for nobody. A token that is
// usable is still handed out, to the stragglers of the last config.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.closed = true
	m.schedule()
	m.end()
}
