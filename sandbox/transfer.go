package sandbox

// Bodies on their way in and out, at the rate and up to the cut that were asked for.

import (
	"io"
	"net/http"
	"time"
)

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

// readBody reads an upload, whose length is known and has been reserved.
func (s *Server) readBody(c *call) ([]byte, error) {
	cut, rate := s.transfer(c.endpoint)
	s.mu.Lock()
	progress := s.hooks.progress
	s.mu.Unlock()
	size := c.r.ContentLength
	body := make([]byte, size)
	for n := int64(0); n < size; {
		if cut >= 0 && n >= cut {
			panic(http.ErrAbortHandler)
		}
		m, err := c.r.Body.Read(body[n:min(n+pieceOf(rate), size)])
		n += int64(m)
		if progress != nil && m > 0 {
			progress(n)
		}
		if err != nil && (err != io.EOF || n < size) {
			return nil, err
		}
		pause(rate, m)
	}
	return body, nil
}

// pacer is a download.
type pacer struct {
	http.ResponseWriter
	rate, cut int64 // cut is what may still go; -1: all
}

// outgoing returns where to write a download.
func (s *Server) outgoing(c *call) *pacer {
	cut, rate := s.transfer(c.endpoint)
	return &pacer{ResponseWriter: c.w, rate: rate, cut: cut}
}

func (p *pacer) Write(content []byte) (int, error) {
	n := 0
	for n < len(content) {
		end := min(n+int(pieceOf(p.rate)), len(content))
		if p.cut >= 0 {
			end = min(end, n+int(p.cut))
		}
		if n == end {
			p.flush()
			panic(http.ErrAbortHandler)
		}
		m, err := p.ResponseWriter.Write(content[n:end])
		n += m
		if err != nil {
			return n, err
		}
		if p.cut >= 0 {
			p.cut -= int64(m)
		}
		if p.rate > 0 {
			p.flush()
		}
		pause(p.rate, m)
	}
	return n, nil
}

func (p *pacer) flush() { _ = http.NewResponseController(p.ResponseWriter).Flush() }

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
