package wechatmedia

// What an upstream makes of a request whose query has the token in it: redirects,
// error pages and messages that quote it. None of that may reach a caller.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// redact overwrites a token in b, in place: the length stays what was announced. It
// returns how many bytes at b's end could be the beginning of one.
func redact(b []byte, secret string) (open int) {
	for i := 0; i < len(b); {
		if isAlphanumeric(secret[0]) { // which nobody escapes
			next := bytes.IndexByte(b[i:], secret[0])
			if next < 0 {
				return 0
			}
			i += next
		}
		switch n, whole := tokenAt(b[i:], secret); {
		case whole:
			for range n {
				b[i] = '*'
				i++
			}
		case n > 0:
			return n
		default:
			i++
		}
	}
	return 0
}

// tokenAt tells how many bytes the token has at the beginning of b; if it is not there
// as a whole, how many of b may be its beginning: all or none.
func tokenAt(b []byte, secret string) (n int, whole bool) {
	for i := range len(secret) {
		if n == len(b) {
			return n, false
		}
		length, more := charAt(b[n:], secret[i])
		if length == 0 {
			if more {
				return len(b), false
			}
			return 0, false
		}
		n += length
	}
	return n, true
}

// escapes are what URLs, HTML, JSON and scripts make of a character that is neither
// letter nor digit.
var escapes = []string{"%%%02x", "%%25%02x", "&#%d;", "&#x%x;", `\u%04x`, `\x%02x`, `\%c`}

// charAt tells how many bytes c has at the beginning of b, escaped or not. more says
// that b is too short to tell.
func charAt(b []byte, c byte) (length int, more bool) {
	switch {
	case b[0] == c, c == '+' && b[0] == ' ':
		return 1, false
	case isAlphanumeric(c) || strings.IndexByte(`%&\`, b[0]) < 0:
		return 0, false
	}
	for _, format := range escapes {
		escaped := fmt.Appendf(nil, format, c)
		if n := min(len(b), len(escaped)); bytes.EqualFold(b[:n], escaped[:n]) {
			if n == len(escaped) {
				return n, false
			}
			more = true
		}
	}
	return 0, more
}

// hideToken takes headers away that have the token in them, such as a redirect's
// Location, escaped once, twice or not at all.
func hideToken(h http.Header, tok *token.Token) {
	for name, values := range h {
		for _, v := range values {
			if quotes(v, tok.Secret()) {
				delete(h, name)
				break
			}
		}
	}
}

func quotes(text, secret string) bool {
	for range 3 {
		if strings.Contains(text, secret) {
			return true
		}
		if !strings.ContainsAny(text, `%&\`) {
			return false
		}
		for i, b := 0, []byte(text); i < len(b); i++ {
			if _, whole := tokenAt(b[i:], secret); whole {
				return true
			}
		}
		text = unescape(text)
	}
	return false
}

// unescape decodes every %XX that is one, and leaves the rest.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil {
				out.WriteString(c)
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// redactBody takes the token out of a reply that is no media: an error page, a
// redirect's text, WeChat's own JSON. Media pass as they are.
func redactBody(res *http.Response, tok *token.Token) {
	if res.Body != nil && res.Body != http.NoBody && isText(res) {
		res.Body = &redactor{body: res.Body, secret: tok.Secret()}
	}
}

// isText reports whether a reply's body is for reading. What does not say, or has a
// status that no media come with, is taken for it.
func isText(res *http.Response) bool {
	if res.StatusCode >= http.StatusMultipleChoices {
		return true
	}
	if isAttachment(res.Header) {
		return false
	}
	mediaType, _, _ := strings.Cut(strings.ToLower(res.Header.Get("Content-Type")), ";")
	mediaType = strings.TrimSpace(mediaType)
	for _, kind := range []string{"text/", "json", "xml", "javascript"} {
		if strings.Contains(mediaType, kind) {
			return true
		}
	}
	return mediaType == ""
}

// redactor is a body without the token. What could be the beginning of it is held
// back until more has come.
type redactor struct {
	body   io.ReadCloser
	secret string
	buf    []byte // read, searched but for its end
	ready  int    // how much of buf may be handed out
	err    error
}

func (r *redactor) Read(p []byte) (int, error) {
	for r.ready == 0 && r.err == nil {
		r.fill(len(p))
	}
	if r.ready == 0 {
		return 0, r.err
	}
	n := copy(p, r.buf[:r.ready])
	r.buf = r.buf[n:]
	r.ready -= n
	return n, nil
}

func (r *redactor) fill(want int) {
	kept := len(r.buf)
	r.buf = slices.Grow(r.buf, max(want, 512))
	n, err := r.body.Read(r.buf[kept:cap(r.buf)])
	r.buf, r.err = r.buf[:kept+n], err
	open := redact(r.buf, r.secret)
	if r.ready = len(r.buf); err == nil {
		r.ready -= open
	}
}

func (r *redactor) Close() error { return r.body.Close() }

// withoutToken keeps the token, and any beginning of it that matters, out of an error:
// net/http quotes a reply that is no HTTP, which may quote the request.
func withoutToken(err error, tok *token.Token) error {
	const mattersFrom = 16
	if secret := tok.Secret(); err == nil || !quotes(err.Error(), secret[:min(len(secret), mattersFrom)]) {
		return err
	}
	return errors.New("the reply is no proper HTTP, and quotes the request")
}
