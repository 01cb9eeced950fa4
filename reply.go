package wechatmedia

// Reading WeChat's verdict out of a reply without disturbing it. WeChat answers
// errors with status 200, so a reply that cannot be media is looked into, and
// given back as it came.

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// maxExamined is how much of a reply is held at the most while it is examined,
// in bytes. WeChat's errors have some 150.
const maxExamined = 64 << 10

// maxErrmsg is how much of an errmsg goes into logs and placeholders, in bytes.
const maxErrmsg = 300

// verdict is what a reply says of itself. The zero value is a success.
type verdict struct {
	errcode int
	errmsg  string // without the token, of bounded length
}

// rejected reports whether WeChat refused the access token.
func (v verdict) rejected() bool { return errcode.Rejected(v.errcode) }

// mayBeError reports whether the headers of a reply leave room for an error in
// its body: status 200, not an attachment, and JSON, text or nothing declared.
func mayBeError(res *http.Response) bool {
	if res.StatusCode != http.StatusOK || isAttachment(res.Header) {
		return false
	}
	ct := res.Header.Get("Content-Type")
	if ct == "" {
		return true
	}
	mediaType, _, err := mime.ParseMediaType(ct)
	if err != nil {
		// WeChat has sent parameters that are not well-formed
		mediaType, _, _ = strings.Cut(ct, ";")
		mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	}
	return strings.HasPrefix(mediaType, "text/") || mediaType == "application/json" ||
		strings.HasSuffix(mediaType, "+json") || mediaType == "application/javascript"
}

func isAttachment(h http.Header) bool {
	const attachment = "attachment"
	d := strings.TrimSpace(h.Get("Content-Disposition"))
	return len(d) >= len(attachment) && strings.EqualFold(d[:len(attachment)], attachment)
}

// examine reads the verdict out of res and puts back what it read, so that
// res.Body yields the same bytes, and the same error, as before.
func examine(res *http.Response, tok *token.Token) verdict {
	if res.Body == nil || !mayBeError(res) || res.ContentLength > maxExamined {
		return verdict{}
	}

	buf := examineBuffers.Get().(*[]byte)
	defer examineBuffers.Put(buf)
	n, err := readUntil(res.Body, *buf, func(b []byte) bool {
		return len(b) > 0 && !isJSONStart(b[0]) // not an error: no need to hold more of it
	})

	var v verdict
	if err == io.EOF && n <= maxExamined {
		v = parseVerdict((*buf)[:n])
		v.errmsg = cleanErrmsg(v.errmsg, tok)
	}
	putBack(res, bytes.Clone((*buf)[:n]), err)
	return v
}

// putBack has res.Body yield once more what has been read of it, then the rest, or the
// error that reading ended with: http.Transport's bodies repeat that, others need not.
func putBack(res *http.Response, head []byte, err error) {
	rest := io.Reader(res.Body)
	if err != nil {
		rest = failedReader{err}
	}
	res.Body = &examinedBody{Reader: io.MultiReader(bytes.NewReader(head), rest), Closer: res.Body}
}

// readUntil fills buf from r until it is full, enough says so or r ends, and
// returns r's own error: io.ReadFull would make a clean end and a cut one look
// the same.
func readUntil(r io.Reader, buf []byte, enough func([]byte) bool) (n int, err error) {
	for n < len(buf) && err == nil && !enough(buf[:n]) {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// isJSONStart reports whether a JSON object can begin with c.
func isJSONStart(c byte) bool {
	return c == '{' || c == ' ' || c == '\t' || c == '\r' || c == '\n'
}

// parseVerdict reads WeChat's errcode, which some gateways send as a string.
func parseVerdict(body []byte) verdict {
	body = bytes.TrimLeft(body, " \t\r\n")
	if len(body) == 0 || body[0] != '{' {
		return verdict{}
	}
	var reply struct {
		Errcode json.RawMessage `json:"errcode"`
		Errmsg  json.RawMessage `json:"errmsg"` // of any type: it is looked into below
	}
	if json.Unmarshal(body, &reply) != nil || len(reply.Errcode) == 0 {
		return verdict{}
	}
	code, err := strconv.Atoi(strings.Trim(string(reply.Errcode), `"`))
	if err != nil || code == 0 {
		return verdict{}
	}
	v := verdict{errcode: code}
	_ = json.Unmarshal(reply.Errmsg, &v.errmsg)
	return v
}

// cleanErrmsg makes WeChat's words fit for logs and placeholders.
func cleanErrmsg(msg string, tok *token.Token) string {
	if tok != nil {
		b := []byte(msg)
		redact(b, tok.Secret())
		msg = string(b)
	}
	msg = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, msg)
	if len(msg) > maxErrmsg {
		msg = strings.ToValidUTF8(msg[:maxErrmsg], "") + "…"
	}
	return msg
}

var examineBuffers = sync.Pool{New: func() any {
	b := make([]byte, maxExamined+1)
	return &b
}}

// examinedBody gives back what was held, then the rest.
type examinedBody struct {
	io.Reader
	io.Closer
}

// failedReader repeats the error that ended an examined body.
type failedReader struct{ err error }

func (r failedReader) Read([]byte) (int, error) { return 0, r.err }

// cacheable reports whether a reply is media: an operator's cache_control must
// never keep an error or a video's short-lived URL.
func cacheable(c call, res *http.Response) bool {
	return (c.endpoint == endpointGet || c.endpoint == endpointJSSDK) && !mayBeError(res) &&
		(res.StatusCode == http.StatusOK || res.StatusCode == http.StatusPartialContent || res.StatusCode == http.StatusNotModified)
}

// etagMatches reports whether a caller's If-None-Match names etag. The comparison is
// the weak one of RFC 9110: a cache may have made a weak one of it. That something is
// there at all, which `*` asks for, only WeChat knows.
func etagMatches(header []string, etag string) bool {
	for _, line := range header {
		for tag := range strings.SplitSeq(line, ",") {
			if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag {
				return true
			}
		}
	}
	return false
}

// anyMatches reports whether If-None-Match is `*`.
func anyMatches(header []string) bool {
	return len(header) == 1 && strings.TrimSpace(header[0]) == "*"
}

// answer is a reply of an upstream's that is held, whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// keep holds a copy of a reply for which the next upstream may be asked, in case there
// is no better one. Media are not held.
func (ex *exchange) keep(res *http.Response) {
	if ex.kept = nil; isAttachment(res.Header) || res.ContentLength > maxExamined {
		return
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxExamined+1))
	if err == nil && len(body) <= maxExamined {
		ex.kept = &answer{status: res.StatusCode, header: res.Header.Clone(), body: body}
	}
	putBack(res, body, err)
}

// write answers with what was held.
func (a *answer) write(w http.ResponseWriter) {
	h := w.Header()
	for name, values := range a.header {
		switch name {
		case "Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "Proxy-Authenticate":
		default:
			h[name] = values
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

// discard gets a reply out of the way and its connection back if that is cheap.
func discard(res *http.Response) {
	_, _ = io.CopyN(io.Discard, res.Body, maxExamined+1)
	_ = res.Body.Close()
}
