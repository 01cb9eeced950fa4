package sandbox

// The sandbox's own paths, under /sandbox/: faults for people who have no test
// hooks, and the videos that a video_url points to.

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxLatency is the longest that a control makes calls wait.
const maxLatency = time.Minute

// serveOwn answers:
//
//	GET  /sandbox/status                                   counters, media, memory
//	POST /sandbox/revoke?appid=…                           see RevokeTokens
//	POST /sandbox/expire?appid=…                           see ExpireTokens
//	POST /sandbox/latency?endpoint=…&duration=2s           see SetLatency; at most 1m
//	POST /sandbox/rate?endpoint=…&bytes_per_second=…       see SetRate
//	POST /sandbox/cut?endpoint=…&after=1000&times=1        see Cut
//	POST /sandbox/busy?endpoint=…&times=1                  see Busy
//	POST /sandbox/refuse?endpoint=…&errcode=60020&times=1  see Refuse
//	POST /sandbox/reset                                    see ResetFaults
//	GET  /sandbox/video/<media_id>
//
// All but the last are for callers on the same machine only, and not for web pages.
// The appid can be a corp's, with its agent if it has one.
func (s *Server) serveOwn(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/sandbox/video/") {
		s.serveVideo(w, r)
		return
	}
	if why := notAtHome(r); why != "" {
		http.Error(w, "the sandbox is controlled from its own machine, and not by web pages: "+why, http.StatusForbidden)
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

// control does what a path asks for.
func (s *Server) control(action string, q url.Values) (known bool, err error) {
	switch action {
	case "reset":
		s.ResetFaults()
		return true, nil
	case "revoke", "expire":
		id := q.Get("appid")
		if s.account(id) == nil {
			return true, fmt.Errorf("appid %q is not one of the sandbox's", id)
		}
		if action == "revoke" {
			s.RevokeTokens(id)
		} else {
			s.ExpireTokens(id)
		}
		return true, nil
	case "latency", "rate", "cut", "busy", "refuse":
		return true, s.disturb(action, q)
	}
	return false, nil
}

// disturb sets a fault of an endpoint.
func (s *Server) disturb(fault string, q url.Values) (err error) {
	endpoint := Endpoint(q.Get("endpoint"))
	if !controlled(endpoint) {
		return fmt.Errorf("endpoint %q is none of token, stable_token, gettoken, get, jssdk, upload", endpoint)
	}
	times := number(q, "times", 1, &err)
	switch fault {
	case "latency":
		var d time.Duration
		if d, err = time.ParseDuration(q.Get("duration")); err != nil || d < 0 || d > maxLatency {
			return fmt.Errorf("duration %q is not one of at most %s; write for example 2s", q.Get("duration"), maxLatency)
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
	case "refuse":
		errcode := number(q, "errcode", 0, &err)
		if err == nil && errcode == 0 {
			return errors.New("errcode is missing; write for example errcode=45009")
		}
		if err == nil {
			s.Refuse(endpoint, int(errcode), int(times))
		}
	}
	return err
}

func controlled(endpoint Endpoint) bool {
	for _, known := range endpoints {
		if known == endpoint {
			return true
		}
	}
	return false
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
