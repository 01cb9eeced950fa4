package sandbox

// What tests and people can make the sandbox do, and see of it.

import (
	"io"
	"net/http"
	"slices"
	"time"
)

// faults are those of one endpoint.
type faults struct {
	latency time.Duration
	busy    int
	cutAt   int64
	cuts    int
	rate    int64 // bytes a second; 0: as fast as it goes
	handler func(http.ResponseWriter, *http.Request)
	handled int
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
func (s *Server) Busy(endpoint Endpoint, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault(endpoint).busy = times
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

// RevokeTokens ends all tokens of an app at once: they get 40001 from now on, and
// the next request for a token gets a new one.
func (s *Server) RevokeTokens(appID string) {
	now := s.opts.Now()
	s.endTokens(appID, func(t *issuedToken) { t.endBy(now) })
}

// ExpireTokens lets the time of all tokens of an app be over: they get 42001.
func (s *Server) ExpireTokens(appID string) {
	now := s.opts.Now()
	s.endTokens(appID, func(t *issuedToken) { t.expires = now })
}

func (s *Server) endTokens(appID string, end func(*issuedToken)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens.byValue {
		if t.app == appID {
			end(t)
		}
	}
}

// AddToken makes a token of an app known that was issued elsewhere, as WeChat's
// cloud hosting does.
func (s *Server) AddToken(appID, value string, ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issue(appID, value, ttl)
}

// CurrentToken returns what stable_token has handed out last, or nothing.
func (s *Server) CurrentToken(appID string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.accounts[appID]; a != nil && a.stable.current != nil {
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
func (s *Server) faulty(endpoint Endpoint, w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	f := *s.fault(endpoint)
	switch {
	case f.handled > 0:
		s.faults[endpoint].handled--
	case f.busy > 0:
		s.faults[endpoint].busy--
	}
	s.mu.Unlock()
	if f.latency > 0 {
		select {
		case <-time.After(f.latency):
		case <-r.Context().Done():
		}
	}
	switch {
	case f.handled > 0:
		f.handler(w, r)
		return true
	case f.busy > 0:
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxUpload))
		refuse(w, r, errBusy)
		return true
	}
	return false
}

// transfer returns what the faults of an endpoint do to one body; cut is -1 for
// one that is not cut.
func (s *Server) transfer(endpoint Endpoint) (cut, rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fault(endpoint)
	cut = -1
	if f.cuts > 0 {
		f.cuts--
		cut = f.cutAt
	}
	return cut, f.rate
}

// readBody reads an upload.
func (s *Server) readBody(endpoint Endpoint, _ http.ResponseWriter, r *http.Request) ([]byte, error) {
	cut, rate := s.transfer(endpoint)
	s.mu.Lock()
	progress := s.hooks.progress
	s.mu.Unlock()
	body := make([]byte, r.ContentLength)
	for n := int64(0); n < r.ContentLength; {
		if cut >= 0 && n >= cut {
			panic(http.ErrAbortHandler)
		}
		end := min(n+pieceOf(rate), r.ContentLength)
		m, err := r.Body.Read(body[n:end])
		n += int64(m)
		if progress != nil && m > 0 {
			progress(n)
		}
		if err != nil && (err != io.EOF || n < r.ContentLength) {
			return nil, err
		}
		pause(rate, m)
	}
	return body, nil
}

// sendBody sends a download.
func (s *Server) sendBody(endpoint Endpoint, w http.ResponseWriter, content []byte) {
	cut, rate := s.transfer(endpoint)
	for n := int64(0); n < int64(len(content)); {
		end := min(n+pieceOf(rate), int64(len(content)))
		if cut >= 0 {
			end = min(end, cut)
		}
		if n == end {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		m, err := w.Write(content[n:end])
		if err != nil {
			return
		}
		n += int64(m)
		if rate > 0 {
			_ = http.NewResponseController(w).Flush()
		}
		pause(rate, m)
	}
}

// pieceOf is how much goes at once: ten pieces a second at a rate.
func pieceOf(rate int64) int64 {
	if rate <= 0 {
		return 256 << 10
	}
	return max(1, rate/10)
}

func pause(rate int64, n int) {
	if rate > 0 {
		time.Sleep(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	}
}
