package wechatmedia

// What an upstream makes of a request whose query has the token in it: redirects,
// error pages and messages that quote it. None of that may reach a caller.

import (
	"bytes"
	"html"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// needles are the forms in which a token is found in texts: as it is, and as URLs,
// HTML and JSON escape it. WeChat's own tokens look the same in all of them.
func needles(tok *token.Token) [][]byte {
	plain := tok.Secret()
	if !strings.ContainsFunc(plain, func(r rune) bool {
		return r > 0x7e || !isAlphanumeric(byte(r)) && r != '-' && r != '_' && r != '.' && r != '~'
	}) {
		return [][]byte{[]byte(plain)}
	}
	query := url.QueryEscape(plain)
	forms := []string{plain, query, lowerEscapes(query), url.PathEscape(plain), lowerEscapes(url.PathEscape(plain)), url.QueryEscape(query),
		html.EscapeString(plain), strings.ReplaceAll(plain, "/", `\/`), strings.ReplaceAll(plain, "+", `\u002b`), strings.ReplaceAll(plain, "+", `\u002B`)}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) }) // longest first: one may begin another
	forms = slices.Compact(forms)
	out := make([][]byte, len(forms))
	for i, f := range forms {
		out[i] = []byte(f)
	}
	return out
}

// lowerEscapes writes %2B as %2b.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// redact overwrites what it finds, in place: the length stays what was announced.
func redact(b []byte, needles [][]byte) []byte {
	for _, needle := range needles {
		for at := bytes.Index(b, needle); at >= 0; {
			for i := range needle {
				b[at+i] = '*'
			}
			next := bytes.Index(b[at+len(needle):], needle)
			if next < 0 {
				break
			}
			at += len(needle) + next
		}
	}
	return b
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
		if strings.Contains(text, secret) || strings.Contains(strings.ReplaceAll(text, "+", " "), secret) {
			return true
		}
		decoded := unescape(text)
		if decoded == text {
			return false
		}
		text = decoded
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
	if res.Body == nil || res.Body == http.NoBody || isAttachment(res.Header) || !isText(res) {
		return
	}
	res.Body = &redactor{body: res.Body, needles: needles(tok)}
}

// isText reports whether a reply's body is for reading. What does not say, with a
// status that no media come with, is taken for it.
func isText(res *http.Response) bool {
	mediaType, _, _ := strings.Cut(strings.ToLower(res.Header.Get("Content-Type")), ";")
	mediaType = strings.TrimSpace(mediaType)
	for _, kind := range []string{"text/", "json", "xml", "javascript"} {
		if strings.Contains(mediaType, kind) {
			return true
		}
	}
	return mediaType == "" || res.StatusCode >= http.StatusMultipleChoices
}

// redactor is a body without the token. What could be the beginning of it is held
// back until more has come.
type redactor struct {
	body    io.ReadCloser
	needles [][]byte
	buf     []byte // read, searched but for its end
	ready   int    // how much of buf may be handed out
	err     error
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
	redact(r.buf, r.needles)
	r.ready = len(r.buf)
	if err == nil {
		r.ready -= r.beginning()
	}
}

// beginning is how many bytes at the end of buf could be the beginning of a needle.
func (r *redactor) beginning() int {
	longest := 0
	for _, needle := range r.needles {
		for n := min(len(needle)-1, len(r.buf)); n > longest; n-- {
			if bytes.HasSuffix(r.buf, needle[:n]) {
				longest = n
				break
			}
		}
	}
	return longest
}

func (r *redactor) Close() error { return r.body.Close() }
