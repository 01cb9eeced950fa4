package sandbox

// Tokens: how they are issued and how they end, and what one is good for.

import (
	"crypto/rand"
	"encoding/base64"
	"math"
	"strings"
	"time"
)

const (
	// tokenOverlap is how long a replaced token goes on working.
	// https://developers.weixin.qq.com/doc/oplatform/developers/dev/AccessToken.html
	tokenOverlap = 5 * time.Minute

	// maxTokens bounds the table of tokens; the oldest are forgotten, and then
	// unknown.
	maxTokens = 100_000
)

// issuedToken is a token and how it ends: at its time, or before.
type issuedToken struct {
	value   string
	account *account
	expires time.Time // then 42001
	ends    time.Time // replaced or revoked: then 40001; zero: not so
}

func (t *issuedToken) usable(now time.Time) bool {
	return t != nil && now.Before(t.expires) && (t.ends.IsZero() || now.Before(t.ends))
}

// endBy makes t end at a time, unless it ends before.
func (t *issuedToken) endBy(at time.Time) {
	if t != nil && (t.ends.IsZero() || at.Before(t.ends)) {
		t.ends = at
	}
}

// tokenLine is a succession of tokens. token and stable_token have one each, and
// neither touches the other's.
type tokenLine struct{ current, previous *issuedToken }

type tokenTable struct {
	byValue map[string]*issuedToken
	order   []string // oldest first
}

// mint issues a token. s.mu is held.
func (s *Server) mint(a *account) *issuedToken {
	random := make([]byte, a.platform.tokenBytes)
	_, _ = rand.Read(random)
	return s.issue(a, base64.RawURLEncoding.EncodeToString(random), s.opts.TokenTTL)
}

func (s *Server) issue(a *account, value string, ttl time.Duration) *issuedToken {
	t := &issuedToken{value: value, account: a, expires: s.opts.Now().Add(ttl)}
	if len(s.tokens.order) >= maxTokens {
		delete(s.tokens.byValue, s.tokens.order[0])
		s.tokens.order = s.tokens.order[1:]
	}
	s.tokens.byValue[value] = t
	s.tokens.order = append(s.tokens.order, value)
	return t
}

// checkToken returns the account whose token a request carries. s.mu is held.
func (s *Server) checkToken(c *call) (*account, *apiError) {
	query := c.r.URL.Query()
	values := query["access_token"]
	if len(values) == 0 {
		values = query["cloudbase_access_token"] // issued by WeChat's cloud hosting
	}
	if len(values) == 0 || values[0] == "" {
		return nil, errTokenMissing
	}
	if len(values) > 1 || !wellFormedToken(values[0]) {
		return nil, errToken
	}
	t := s.tokens.byValue[values[0]]
	now := s.opts.Now()
	switch {
	case t == nil || !t.ends.IsZero() && !now.Before(t.ends):
		return nil, c.platform.deadToken
	case !now.Before(t.expires):
		return nil, errTokenExpired
	}
	return t.account, nil
}

func wellFormedToken(s string) bool {
	if len(s) < 32 || len(s) > 512 {
		return false
	}
	return strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.'
	}) < 0
}

// left is the expires_in of a token, in seconds.
func (s *Server) left(t *issuedToken) int {
	return max(1, int(math.Floor(t.expires.Sub(s.opts.Now()).Seconds())))
}
