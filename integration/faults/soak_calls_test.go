package faults

// The soak's callers.

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// largestUpload is the largest that callers make, in bytes, and uploadPatience how long
// they wait: for its reply's headers the gateway allows 32 KiB a second, which makes 92 s.
const (
	largestUpload  = 3_000_000
	uploadPatience = patience + largestUpload/(32<<10)*time.Second
)

// soakFrom are callers that keep their connections, as most do.
func soakFrom(t *testing.T) (all []caller) {
	for _, c := range callers(t)[:2] {
		for range 4 {
			tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: soakCallers}
			if c.proto == "HTTP/2.0" {
				tr.ForceAttemptHTTP2, tr.TLSClientConfig = true, &tls.Config{InsecureSkipVerify: true} // the certificate is the test's own
			}
			all = append(all, caller{c.proto, c.base, &http.Client{Transport: tr, Timeout: uploadPatience}})
			t.Cleanup(tr.CloseIdleConnections)
		}
	}
	return all
}

// oneCall makes a call of some kind and enters it into the books.
func (s *soak) oneCall(from caller, foul bool) {
	ctx, cancel := s.t.Context(), context.CancelFunc(func() {})
	if foul && rand.IntN(12) == 0 { // leaves
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(60))*time.Millisecond)
	}
	defer cancel()
	switch n := rand.IntN(100); {
	case n < 45:
		s.download(ctx, from, http.MethodGet)
	case n < 55:
		s.download(ctx, from, http.MethodHead)
	case n < 75:
		s.upload(ctx, from, true)
	case n < 87:
		s.upload(ctx, from, false)
	default:
		s.wrongRequest(ctx, from)
	}
}

func (s *soak) download(ctx context.Context, from caller, method string) {
	f := s.file(min(rand.IntN(len(s.files)), rand.IntN(len(s.files)))) // small ones are more frequent
	req, _ := http.NewRequestWithContext(ctx, method, from.base(s.g)+"/media/"+f.id, nil)
	a := s.do(from, req)
	result := judgeSoak(ctx, a)
	if result == "" {
		switch {
		case a.header.Get("Content-Disposition") == "" && method == http.MethodHead:
			result = wechatError // which has no body in a HEAD
		case a.status == http.StatusOK && (method == http.MethodHead || bytes.Equal(a.body, f.content)):
			result = string(right)
		default:
			result = string(wrong)
		}
	}
	s.enter(from, method, result, a)
}

func (s *soak) upload(ctx context.Context, from caller, known bool) {
	size := []int{100, 5_000, 30_000, 300_000, largestUpload}[min(rand.IntN(5), rand.IntN(5), rand.IntN(5))]
	number, content := s.books.newUpload(size)
	contentType, body := form(content)
	in := io.Reader(bytes.NewReader(body))
	kind := "POST"
	if !known {
		in, kind = io.MultiReader(in), "POST, chunked"
	}
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, from.base(s.g)+"/media", in)
	req.GetBody = nil
	req.Header.Set("Content-Type", contentType)
	a := s.do(from, req)
	result := judgeSoak(ctx, a)
	if result == "" {
		result = string(wrong)
		if id := mediaIDOf(a); id != "" {
			result = string(right)
			s.books.told(number, id)
		}
	}
	s.enter(from, kind, result, a)
}

// wrongRequests are what the gateway refuses by itself, and how.
var wrongRequests = []struct {
	method, target, contentType string
	status, errcode             int
}{
	{"GET", "/media/" + strings.Repeat("x", 200), "", 400, 40007},
	{"GET", "/cgi-bin/media/get?media_id=a/b", "", 400, 40007},
	{"GET", "/cgi-bin/user/info?openid=x", "", 404, 40066},
	{"DELETE", "/media/abc", "", 405, 43001},
	{"POST", "/media?type=music", "multipart/form-data; boundary=b", 400, 40004},
	{"POST", "/media", "text/plain", 400, 41005},
}

func (s *soak) wrongRequest(ctx context.Context, from caller) {
	c := wrongRequests[rand.IntN(len(wrongRequests))]
	body := io.Reader(http.NoBody)
	if c.method == http.MethodPost {
		body = strings.NewReader("something")
	}
	req, _ := http.NewRequestWithContext(ctx, c.method, from.base(s.g)+c.target, body)
	req.GetBody = nil
	req.Header.Set("Content-Type", c.contentType)
	a := s.do(from, req)
	result := string(wrong)
	switch {
	case a.err != nil && ctx.Err() != nil:
		result = left
	case a.err != nil:
		result = string(broken)
	case a.status == c.status && errcodeOf(a.body) == c.errcode && isRefusal(a, c.method):
		result = string(right)
	}
	s.enter(from, "wrong requests", result, a)
}

// Results of a call in foul weather, beside right, broken and WRONG.
const (
	left        = "left"
	wechatError = "WeChat's error"
)

// judgeSoak returns the result of a call that did not bring what it should have;
// nothing for one that may have.
func judgeSoak(ctx context.Context, a answer) string {
	switch {
	case a.err != nil && ctx.Err() != nil:
		return left
	case os.IsTimeout(a.err):
		return string(hangs)
	case a.err != nil:
		return string(broken)
	case a.status >= 500 && isRefusal(a, http.MethodGet), a.status >= 500 && len(a.body) == 0 && isRefusal(a, http.MethodHead):
		return http.StatusText(a.status)
	case a.status == http.StatusOK && slices.Contains([]int{-1, 40001, 40014, 42001}, errcodeOf(a.body)):
		return wechatError
	}
	return ""
}

// do makes a call and counts how often it reached a connection, which is more than
// once where the client repeats it.
func (s *soak) do(from caller, req *http.Request) answer {
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { s.books.attempts.Add(1) }}
	return from.do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
}

// enter enters a result into the books.
func (s *soak) enter(from caller, kind, result string, a answer) {
	if result == string(wrong) || result == string(hangs) {
		s.t.Errorf("%s %s: %s: %v", from.proto, kind, result, a)
	}
	if a.status != 0 {
		s.books.answered.Add(1)
	}
	if a.err == nil && kind != http.MethodHead {
		s.books.class(classOf(a))
	}
	s.books.result(kind, result)
	if errors.Is(a.err, io.ErrUnexpectedEOF) {
		s.books.count("answers broken off")
	}
}

// classOf is the class of errcode that the gateway should count a whole answer under.
func classOf(a answer) string {
	switch errcode := errcodeOf(a.body); {
	case a.status == http.StatusServiceUnavailable:
		return "unavailable"
	case a.status >= 502:
		return "unreachable"
	case a.status >= 400:
		return "refused"
	case errcode == 0:
		return "ok"
	case errcode == -1:
		return "busy"
	case slices.Contains([]int{40001, 40014, 42001}, errcode):
		return "token"
	}
	return "other"
}
