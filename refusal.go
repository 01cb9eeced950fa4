package wechatmedia

// What the gateway itself answers when it does not pass a request on, in
// WeChat's shape: {"errcode":…,"errmsg":"…"}, with an honest HTTP status.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"
)

// WeChat's codes, as its common table has them:
// https://developers.weixin.qq.com/doc/service/guide/dev/api/errorcode
const (
	errcodeBusy           = -1
	errcodeMediaType      = 40004
	errcodeMediaID        = 40007
	errcodeAppID          = 40013
	errcodeURL            = 40066
	errcodeNoMedia        = 41005
	errcodeRequireGet     = 43001
	errcodeRequirePost    = 43002
	errcodeMediaTooLarge  = 45001
	statusClientGone      = 499 // nginx's, and Caddy's, status for a caller that left
	contentTypeJSON       = "application/json; charset=utf-8"
	cacheControlForErrors = "no-store"
)

// refusal is an answer of the gateway's own. Its errmsg is for the caller and
// never carries an upstream's or a token source's words.
type refusal struct {
	status     int
	errcode    int
	errmsg     string
	allow      string        // methods, for 405
	retryAfter time.Duration // for 503; rounded up to seconds
	cause      error         // for the log only
}

func refuseNoEndpoint() *refusal {
	return &refusal{status: http.StatusNotFound, errcode: errcodeURL,
		errmsg: "invalid url: this gateway serves temporary media only"}
}

func refuseMethod(errcode int, allow string) *refusal {
	need := "GET"
	if errcode == errcodeRequirePost {
		need = "POST"
	}
	return &refusal{status: http.StatusMethodNotAllowed, errcode: errcode,
		errmsg: "require " + need + " method", allow: allow}
}

func refuseMediaID() *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcodeMediaID,
		errmsg: "invalid media_id: 1 to 128 characters of A-Z a-z 0-9 _ - are needed, once"}
}

func refuseType(why string) *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcodeMediaType,
		errmsg: "invalid media type: " + why}
}

func refuseNoMedia(why string) *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcodeNoMedia,
		errmsg: "media data missing: " + why}
}

func refuseTooLarge(limit int64) *refusal {
	return &refusal{status: http.StatusRequestEntityTooLarge, errcode: errcodeMediaTooLarge,
		errmsg: fmt.Sprintf("media size out of limit: at most %d bytes", limit)}
}

func refuseApp() *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcodeAppID, errmsg: "invalid appid: not served here"}
}

func refuseNoToken(retryAfter time.Duration, cause error) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, errcode: errcodeBusy,
		errmsg: "no access to WeChat for now, try again later", retryAfter: retryAfter, cause: cause}
}

func refuseNoMemory() *refusal {
	return &refusal{status: http.StatusServiceUnavailable, errcode: errcodeBusy,
		errmsg: "too many uploads without Content-Length at once, send one or try again later", retryAfter: 2 * time.Second}
}

func refuseSlowCaller(cause error) *refusal {
	return &refusal{status: http.StatusRequestTimeout, errcode: errcodeNoMedia,
		errmsg: "media data missing: the upload stood still for too long", cause: cause}
}

func refuseBrokenUpload(cause error) *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcodeNoMedia,
		errmsg: "media data missing: the upload ended early", cause: cause}
}

func refuseUpstream(timedOut bool, cause error) *refusal {
	if timedOut {
		return &refusal{status: http.StatusGatewayTimeout, errcode: errcodeBusy, errmsg: "WeChat did not answer in time", cause: cause}
	}
	return &refusal{status: http.StatusBadGateway, errcode: errcodeBusy, errmsg: "WeChat cannot be reached", cause: cause}
}

// Error is for logs and for errors of Caddy's own kind.
func (r *refusal) Error() string {
	if r.cause != nil {
		return fmt.Sprintf("%s (errcode %d): %v", r.errmsg, r.errcode, r.cause)
	}
	return fmt.Sprintf("%s (errcode %d)", r.errmsg, r.errcode)
}

func (r *refusal) Unwrap() error { return r.cause }

// setHeader puts what belongs to the refusal, in either shape, on h.
func (r *refusal) setHeader(h http.Header) {
	h.Set("Cache-Control", cacheControlForErrors)
	if r.allow != "" {
		h.Set("Allow", r.allow)
	}
	if r.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(r.retryAfter.Seconds())))))
	}
}

// body is the refusal as WeChat would put it.
func (r *refusal) body() []byte {
	b, _ := json.Marshal(struct {
		Errcode int    `json:"errcode"`
		Errmsg  string `json:"errmsg"`
	}{r.errcode, r.errmsg})
	return b
}

// write answers with the refusal.
func (r *refusal) write(w http.ResponseWriter, req *http.Request) {
	body := r.body()
	h := w.Header()
	r.setHeader(h)
	h.Set("Content-Type", contentTypeJSON)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(r.status)
	if req.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// response is the refusal as if WeChat had sent it, for a RoundTripper that must
// not fail: an error would count against the upstream's health.
func (r *refusal) response(req *http.Request) *http.Response {
	body := r.body()
	h := http.Header{
		"Content-Type":   {contentTypeJSON},
		"Content-Length": {strconv.Itoa(len(body))},
	}
	r.setHeader(h)
	res := &http.Response{
		Status:        strconv.Itoa(r.status) + " " + http.StatusText(r.status),
		StatusCode:    r.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        h,
		ContentLength: int64(len(body)),
		Request:       req,
		Body:          http.NoBody,
	}
	if req.Method != http.MethodHead {
		res.Body = io.NopCloser(bytes.NewReader(body))
	}
	return res
}
