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
)

// maxExamined is how much of a reply is held at the most while it is examined,
// in bytes. WeChat's errors have some 150.
const maxExamined = 64 << 10

// verdict is what a reply says of itself. The zero value is a success.
type verdict struct {
	errcode int
	errmsg  string
}

// rejected reports whether WeChat refused the access token: 40001 invalid or
// not the latest, 40014 invalid, 42001 expired. 42007 is about a user's own
// authorisation and is not among them.
// https://developers.weixin.qq.com/doc/oplatform/developers/dev/AccessToken.html
func (v verdict) rejected() bool {
	return v.errcode == 40001 || v.errcode == 40014 || v.errcode == 42001
}

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
func examine(res *http.Response) verdict {
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
	}
	var rest io.Reader = res.Body
	if err != nil {
		rest = failedReader{err} // http.Transport's bodies repeat their error, others need not
	}
	res.Body = &examinedBody{
		Reader: io.MultiReader(bytes.NewReader(bytes.Clone((*buf)[:n])), rest),
		Closer: res.Body,
	}
	return v
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
		Errmsg  any             `json:"errmsg"`
	}
	if json.Unmarshal(body, &reply) != nil || len(reply.Errcode) == 0 {
		return verdict{}
	}
	code, err := strconv.Atoi(strings.Trim(string(reply.Errcode), `"`))
	if err != nil || code == 0 {
		return verdict{}
	}
	errmsg, _ := reply.Errmsg.(string)
	return verdict{errcode: code, errmsg: errmsg}
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

// translatedStatus is the HTTP status that says what errcode says; 502 for a
// code that is not among the known.
func translatedStatus(errcode int) int {
	switch errcode {
	case errcodeMediaID, 40118, 40121, 41006:
		return http.StatusNotFound
	case errcodeMediaType, 40005, errcodeNoMedia, 40113, 40137, 44001, 44002:
		return http.StatusBadRequest
	case 40006, 40009, 40010, 40011, 40012, errcodeMediaTooLarge, 45002, 45007:
		return http.StatusRequestEntityTooLarge
	case 45009, 45011:
		return http.StatusTooManyRequests
	case 48001, 48004, 50002, 40164, 61004:
		return http.StatusForbidden
	case errcodeBusy:
		return http.StatusServiceUnavailable
	default:
		return http.StatusBadGateway
	}
}
