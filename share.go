package wechatmedia

// One token for a fleet: what a source gives is kept in Caddy's storage, and one
// gateway at a time asks for the next.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

const (
	// sharedPoll is how often a gateway looks into the storage, oftener for tokens
	// of a short life. Another one may have replaced the token, and the old one
	// ends 5 minutes after that.
	sharedPoll      = 75 * time.Second
	sharedPollShare = 0.1

	// sharedHaste is when a gateway looks again that called without the lock:
	// another one may have done so at the same time.
	sharedHaste = 5 * time.Second

	// sharedPatience is the part of a fetch's time that is spent waiting for the
	// lock. A holder that died keeps it for longer (10 s in the file system), and
	// requests that have no token cannot wait for that: two calls at once do less
	// harm.
	sharedPatience = 0.5

	// sharedStorageTimeout bounds one access to the storage, so that one which
	// hangs leaves time to go on without.
	sharedStorageTimeout = 3 * time.Second

	// sharedGlance is how often those who wait for the lock look whether its
	// holder has stored a token, so that they need not take turns.
	sharedGlance = 200 * time.Millisecond

	// clockSlack is how far the clocks of the fleet may be apart. A token that is
	// older than it lives by more than this is not used.
	clockSlack = 10 * time.Minute

	// A gateway that has just started, and by whose clock the stored token is at
	// its end, uses it for this part of its life, and no longer than sharedDoubt,
	// before it asks for another one: that clock may be wrong.
	sharedDoubtShare = 0.25
	sharedDoubt      = 3 * time.Minute

	// sharedReserve is how much life a gateway's token must have left for it to do
	// nothing when the storage fails, and sharedReserveShare if it is a short one.
	// With less, it goes on alone. It is longer than any back-off between two
	// attempts.
	sharedReserve      = 100 * time.Second
	sharedReserveShare = 0.25

	// The calls of the whole fleet, on record: 100 at once, and then one a minute,
	// which is 1,540 in a day at the worst. /cgi-bin/token allows 2,000.
	sharedBurst = 100
	sharedEvery = time.Minute

	// The calls of one gateway while the storage fails, 154 in a day at the worst:
	// with source classic, gateways that cannot share end each other's tokens.
	lonelyBurst = 10
	lonelyEvery = 10 * time.Minute
)

// sharedRecord is what is stored. Times are Unix milliseconds by the clock of the
// gateway that wrote them.
type sharedRecord struct {
	Version   int     `json:"version"`
	Token     string  `json:"access_token"` // empty: none yet, calls failed
	Edition   string  `json:"edition"`      // random; tells tokens that were asked for apart
	IssuedAt  int64   `json:"issued_at"`    // when the source was asked
	ExpiresIn int64   `json:"expires_in"`   // milliseconds, from then on
	Spent     float64 `json:"spent"`        // of sharedBurst
	SpentAt   int64   `json:"spent_at"`
	Forced    []int64 `json:"forced,omitempty"` // the forced calls of the last day
}

const sharedVersion = 1

func (r *sharedRecord) life() time.Duration { return time.Duration(r.ExpiresIn) * time.Millisecond }

// sharedSource is a TokenSource that asks another one on behalf of a fleet.
type sharedSource struct {
	source  TokenSource
	storage certmagic.Storage
	kind    string // of the source, with what sets its tokens apart from others
	logger  *zap.Logger
	jitter  func() float64

	mu     sync.Mutex
	seen   sighting  // of the record whose token was handed out last
	look   time.Time // when the storage was last looked into
	own    allowance // the calls of this gateway, in case records do not last
	lonely allowance // its calls while the storage fails
}

// sighting is what a gateway knows, by its monotonic clock, of a record.
type sighting struct {
	edition string
	at      time.Time     // when it was first seen
	age     time.Duration // of the token then
	doubt   time.Duration // if > 0, age was a guess: it is used for this long
	before  time.Duration // how long before its end it is replaced
	patient time.Time     // until when the storage may fail
}

// shareToken puts a source that was loaded as the module name, with the config
// raw, behind a storage.
func shareToken(source TokenSource, storage certmagic.Storage, name string, raw []byte, logger *zap.Logger) (TokenSource, error) {
	switch s := source.(type) {
	case *FileTokenSource:
		return nil, errors.New("share_token: the token of source file is not fetched, so there is nothing to share; " +
			"give all gateways the file")
	case *ServerTokenSource:
		// the rest of its config may differ between gateways
		return newSharedSource(source, storage, name+" "+s.url, logger), nil
	case *StableTokenSource, *ClassicTokenSource:
		return newSharedSource(source, storage, name, logger), nil
	}
	return newSharedSource(source, storage, name+" "+string(raw), logger), nil
}

// newSharedSource puts source's tokens into storage. kind names the source, and
// whatever else its tokens depend on besides the app and WeChat's hosts.
func newSharedSource(source TokenSource, storage certmagic.Storage, kind string, logger *zap.Logger) TokenSource {
	if logger == nil {
		logger = zap.NewNop()
	}
	return &sharedSource{
		source: source, storage: storage, kind: kind, logger: logger, jitter: mathrand.Float64,
		own:    allowance{burst: sharedBurst, every: sharedEvery},
		lonely: allowance{burst: lonelyBurst, every: lonelyEvery},
	}
}

// storageKey is where the token of a request's app lies. It tells nothing of the
// app. The secret is not part of it: a fleet in the middle of changing it must
// not come apart. WeChat's hosts all know the same tokens; a sandbox is another
// world.
func (s *sharedSource) storageKey(req TokenRequest) string {
	issuer := "weixin.qq.com"
	if len(req.BaseURLs) > 0 {
		u, err := url.Parse(req.BaseURLs[0])
		if err != nil || !strings.HasSuffix("."+u.Hostname(), "."+issuer) {
			issuer = req.BaseURLs[0]
		}
	}
	digest := sha256.New()
	for _, part := range []string{req.AppID, s.kind, issuer} {
		fmt.Fprintf(digest, "%d:%s", len(part), part)
	}
	return "wechat/tokens/" + hex.EncodeToString(digest.Sum(nil))
}

// FetchToken implements TokenSource.
func (s *sharedSource) FetchToken(ctx context.Context, req TokenRequest) (TokenReply, error) {
	key, start := s.storageKey(req), time.Now()
	record, err := s.load(ctx, key)
	if err != nil {
		return s.alone(ctx, req, fmt.Errorf("loading shared token: %w", err))
	}
	if reply, ok := s.accept(record, req); ok {
		return reply, nil
	}
	record, unlock, err := s.lock(ctx, key, req)
	if err != nil {
		return s.alone(ctx, req, fmt.Errorf("locking shared token: %w", err))
	}
	if unlock != nil {
		defer unlock()
	}
	if reply, ok := s.accept(record, req); ok { // somebody else was faster
		return reply, nil
	}
	reply, err := s.renew(ctx, key, req, record)
	if err == nil && unlock == nil {
		reply.RefreshIn = min(reply.RefreshIn, time.Since(start)+sharedHaste)
	}
	return reply, err
}

// load reads the record; nil means that there is none that makes sense.
func (s *sharedSource) load(ctx context.Context, key string) (*sharedRecord, error) {
	raw, err := within(ctx, func(ctx context.Context) ([]byte, error) { return s.storage.Load(ctx, key) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	record := new(sharedRecord)
	if json.Unmarshal(raw, record) != nil || record.Version != sharedVersion {
		return nil, nil // torn, or of another time: the next one takes its place
	}
	if record.Edition == "" || record.ExpiresIn <= 0 || record.life() > maxForeignLifetime || checkToken(record.Token) != nil {
		record.Token = "" // the books may still be good
	}
	return record, nil
}

// accept decides whether a record's token will do.
func (s *sharedSource) accept(record *sharedRecord, req TokenRequest) (TokenReply, bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	lastLook := s.look
	s.look = now
	if record == nil || record.Token == "" {
		return TokenReply{}, false
	}
	// A token that WeChat has rejected may be handed out again if somebody has
	// asked about it since, as far as this gateway can tell.
	fresh := record.Edition != s.seen.edition
	if record.Token == req.Rejected && (!fresh || s.seen.edition == "") {
		if fresh {
			s.meet(record, now, lastLook)
		}
		return TokenReply{}, false
	}
	if fresh {
		s.meet(record, now, lastLook)
	}
	remaining := record.life() - s.seen.age - now.Sub(s.seen.at)
	due := remaining - s.seen.before
	if s.seen.doubt > 0 {
		remaining = s.seen.doubt - now.Sub(s.seen.at)
		due = remaining - s.seen.doubt/2
	}
	if due <= 0 {
		return TokenReply{}, false
	}
	s.seen.patient = now.Add(remaining - reserveOf(record.life()))
	return TokenReply{AccessToken: record.Token, ExpiresIn: remaining, RefreshIn: nextLook(due, record.life())}, true
}

// meet takes note of a record that was not seen before, and works out how old its
// token is. It was stored since the last look, which bounds that whatever the
// clocks say; without such a look they are all there is.
func (s *sharedSource) meet(record *sharedRecord, now, lastLook time.Time) {
	life := record.life()
	seen := sighting{edition: record.Edition, at: now, before: s.before(life)}
	seen.age = time.Duration(now.UnixMilli()-record.IssuedAt) * time.Millisecond
	if !lastLook.IsZero() {
		if most := now.Sub(lastLook); seen.age < 0 || seen.age > most {
			seen.age = most
		}
	}
	seen.age = max(0, seen.age)
	if lastLook.IsZero() && seen.age < life+clockSlack && life-seen.age <= seen.before {
		seen.doubt = min(sharedDoubt, time.Duration(sharedDoubtShare*float64(life)))
	}
	s.seen = seen
}

// nextLook says when to look into the storage again, if the token is due for
// replacement after the given time. The manager comes somewhat earlier than told;
// that must not be just before the token is due, for then it would come twice.
func nextLook(due, life time.Duration) time.Duration {
	return min(max(minRefresh, time.Duration(float64(due)/(1-refreshInJitter))), pollOf(life))
}

func pollOf(life time.Duration) time.Duration {
	return max(minRefresh, min(sharedPoll, time.Duration(sharedPollShare*float64(life))))
}

func reserveOf(life time.Duration) time.Duration {
	return min(sharedReserve, time.Duration(sharedReserveShare*float64(life)))
}

// before is how long before its end this gateway replaces a token.
func (s *sharedSource) before(life time.Duration) time.Duration {
	earliest := min(float64(refreshEarliest), refreshEarliestShare*float64(life))
	latest := min(float64(refreshLatest), refreshLatestShare*float64(life))
	return time.Duration(latest + s.jitter()*(earliest-latest))
}

// lock waits for the lock and returns the record that lies there then. It comes
// back early, without the lock, when another gateway has stored a token that will
// do, and when the lock's holder takes too long.
func (s *sharedSource) lock(ctx context.Context, key string, req TokenRequest) (*sharedRecord, func(), error) {
	patience := tokenFetchTimeout
	if deadline, ok := ctx.Deadline(); ok {
		patience = time.Until(deadline)
	}
	over := time.NewTimer(time.Duration(sharedPatience * float64(patience)))
	defer over.Stop()
	glance := time.NewTicker(sharedGlance)
	defer glance.Stop()

	// some storages hold a lock for as long as its context lasts
	lockCtx, cancel := context.WithCancel(ctx)
	locked := s.lockInBackground(lockCtx, key)
	for {
		gaveUp := false
		select {
		case err := <-locked:
			if err != nil {
				cancel()
				return nil, nil, err
			}
			unlock := func() { s.unlock(ctx, key); cancel() }
			record, err := s.load(ctx, key)
			if err != nil {
				unlock()
				return nil, nil, err
			}
			return record, unlock, nil
		case <-glance.C:
		case <-over.C:
			gaveUp = true
			s.logger.Warn("the lock of the shared access token was not to be had in time; going on without it")
		}
		if record, err := s.load(ctx, key); gaveUp || err == nil && s.isNews(record, req) {
			cancel()
			return record, nil, err
		}
	}
}

// lockInBackground waits for the lock, maybe for longer than anybody cares. It
// gives back a lock that is not wanted any more.
func (s *sharedSource) lockInBackground(ctx context.Context, key string) <-chan error {
	locked := make(chan error)
	go func() {
		err := s.storage.Lock(ctx, key)
		select {
		case locked <- err:
		case <-ctx.Done():
			if err == nil {
				s.unlock(ctx, key)
			}
		}
	}()
	return locked
}

// isNews reports whether a record is worth waiting no longer.
func (s *sharedSource) isNews(record *sharedRecord, req TokenRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return record != nil && record.Token != "" && record.Edition != s.seen.edition &&
		(s.seen.edition != "" || record.Token != req.Rejected)
}

// unlock gives the lock back even if ctx has ended.
func (s *sharedSource) unlock(ctx context.Context, key string) {
	_, err := within(context.WithoutCancel(ctx), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.storage.Unlock(ctx, key)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.logger.Warn("unlocking the shared access token failed", zap.String("error", redact(err.Error())))
	}
}

// renew asks the source and stores what it gives, and that it was asked.
func (s *sharedSource) renew(ctx context.Context, key string, req TokenRequest, old *sharedRecord) (TokenReply, error) {
	next, err := s.account(old, &req)
	if err != nil {
		return TokenReply{}, err
	}
	start := time.Now()
	reply, err := fetchToken(ctx, s.source, req)
	if err != nil {
		s.store(ctx, key, next)
		return TokenReply{}, err
	}
	next.Token, next.Edition = reply.AccessToken, rand.Text()
	next.IssuedAt, next.ExpiresIn = start.UnixMilli(), reply.ExpiresIn.Milliseconds()
	s.store(ctx, key, next)
	return s.adopt(next, reply, start), nil
}

// store writes a record. If that fails, the token in it is good all the same.
func (s *sharedSource) store(ctx context.Context, key string, record *sharedRecord) {
	raw, err := json.Marshal(record)
	if err == nil {
		ctx := context.WithoutCancel(ctx) // the source may have used up all the time
		_, err = within(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.storage.Store(ctx, key, raw) })
	}
	if err != nil {
		s.logger.Error("storing the shared access token failed; other gateways will not learn of it",
			zap.String("error", redact(err.Error())))
	}
}

// account enters the call that is about to be made into the books, and turns it
// down if that is one too many.
func (s *sharedSource) account(old *sharedRecord, req *TokenRequest) (*sharedRecord, error) {
	now := time.Now()
	next := &sharedRecord{Version: sharedVersion}
	if old != nil {
		*next = *old
	}
	if next.SpentAt > now.Add(clockSlack).UnixMilli() {
		next.Spent, next.SpentAt = 0, 0 // books of the future would never be paid off
	}
	at := max(now.UnixMilli(), next.SpentAt) // clocks that are apart must not hand out calls
	books := allowance{burst: sharedBurst, every: sharedEvery,
		spent: min(max(0, next.Spent), sharedBurst), at: time.UnixMilli(next.SpentAt)}
	s.mu.Lock()
	ok := books.take(time.UnixMilli(at)) && s.own.take(now)
	s.mu.Unlock()
	if !ok {
		return nil, errSharedBudget
	}
	next.Spent, next.SpentAt = books.spent, at
	next.Forced = slices.DeleteFunc(slices.Clone(next.Forced), func(then int64) bool {
		return at-then >= (24*time.Hour).Milliseconds() || then > at
	})
	if n := len(next.Forced); req.ForceRefresh {
		req.ForceRefresh = n < forcedPerDay && (n == 0 || at-next.Forced[n-1] >= forcedGap.Milliseconds())
		if req.ForceRefresh {
			next.Forced = append(next.Forced, at)
		}
	}
	return next, nil
}

var errSharedBudget = failure{kind: failureBudget, err: errors.New("the gateways' own limit on token calls is reached")}

// adopt takes note of a token that this gateway got itself.
func (s *sharedSource) adopt(record *sharedRecord, reply TokenReply, start time.Time) TokenReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.before(reply.ExpiresIn)
	if reply.RefreshIn > 0 {
		before = max(before, reply.ExpiresIn-reply.RefreshIn)
	}
	s.seen = sighting{edition: record.Edition, at: start, before: before,
		patient: start.Add(reply.ExpiresIn - reserveOf(reply.ExpiresIn))}
	s.look = time.Now()
	reply.RefreshIn = nextLook(reply.ExpiresIn-before, reply.ExpiresIn)
	return reply
}

// alone is for when the storage fails. A gateway whose token lasts waits for the
// storage to recover; one that needs a token gets it, for itself.
func (s *sharedSource) alone(ctx context.Context, req TokenRequest, cause error) (TokenReply, error) {
	cause = errors.New(redact(cause.Error())) // the words of a storage module, which may have a secret of its own
	s.mu.Lock()
	wait := req.Rejected == "" && time.Now().Before(s.seen.patient)
	ok := wait || s.lonely.take(time.Now())
	s.mu.Unlock()
	switch {
	case wait || ctx.Err() != nil:
		return TokenReply{}, cause
	case !ok:
		return TokenReply{}, errSharedBudget
	}
	s.logger.Error("the storage fails; getting an access token that is not shared", zap.Error(cause))
	start := time.Now()
	reply, err := fetchToken(ctx, s.source, req)
	if err == nil {
		s.mu.Lock()
		s.seen = sighting{edition: "unshared", patient: start.Add(reply.ExpiresIn - reserveOf(reply.ExpiresIn))}
		s.mu.Unlock()
		reply.RefreshIn = pollOf(reply.ExpiresIn) // the storage may be back
	}
	return reply, err
}

// within calls a storage that may not keep to its context.
func within[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, sharedStorageTimeout)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	ch := make(chan result, 1)
	go func() {
		value, err := call(ctx)
		ch <- result{value, err}
	}()
	select {
	case r := <-ch:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// Interface guards
var _ TokenSource = (*sharedSource)(nil)
