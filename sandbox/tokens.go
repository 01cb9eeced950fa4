package sandbox

// The token endpoints, and what a token is good for.

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"strings"
	"time"
)

const (
	// tokenOverlap is how long a replaced token goes on working.
	// https://developers.weixin.qq.com/doc/oplatform/developers/dev/AccessToken.html
	tokenOverlap = 5 * time.Minute

	// What force_refresh may be used for.
	// https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken
	forcedPerDay = 20
	forcedGap    = 30 * time.Second

	// maxTokens bounds the table of tokens; the oldest are forgotten, and then
	// unknown.
	maxTokens = 100_000

	// maxTokenRequest is the most that is read of a request for a token, in bytes.
	maxTokenRequest = 64 << 10
)

// issuedToken is a token and how it ends: at its time, or before.
type issuedToken struct {
	value   string
	app     string
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
func (s *Server) mint(app string) *issuedToken {
	random := make([]byte, 102) // 136 characters
	_, _ = rand.Read(random)
	return s.issue(app, base64.RawURLEncoding.EncodeToString(random), s.opts.TokenTTL)
}

func (s *Server) issue(app, value string, ttl time.Duration) *issuedToken {
	t := &issuedToken{value: value, app: app, expires: s.opts.Now().Add(ttl)}
	if len(s.tokens.order) >= maxTokens {
		delete(s.tokens.byValue, s.tokens.order[0])
		s.tokens.order = s.tokens.order[1:]
	}
	s.tokens.byValue[value] = t
	s.tokens.order = append(s.tokens.order, value)
	return t
}

// checkToken returns the app whose token a request carries. s.mu is held.
func (s *Server) checkToken(r *http.Request) (*account, *apiError) {
	query := r.URL.Query()
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
		return nil, errCredential
	case !now.Before(t.expires):
		return nil, errTokenExpired
	}
	return s.accounts[t.app], nil
}

func wellFormedToken(s string) bool {
	if len(s) < 32 || len(s) > 512 {
		return false
	}
	return strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.'
	}) < 0
}

// serveToken answers GET /cgi-bin/token: each call issues a token and retires the
// one before.
// https://developers.weixin.qq.com/doc/subscription/api/base/api_getaccesstoken
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		refuse(w, r, errRequireGet)
		return
	}
	query := r.URL.Query()
	s.mu.Lock()
	t, e := s.newToken(query.Get("grant_type"), query.Get("appid"), query.Get("secret"))
	s.mu.Unlock()
	if e != nil {
		refuse(w, r, e)
		return
	}
	s.writeToken(w, r, t)
}

func (s *Server) newToken(grantType, appID, secret string) (*issuedToken, *apiError) {
	a, e := s.authenticate(grantType, appID, secret, errSecretAtToken)
	if e != nil {
		return nil, e
	}
	if e := s.spend(a, Token); e != nil {
		return nil, e
	}
	a.classic.current.endBy(s.opts.Now().Add(tokenOverlap))
	a.classic.previous, a.classic.current = a.classic.current, s.mint(a.id)
	return a.classic.current, nil
}

// serveStableToken answers POST /cgi-bin/stable_token: everybody gets the same
// token, with the time that is left of it, until its last 5 minutes.
// https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken
func (s *Server) serveStableToken(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		refuse(w, r, errRequirePost)
		return
	}
	// https://developers.weixin.qq.com/community/develop/doc/000a08cb9705a05965919300b61800
	if r.ContentLength < 0 {
		refuseUnknownLength(w, r)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxTokenRequest))
	if err != nil {
		return // the caller left
	}
	if len(body) == 0 {
		refuse(w, r, errEmptyPost)
		return
	}
	var req struct {
		GrantType    string `json:"grant_type"`
		AppID        string `json:"appid"`
		Secret       string `json:"secret"`
		ForceRefresh bool   `json:"force_refresh"`
	}
	if json.Unmarshal(body, &req) != nil {
		refuse(w, r, errPostData)
		return
	}
	s.mu.Lock()
	t, e := s.stableToken(req.GrantType, req.AppID, req.Secret, req.ForceRefresh)
	s.mu.Unlock()
	if e != nil {
		refuse(w, r, e)
		return
	}
	s.writeToken(w, r, t)
}

func (s *Server) stableToken(grantType, appID, secret string, force bool) (*issuedToken, *apiError) {
	a, e := s.authenticate(grantType, appID, secret, errAppSecret)
	if e != nil {
		return nil, e
	}
	if e := s.spend(a, StableToken); e != nil {
		return nil, e
	}
	now := s.opts.Now()
	line := &a.stable
	switch {
	case force && a.mayForce(now):
		// the one before is kept for the overlap, and the one before that is not:
		// it takes two forced calls to end a token at once
		a.forced = append(a.forced, now)
		line.previous.endBy(now)
		line.current.endBy(now.Add(tokenOverlap))
		line.previous, line.current = line.current, s.mint(a.id)
	case !line.current.usable(now) || line.current.expires.Sub(now) < s.rotation():
		line.previous, line.current = line.current, s.mint(a.id)
	}
	return line.current, nil
}

// rotation is how long before its end a stable token is replaced. A token of a
// shorter life than WeChat's is replaced in the second half of it.
func (s *Server) rotation() time.Duration { return min(tokenOverlap, s.opts.TokenTTL/2) }

// mayForce keeps force_refresh to its limits; beyond them it does nothing.
func (a *account) mayForce(now time.Time) bool {
	kept := a.forced[:0]
	for _, at := range a.forced {
		if now.Sub(at) < 24*time.Hour {
			kept = append(kept, at)
		}
	}
	a.forced = kept
	n := len(kept)
	return n < forcedPerDay && (n == 0 || now.Sub(kept[n-1]) >= forcedGap)
}

// authenticate checks the credentials of a request for a token. s.mu is held.
func (s *Server) authenticate(grantType, appID, secret string, wrongSecret *apiError) (*account, *apiError) {
	a := s.accounts[appID]
	switch {
	case appID == "":
		return nil, errAppIDMissing
	case secret == "":
		return nil, errSecretMissing
	case grantType != "client_credential":
		return nil, errGrantType
	case a == nil:
		return nil, errAppID
	case a.secret != secret:
		return nil, wrongSecret
	}
	return a, nil
}

func (s *Server) writeToken(w http.ResponseWriter, r *http.Request, t *issuedToken) {
	left := t.expires.Sub(s.opts.Now()).Seconds()
	body, _ := json.Marshal(struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}{t.value, max(1, int(math.Floor(left)))})
	writeJSON(w, r, body)
}
