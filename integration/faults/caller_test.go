package faults

// Callers, and what they make of an answer: it is right, or it is an error that
// nobody can take for a right one.

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// answer is all that a caller sees of one call.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // no answer, or one that broke off
}

func (a answer) String() string {
	head := a.body[:min(len(a.body), 200)]
	return fmt.Sprintf("status %d, %d bytes %q, %v", a.status, len(a.body), head, a.err)
}

// outcome is what a caller makes of an answer.
type outcome string

const (
	right  outcome = "right"  // complete, and the bytes that it should have
	honest outcome = "honest" // an error status with WeChat's shape of an error
	broken outcome = "broken" // an error of the connection: no answer, or one that breaks off
	hangs  outcome = "HANGS"  // nothing comes, and the gateway does not end it
	wrong  outcome = "WRONG"  // looks complete and is not
)

// judge compares an answer with the one that WeChat meant to give.
func judge(a answer, method string, want []byte) outcome {
	switch {
	case os.IsTimeout(a.err):
		return hangs
	case a.err != nil:
		return broken
	case a.status == http.StatusOK && (method == http.MethodHead && len(a.body) == 0 || method != http.MethodHead && bytes.Equal(a.body, want)):
		return right
	case a.status >= 400 && isRefusal(a, method):
		return honest
	}
	return wrong
}

// isRefusal reports whether an answer is one of the gateway's own errors.
func isRefusal(a answer, method string) bool {
	if a.header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
		return false
	}
	return method == http.MethodHead || errcodeOf(a.body) != 0
}

// errcodeOf reads WeChat's errcode out of a body; 0 if there is none.
func errcodeOf(body []byte) int {
	var reply struct {
		Errcode int
		Errmsg  string
	}
	if json.Unmarshal(body, &reply) != nil || reply.Errmsg == "" {
		return 0
	}
	return reply.Errcode
}

// caller makes requests in one version of HTTP.
type caller struct {
	proto  string
	base   func(*server) string
	client *http.Client // nil: HTTP/1.0 by hand
}

// patience is how long callers wait for the whole of an answer: far longer than the
// gateway may let them.
const patience = 40 * time.Second

// callers are one for each version of HTTP. Those of HTTP/1 take a connection for
// each call, so that no client repeats a call by itself.
func callers(t testing.TB) []caller {
	insecure := &tls.Config{InsecureSkipVerify: true} // the certificate is the test's own
	h1 := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	h2 := &http.Transport{DisableCompression: true, ForceAttemptHTTP2: true, TLSClientConfig: insecure}
	t.Cleanup(h2.CloseIdleConnections)
	plain := func(g *server) string { return g.http }
	return []caller{
		{"HTTP/1.1", plain, &http.Client{Transport: h1, Timeout: patience}},
		{"HTTP/2.0", func(g *server) string { return g.https }, &http.Client{Transport: h2, Timeout: patience}},
		{"HTTP/1.0", plain, nil},
	}
}

// get downloads, or asks for the headers of a download.
func (c caller) get(g *server, method, target string) answer {
	if c.client == nil {
		return getByHand(strings.TrimPrefix(c.base(g), "http://"), method, target)
	}
	req, err := http.NewRequest(method, c.base(g)+target, nil)
	if err != nil {
		return answer{err: err}
	}
	return c.do(req)
}

// upload sends a multipart body, with its length or without, from a user agent.
func (c caller) upload(g *server, contentType string, body []byte, known bool, userAgent string) answer {
	in := io.Reader(bytes.NewReader(body))
	if !known {
		in = io.MultiReader(in)
	}
	req, err := http.NewRequest(http.MethodPost, c.base(g)+"/media", in)
	if err != nil {
		return answer{err: err}
	}
	req.GetBody = nil // the test's calls are made once
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", userAgent)
	return c.do(req)
}

func (c caller) do(req *http.Request) answer {
	res, err := c.client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	if res.Proto != c.proto {
		return answer{status: -1, body: []byte("answered over " + res.Proto)}
	}
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, body, err}
}

// getByHand is a caller that knows HTTP/1.0 only.
func getByHand(addr, method, target string) answer {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return answer{err: err}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "%s %s HTTP/1.0\r\nHost: %s\r\n\r\n", method, target, addr)
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return answer{err: err}
	}
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, body, err}
}

// form is a multipart body with one file, as an SDK makes it.
func form(content []byte) (contentType string, body []byte) {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	part, _ := w.CreateFormFile("media", "a.jpg")
	_, _ = part.Write(content)
	_ = w.Close()
	return w.FormDataContentType(), buf.Bytes()
}

// mediaIDOf is the media_id of an upload that succeeded, or nothing.
func mediaIDOf(a answer) string {
	var reply struct {
		MediaID string `json:"media_id"`
	}
	if a.err != nil || a.status != http.StatusOK || json.Unmarshal(a.body, &reply) != nil {
		return ""
	}
	return reply.MediaID
}

// eventually waits for something that takes an unknown, short time.
func eventually(t testing.TB, ok func() bool) bool {
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if t.Context().Err() != nil || time.Now().After(deadline) {
			return false
		}
	}
	return true
}
