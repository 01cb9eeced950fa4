package wechatmedia

// The life of a token: fetched once for all who wait, refreshed ahead, replaced
// when it is rejected, and never asked for oftener than its issuer can bear.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// token is an access token. It does not change, and prints as nothing.
type token struct {
	secret   string
	edition  uint64    // the same for the same secret until that is rejected
	obtained time.Time // all with monotonic readings: setting the clock changes nothing
	refresh  time.Time
	expires  time.Time
}

// value returns the secret itself.
func (t *token) value() string { return t.secret }

const redactedToken = "[access token]"

func (t *token) String() string   { return redactedToken }
func (t *token) GoString() string { return redactedToken }

// Format keeps every verb from printing the secret.
func (t *token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedToken) }

func (t *token) usable() bool { return t != nil && time.Now().Before(t.expires) }

// tokenBackend is what a running config lends the manager, which outlives it.
type tokenBackend struct {
	// fetch asks the source. It keeps the context's deadline, which a source that
	// hangs cannot outstay: it is left behind.
	fetch func(ctx context.Context, rejected string, force bool) (TokenReply, error)

	// observe, which may be nil, is told what happens, from any goroutine. No lock
	// is held meanwhile.
	observe func(tokenEvent)
}

// Defaults of a manager.
const (
	// tokenFetchTimeout bounds a fetch, all hosts together.
	tokenFetchTimeout = 10 * time.Second

	// The refresh ahead happens at a random moment within this window before
	// expiry, so that a fleet with one token does not ask in one second. WeChat's
	// stable_token has nothing new to give before the last 5 minutes. The window's
	// late end leaves room for retries.
	refreshEarliest = 270 * time.Second
	refreshLatest   = 120 * time.Second

	// A token of a shorter life is refreshed within this part of it.
	refreshEarliestShare = 0.5
	refreshLatestShare   = 0.3

	// refreshInJitter is the part of a source's own interval that may be missing
	// from it, for the same reason.
	refreshInJitter = 0.1

	// minRefresh keeps tokens that live no time at all from being asked for
	// without pause.
	minRefresh = 500 * time.Millisecond

	// A token that WeChat rejects and the source hands out again is asked about
	// again after repeatFirst, then twice as long each time, and every repeatMost
	// in the end: 6 calls in the first 5 minutes, and then 288 a day.
	repeatFirst = 5 * time.Second
	repeatMost  = 5 * time.Minute

	// What WeChat allows of force_refresh.
	forcedPerDay = 20
	forcedGap    = 30 * time.Second

	// wakeGap is the least time between a failed call and one made before its
	// back-off is over, because a config was loaded or somebody asked for it.
	wakeGap = 10 * time.Second

	// mostHanging is how many calls that ignore their deadline may hang at once.
	mostHanging = 4
)

// tokenOptions is the policy of a manager. Its zero value fits stable.
type tokenOptions struct {
	timeout time.Duration // of one fetch

	// calls bounds all calls, for whatever reason: 60 at once and then one in 2 s,
	// which is 43,260 in a day at the worst, a tenth of stable_token's quota. It is
	// reached only by tokens that live for seconds.
	calls allowance

	// rejections bounds the calls that rejections cause, should every token be
	// rejected, each a new one: 30 at once, and then one a minute, which is 1,470
	// in a day at the worst.
	rejections allowance

	forceRefresh bool
	jitter       func() float64 // in [0,1); for tests
}

func (o *tokenOptions) setDefaults() {
	if o.timeout == 0 {
		o.timeout = tokenFetchTimeout
	}
	if o.calls == (allowance{}) {
		o.calls = allowance{burst: 60, every: 2 * time.Second}
	}
	if o.rejections == (allowance{}) {
		o.rejections = allowance{burst: 30, every: time.Minute}
	}
	if o.jitter == nil {
		o.jitter = rand.Float64
	}
}

// tokenManager keeps one app's token. Requests read it without a lock; everything
// else is decided under one that is never held while anything is waited for.
type tokenManager struct {
	opts  tokenOptions
	ctx   context.Context // ends with the manager
	end   context.CancelFunc
	fleet sync.WaitGroup // the fetch in flight
	hangs atomic.Int32   // calls of a source that have not returned

	current atomic.Pointer[token] // nil: none, or rejected

	mu       sync.Mutex
	backends []*tokenBackend // the last one is used
	started  bool            // somebody wants tokens
	closed   bool
	flight   *flight     // the fetch going on, or nil
	timer    *time.Timer // of the next refresh or retry
	next     time.Time   // when it fires; zero: never
	lastTry  time.Time
	failed   *remembered // the failure since the last success, or nil
	aside    *token      // rejected, and not replaced yet
	edition  uint64      // the latest
	repeated repetition
	forced   []time.Time // of the last day
	stats    tokenStatus // the counters in it
}

// remembered is a failure that is not repeated before until.
type remembered struct {
	failure
	count int // in a row
	at    time.Time
	until time.Time
}

// repetition is about a token that was rejected and handed out again.
type repetition struct {
	secret string
	gap    time.Duration // before the source is asked about it again
	asked  time.Time
}

// tokenUnavailableError says that there is no token, and when it pays to ask again.
type tokenUnavailableError struct {
	RetryAfter time.Duration
	cause      error
}

func (e *tokenUnavailableError) Error() string { return "no access token: " + e.cause.Error() }

func (e *tokenUnavailableError) Unwrap() error { return e.cause }

var (
	errNoBackend     = errors.New("no config that could fetch one is running")
	errManagerClosed = errors.New("its manager has ended")
)

func newTokenManager(opts tokenOptions) *tokenManager {
	opts.setDefaults()
	m := &tokenManager{opts: opts}
	m.ctx, m.end = context.WithCancel(context.Background())
	return m
}

// attach makes b the one that fetches, until it is detached or another one is
// attached. It does not fetch yet.
func (m *tokenManager) attach(b *tokenBackend) (detach func()) {
	own := &tokenBackend{fetch: b.fetch, observe: b.observe} // so that attaching b twice counts twice
	m.mu.Lock()
	m.backends = append(m.backends, own)
	m.mu.Unlock()
	return sync.OnceFunc(func() { m.detach(own) })
}

// detach takes a backend away. A fetch in flight through it goes on if another
// backend can take over should it fail.
func (m *tokenManager) detach(b *tokenBackend) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.backends = slices.DeleteFunc(m.backends, func(other *tokenBackend) bool { return other == b })
	if len(m.backends) > 0 {
		return
	}
	m.started = false
	m.disarm()
	if m.flight != nil {
		m.flight.cancel()
	}
}

func (m *tokenManager) backend() *tokenBackend {
	if len(m.backends) == 0 {
		return nil
	}
	return m.backends[len(m.backends)-1]
}

// start begins to keep a token at hand. A failure that is remembered does not
// hold a newly loaded config up for long: it may be what mends it.
func (m *tokenManager) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.startLocked()
	if m.failed != nil {
		m.wake()
	}
}

func (m *tokenManager) startLocked() {
	if m.closed || len(m.backends) == 0 {
		return
	}
	m.started = true
	switch tok := m.current.Load(); {
	case m.flight != nil || !m.next.IsZero(): // a fetch is due, or sets the next one when it lands
	case m.failed != nil:
		m.arm(m.failed.until)
	case tok.usable():
		m.arm(tok.refresh)
	default:
		_, _ = m.launch(m.asideSecret(), false)
	}
}

// wake brings the next try forward.
func (m *tokenManager) wake() {
	if at := m.lastTry.Add(wakeGap); m.flight == nil && !m.next.IsZero() && at.Before(m.next) {
		m.arm(at)
	}
}

// token returns the current token. If there is none it waits for the fetch in
// flight, or makes one, unless one has just failed: that is remembered.
func (m *tokenManager) token(ctx context.Context) (*token, error) {
	if tok := m.current.Load(); tok.usable() {
		return tok, nil
	}
	m.mu.Lock()
	tok := m.current.Load()
	if tok.usable() {
		m.mu.Unlock()
		return tok, nil
	}
	m.startLocked()
	f, err := m.join()
	m.mu.Unlock()
	return wait(ctx, f, err)
}

// join returns the fetch to wait for when there is no token.
func (m *tokenManager) join() (*flight, error) {
	if m.failed != nil {
		return nil, m.unavailable(m.failed.failure)
	}
	if m.flight != nil {
		return m.flight, nil
	}
	return m.launch(m.asideSecret(), false)
}

// wait is on the caller's own context; the fetch is not.
func wait(ctx context.Context, f *flight, err error) (*token, error) {
	for f != nil && err == nil {
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
	return nil, err
}

// unavailable is the error for want of a token.
func (m *tokenManager) unavailable(cause error) error {
	return &tokenUnavailableError{RetryAfter: max(time.Second, time.Until(m.next)), cause: cause}
}

// reject is for a token that WeChat refused with errcode. It returns the one to
// try again with: the current one if t has been replaced, or else a fresh one,
// which one fetch gets for all who wait. The fresh one is t's equal if the source
// hands it out again. It is t itself if t was rejected so often that the source
// is not asked again yet.
func (m *tokenManager) reject(ctx context.Context, t *token, errcode int) (*token, error) {
	m.mu.Lock()
	tok, f, notify, err := m.rejected(t, errcode)
	m.mu.Unlock()
	notify()
	if tok != nil {
		return tok, nil
	}
	return wait(ctx, f, err)
}

// invalidate is like reject, but waits for nothing.
func (m *tokenManager) invalidate(t *token, errcode int) {
	m.mu.Lock()
	_, _, notify, _ := m.rejected(t, errcode)
	m.mu.Unlock()
	notify()
}

// rejected decides what follows from a rejection: a token, or a fetch to wait
// for, or an error.
func (m *tokenManager) rejected(t *token, errcode int) (_ *token, _ *flight, notify func(), _ error) {
	nothing := func() {}
	m.stats.Rejections++
	tok := m.current.Load()
	current := tok != nil && tok.edition == t.edition
	if tok.usable() && !current {
		return tok, nil, nothing, nil // a late one: t has a successor
	}
	m.startLocked()
	if !current { // others have seen to it
		f, err := m.join()
		return nil, f, nothing, err
	}
	t = tok // the same secret, maybe since confirmed for longer
	notify = nothing
	if m.aside == nil || m.aside.secret != t.secret { // news
		notify = m.notice(tokenEvent{Kind: tokenRejected, Errcode: errcode})
	}
	switch {
	case t.secret == m.repeated.secret:
		tok, f := m.rejectedAgain(t)
		if f == nil {
			notify = nothing
		}
		return tok, f, notify, nil
	case m.failed != nil:
		// The endpoint is down too, maybe all of WeChat is, which is when valid
		// tokens are known to be rejected at times. Nothing is won by dropping this
		// one, but this request has had its try.
		m.setAside(t, errcode)
		m.current.Store(m.spare())
		return nil, nil, notify, m.unavailable(m.failed.failure)
	case m.flight != nil:
		m.setAside(t, errcode)
		return nil, m.flight, notify, nil
	case !m.opts.rejections.take(time.Now()):
		return t, nil, nothing, nil
	}
	m.setAside(t, errcode)
	f, err := m.launch(t.secret, false)
	if err != nil {
		m.current.Store(m.spare())
	}
	return nil, f, notify, err
}

// setAside drops the current token. It comes back if no other is to be had,
// unless its time is up for certain.
func (m *tokenManager) setAside(t *token, errcode int) {
	m.aside = t
	if errcode == errcodeTokenExpired {
		m.aside = &token{secret: t.secret} // past its end
	}
	m.current.Store(nil)
}

const errcodeTokenExpired = 42001

func (m *tokenManager) spare() *token {
	if m.aside.usable() {
		return m.aside
	}
	return nil
}

// asideSecret is what the source must not hand out without having asked.
func (m *tokenManager) asideSecret() string {
	if m.aside == nil {
		return ""
	}
	return m.aside.secret
}

// rejectedAgain is for a token that the source has confirmed since WeChat first
// rejected it. It stays in use: either these rejections are noise, which WeChat
// is known for, or only force gets another one.
func (m *tokenManager) rejectedAgain(t *token) (*token, *flight) {
	if m.flight != nil {
		return nil, m.flight
	}
	now := time.Now()
	force := m.mayForce(now)
	if m.failed != nil || !force && now.Sub(m.repeated.asked) < m.repeated.gap || !m.opts.rejections.take(now) {
		return t, nil
	}
	m.repeated.asked = now
	m.repeated.gap = min(2*m.repeated.gap, repeatMost)
	m.aside = t
	f, err := m.launch(t.secret, force)
	if err != nil {
		return t, nil
	}
	return nil, f
}

// mayForce keeps to what WeChat allows, as far as this process knows.
func (m *tokenManager) mayForce(now time.Time) bool {
	m.forced = slices.DeleteFunc(m.forced, func(at time.Time) bool { return now.Sub(at) >= 24*time.Hour })
	n := len(m.forced)
	return m.opts.forceRefresh && n < forcedPerDay && (n == 0 || now.Sub(m.forced[n-1]) >= forcedGap)
}

// renew asks the source now, for an operator who does not want to wait. The
// current token stays in use until there is another.
func (m *tokenManager) renew(ctx context.Context) (*token, error) {
	m.mu.Lock()
	f, err := m.flight, error(nil)
	if f == nil {
		if wait := wakeGap - time.Since(m.lastTry); !m.lastTry.IsZero() && wait > 0 {
			m.mu.Unlock()
			return nil, &tokenUnavailableError{RetryAfter: wait, cause: fmt.Errorf("the last call was made less than %v ago", wakeGap)}
		}
		f, err = m.launch(m.asideSecret(), false)
	}
	m.mu.Unlock()
	return wait(ctx, f, err)
}

// arm sets when the next refresh or retry happens.
func (m *tokenManager) arm(at time.Time) {
	if m.closed || !m.started {
		return
	}
	m.next = at
	if m.timer == nil {
		m.timer = time.AfterFunc(time.Until(at), m.tick)
	} else {
		m.timer.Reset(time.Until(at))
	}
}

func (m *tokenManager) disarm() {
	m.next = time.Time{}
	if m.timer != nil {
		m.timer.Stop()
	}
}

// tick is what the timer calls.
func (m *tokenManager) tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed || !m.started || m.next.IsZero() || m.flight != nil:
	case time.Now().Before(m.next): // set again while this one fired
		m.timer.Reset(time.Until(m.next))
	default:
		_, _ = m.launch(m.asideSecret(), false)
	}
}

// Destruct ends the manager; it implements caddy.Destructor.
func (m *tokenManager) Destruct() error {
	m.mu.Lock()
	m.closed = true
	m.disarm()
	m.current.Store(nil)
	m.mu.Unlock()
	m.end()
	m.fleet.Wait()
	return nil
}
