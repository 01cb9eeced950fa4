package sandbox

// What tests and people can make the sandbox do, and see of it.

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

// faults are those of one endpoint.
type faults struct {
	latency  time.Duration
	refusal  *apiError
	refusals int
	cutAt    int64
	cuts     int
	rate     int64 // bytes a second; 0: as fast as it goes
	handler  func(http.ResponseWriter, *http.Request)
	handled  int
}

type hooks struct {
	request  func(Endpoint, *http.Request)
	progress func(received int64)
	stored   func(mediaID string, content []byte)
}

func (s *Server) fault(endpoint Endpoint) *faults {
	f := s.faults[endpoint]
	if f == nil {
		f = &faults{latency: s.opts.Latency}
		s.faults[endpoint] = f
	}
	return f
}

// SetLatency makes an endpoint wait before it answers, instead of Options.Latency.
func (s *Server) SetLatency(endpoint Endpoint, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault(endpoint).latency = d
}

// SetRate makes the bodies of an endpoint, uploads or downloads, pass at so many
// bytes a second. 0 ends that.
func (s *Server) SetRate(endpoint Endpoint, bytesPerSecond int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault(endpoint).rate = bytesPerSecond
}

// Busy makes an endpoint answer its next calls with -1.
func (s *Server) Busy(endpoint Endpoint, times int) { s.Refuse(endpoint, errBusy.code, times) }

// Refuse makes an endpoint answer its next calls with an errcode, such as 45009, 40164
// or WeCom's 60020, in the words of the platform that the call is for.
func (s *Server) Refuse(endpoint Endpoint, errcode, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fault(endpoint)
	f.refusal, f.refusals = errorOf(errcode), times
}

// Cut makes an endpoint drop the connection of its next calls after so many bytes
// of the body: of an upload's as they come in, of a download's as they go out.
func (s *Server) Cut(endpoint Endpoint, after int64, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fault(endpoint)
	f.cutAt, f.cuts = after, times
}

// Respond makes h answer the next calls of an endpoint.
func (s *Server) Respond(endpoint Endpoint, times int, h func(http.ResponseWriter, *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fault(endpoint)
	f.handler, f.handled = h, times
}

// ResetFaults ends all faults, and returns to Options.Latency.
func (s *Server) ResetFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults)
}

// OnRequest has f called with each request, before anything is made of it.
func (s *Server) OnRequest(f func(Endpoint, *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks.request = f
}

// OnUploadProgress has f called, while an upload comes in, with the number of its
// bytes that have.
func (s *Server) OnUploadProgress(f func(received int64)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks.progress = f
}

// OnStored has f called with each upload that was accepted.
func (s *Server) OnStored(f func(mediaID string, content []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks.stored = f
}

// RevokeTokens ends all tokens of an account at once: they get 40001, or WeCom's 40014,
// from now on, and the next request for a token gets a new one. The account is named as
// in Options, here and below.
func (s *Server) RevokeTokens(id string) {
	now := s.opts.Now()
	s.endTokens(id, func(t *issuedToken) { t.endBy(now) })
}

// ExpireTokens lets the time of all tokens of an account be over: they get 42001.
func (s *Server) ExpireTokens(id string) {
	now := s.opts.Now()
	s.endTokens(id, func(t *issuedToken) { t.expires = now })
}

func (s *Server) endTokens(id string, end func(*issuedToken)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens.byValue {
		if t.account.id == id {
			end(t)
		}
	}
}

// AddToken makes a token of an account known that was issued elsewhere, as WeChat's
// cloud hosting does. It panics for an account that there is not.
func (s *Server) AddToken(id, value string, ttl time.Duration) {
	a := s.account(id)
	if a == nil {
		panic(fmt.Sprintf("sandbox: there is no account %s", id))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issue(a, value, ttl)
}

// CurrentToken returns what stable_token or gettoken has handed out last, or nothing.
func (s *Server) CurrentToken(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.account(id); a != nil && a.stable.current != nil {
		return a.stable.current.value
	}
	return ""
}

// IssuedTokens returns every token there has been, to look for where none must be.
func (s *Server) IssuedTokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tokens.order)
}

// Calls returns how often an endpoint was called.
func (s *Server) Calls(endpoint Endpoint) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[endpoint]
}

// Stored returns how many media there are, and the bytes of memory in use.
func (s *Server) Stored() (media int, memory int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.media.byAge.Len(), s.media.used
}

// faulty does what the faults of an endpoint ask for, and reports whether that
// was the answer.
func (s *Server) faulty(c *call) bool {
	s.mu.Lock()
	f := s.fault(c.endpoint)
	do := *f
	switch {
	case f.handled > 0:
		f.handled--
	case f.refusals > 0:
		f.refusals--
	}
	s.mu.Unlock()
	if do.latency > 0 {
		select {
		case <-time.After(do.latency):
		case <-c.r.Context().Done():
		}
	}
	switch {
	case do.handled > 0:
		do.handler(c.w, c.r)
	case do.refusals > 0:
		_, _ = io.Copy(io.Discard, io.LimitReader(c.r.Body, c.platform.maxForm))
		c.refuse(do.refusal)
	default:
		return false
	}
	return true
}
