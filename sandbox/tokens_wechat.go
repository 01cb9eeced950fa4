package sandbox

// WeChat's token endpoints.

import (
	"encoding/json"
	"io"
	"net/http"
	"time"
)

const (
	// What force_refresh may be used for.
	// https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken
	forcedPerDay = 20
	forcedGap    = 30 * time.Second

	// maxTokenRequest is the most that is read of a request for a token, in bytes.
	maxTokenRequest = 64 << 10
)

// serveToken answers GET /cgi-bin/token: each call issues a token and retires the
// one before.
// https://developers.weixin.qq.com/doc/subscription/api/base/api_getaccesstoken
func (s *Server) serveToken(c *call) {
	if c.r.Method != http.MethodGet {
		c.refuse(errRequireGet)
		return
	}
	query := c.r.URL.Query()
	s.mu.Lock()
	t, e := s.newToken(query.Get("grant_type"), query.Get("appid"), query.Get("secret"))
	s.mu.Unlock()
	if e != nil {
		c.refuse(e)
		return
	}
	s.writeToken(c, t)
}

func (s *Server) newToken(grantType, appID, secret string) (*issuedToken, *apiError) {
	a, e := s.authenticate(grantType, appID, secret, errSecretAtToken)
	if e != nil {
		return nil, e
	}
	if e := s.spend(a.owner, Token); e != nil {
		return nil, e
	}
	a.classic.current.endBy(s.opts.Now().Add(tokenOverlap))
	a.classic.previous, a.classic.current = a.classic.current, s.mint(a)
	return a.classic.current, nil
}

// serveStableToken answers POST /cgi-bin/stable_token: everybody gets the same
// token, with the time that is left of it, until its last 5 minutes.
// https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken
func (s *Server) serveStableToken(c *call) {
	if c.r.Method != http.MethodPost {
		c.refuse(errRequirePost)
		return
	}
	// https://developers.weixin.qq.com/community/develop/doc/000a08cb9705a05965919300b61800
	if c.r.ContentLength < 0 {
		c.refuseUnknownLength()
		return
	}
	body, err := io.ReadAll(io.LimitReader(c.r.Body, maxTokenRequest))
	if err != nil {
		return // the caller left
	}
	if len(body) == 0 {
		c.refuse(errEmptyPost)
		return
	}
	var req struct {
		GrantType    string `json:"grant_type"`
		AppID        string `json:"appid"`
		Secret       string `json:"secret"`
		ForceRefresh bool   `json:"force_refresh"`
	}
	if json.Unmarshal(body, &req) != nil {
		c.refuse(errPostData)
		return
	}
	s.mu.Lock()
	t, e := s.stableToken(req.GrantType, req.AppID, req.Secret, req.ForceRefresh)
	s.mu.Unlock()
	if e != nil {
		c.refuse(e)
		return
	}
	s.writeToken(c, t)
}

func (s *Server) stableToken(grantType, appID, secret string, force bool) (*issuedToken, *apiError) {
	a, e := s.authenticate(grantType, appID, secret, errAppSecret)
	if e != nil {
		return nil, e
	}
	if e := s.spend(a.owner, StableToken); e != nil {
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
		line.previous, line.current = line.current, s.mint(a)
	case !line.current.usable(now) || line.current.expires.Sub(now) < s.rotation():
		line.previous, line.current = line.current, s.mint(a)
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
	a := s.apps[appID]
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

func (s *Server) writeToken(c *call, t *issuedToken) {
	c.reply(c.platform.jsonType, struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}{t.value, s.left(t)})
}
