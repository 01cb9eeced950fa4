package sandbox

// The sandbox's own paths, under /sandbox/: faults for people who have no test
// hooks, and the videos that a video_url points to.

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// serveOwn answers:
//
//	GET  /sandbox/status                                   counters, media, memory
//	POST /sandbox/revoke?appid=…                           see RevokeTokens
//	POST /sandbox/expire?appid=…                           see ExpireTokens
//	POST /sandbox/latency?endpoint=…&duration=2s           see SetLatency
//	POST /sandbox/rate?endpoint=…&bytes_per_second=…       see SetRate
//	POST /sandbox/cut?endpoint=…&after=1000&times=1        see Cut
//	POST /sandbox/busy?endpoint=…&times=1                  see Busy
//	POST /sandbox/reset                                    see ResetFaults
//	GET  /sandbox/video/<media_id>
//
// All but the last are for callers on the same machine only.
func (s *Server) serveOwn(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/sandbox/video/") {
		s.serveVideo(w, r)
		return
	}
	if !fromLoopback(r) {
		http.Error(w, "the sandbox is controlled from its own machine only", http.StatusForbidden)
		return
	}
	if r.URL.Path == "/sandbox/status" {
		s.serveStatus(w)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "use POST", http.StatusMethodNotAllowed)
		return
	}
	known, err := s.control(strings.TrimPrefix(r.URL.Path, "/sandbox/"), r.URL.Query())
	switch {
	case !known:
		http.NotFound(w, r)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		s.serveStatus(w)
	}
}

func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// control does what a path asks for.
func (s *Server) control(action string, q url.Values) (known bool, err error) {
	switch action {
	case "reset":
		s.ResetFaults()
		return true, nil
	case "revoke", "expire":
		appID := q.Get("appid")
		if s.accounts[appID] == nil {
			return true, fmt.Errorf("appid %q is not one of the sandbox's", appID)
		}
		if action == "revoke" {
			s.RevokeTokens(appID)
		} else {
			s.ExpireTokens(appID)
		}
		return true, nil
	case "latency", "rate", "cut", "busy":
	default:
		return false, nil
	}

	endpoint := Endpoint(q.Get("endpoint"))
	if _, ok := wechatDailyQuota[endpoint]; !ok {
		return true, fmt.Errorf("endpoint %q is none of token, stable_token, get, jssdk, upload", endpoint)
	}
	times := number(q, "times", 1, &err)
	switch action {
	case "latency":
		var d time.Duration
		if d, err = time.ParseDuration(q.Get("duration")); err != nil || d < 0 {
			return true, fmt.Errorf("duration %q is not one; write for example 2s", q.Get("duration"))
		}
		s.SetLatency(endpoint, d)
	case "rate":
		if rate := number(q, "bytes_per_second", 0, &err); err == nil {
			s.SetRate(endpoint, rate)
		}
	case "cut":
		if after := number(q, "after", 0, &err); err == nil {
			s.Cut(endpoint, after, int(times))
		}
	case "busy":
		if err == nil {
			s.Busy(endpoint, int(times))
		}
	}
	return true, err
}

func number(q url.Values, name string, standard int64, err *error) int64 {
	text := q.Get(name)
	if text == "" {
		return standard
	}
	n, parseErr := strconv.ParseInt(text, 10, 32)
	if parseErr != nil || n < 0 {
		*err = fmt.Errorf("%s %q is not a number from 0", name, text)
	}
	return n
}

func (s *Server) serveStatus(w http.ResponseWriter) {
	s.mu.Lock()
	status := struct {
		Calls  map[Endpoint]int64 `json:"calls"`
		Media  int                `json:"media"`
		Memory int64              `json:"memory_bytes"`
	}{make(map[Endpoint]int64, len(s.calls)), s.media.byAge.Len(), s.media.used}
	for endpoint, n := range s.calls {
		status.Calls[endpoint] = n
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(status)
}
