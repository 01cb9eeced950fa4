package sandbox

// WeCom's token endpoint.

import (
	"net/http"
	"strings"
)

// serveCorpToken answers GET /cgi-bin/gettoken: a secret has one token, which comes
// back while it lives, and no other secret's.
// https://developer.work.weixin.qq.com/document/path/91039
func (s *Server) serveCorpToken(c *call) {
	if c.r.Method != http.MethodGet {
		c.refuse(errRequireGet) // a guess
		return
	}
	query := c.r.URL.Query()
	s.mu.Lock()
	t, e := s.corpToken(query.Get("corpid"), query.Get("corpsecret"))
	s.mu.Unlock()
	if e != nil {
		c.refuse(e)
		return
	}
	c.reply(c.platform.jsonType, struct {
		Errcode     int    `json:"errcode"`
		Errmsg      string `json:"errmsg"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}{0, "ok", t.value, s.left(t)})
}

// corpToken returns the token of a secret. Older copies of the page say that asking
// again "returns the same result"; that expires_in is what is left is a guess. A wrong
// secret is seen to get 40001 (https://github.com/AstrBotDevs/AstrBot/issues/633), though
// the table of errcodes has a 40091 for it. The rest are from that table. s.mu is held.
func (s *Server) corpToken(corpID, secret string) (*issuedToken, *apiError) {
	switch {
	case corpID == "":
		return nil, errCorpIDMissing
	case secret == "":
		return nil, errCorpSecret
	}
	var a *account
	known := false
	for id, candidate := range s.corps {
		if corp, _, _ := strings.Cut(id, "/"); corp != corpID {
			continue
		}
		known = true
		if candidate.secret == secret {
			a = candidate
		}
	}
	switch {
	case !known:
		return nil, errCorpID
	case a == nil:
		return nil, errSecretAtToken
	}
	if e := s.spend(a.owner, CorpToken); e != nil {
		return nil, e
	}
	if line := &a.stable; !line.current.usable(s.opts.Now()) {
		line.previous, line.current = line.current, s.mint(a)
	}
	return a.stable.current, nil
}
