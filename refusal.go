package wechatmedia

// What the gateway itself answers when it does not pass a request on, in
// WeChat's shape: {"errcode":…,"errmsg":"…"}, with an honest HTTP status.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// The gateway's own words for statuses and headers.
const (
	statusClientGone      = 499 // nginx's, and Caddy's, status for a caller that left
	contentTypeJSON       = "application/json; charset=utf-8"
	cacheControlForErrors = "no-store"
)

// errcodeParameter is WeChat's code for a parameter that makes no sense.
const errcodeParameter = 40035

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
	return &refusal{status: http.StatusNotFound, errcode: errcode.URL,
		errmsg: "invalid url: this gateway serves temporary media only"}
}

// refuseMethod names what is allowed; code says which of it WeChat's clients know.
func refuseMethod(code int, allow ...string) *refusal {
	return &refusal{status: http.StatusMethodNotAllowed, errcode: code,
		errmsg: "require " + strings.Join(allow, " or ") + " method", allow: strings.Join(allow, ", ")}
}

func refuseMediaID() *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcode.MediaID,
		errmsg: "invalid media_id: 1 to 128 characters of A-Z a-z 0-9 _ - are needed, once"}
}

func refuseType(why string) *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcode.MediaType,
		errmsg: "invalid media type: " + why}
}

func refuseNoMedia(why string) *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcode.NoMedia,
		errmsg: "media data missing: " + why}
}

func refuseTooLarge(limit int64) *refusal {
	return &refusal{status: http.StatusRequestEntityTooLarge, errcode: errcode.MediaTooLarge,
		errmsg: fmt.Sprintf("media size out of limit: at most %d bytes", limit)}
}

// refuseLimit is for a limit that something in front of the gateway has set.
func refuseLimit(cause error) *refusal {
	return &refusal{status: http.StatusRequestEntityTooLarge, errcode: errcode.MediaTooLarge,
		errmsg: "media size out of limit: larger than this site takes", cause: cause}
}

// refuseMalformed is for a request that cannot be sent on, because what was made of it
// is not HTTP.
func refuseMalformed(what string) *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcodeParameter,
		errmsg: "invalid parameter: the " + what + " would not be well-formed"}
}

func refuseApp() *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcode.AppID, errmsg: "invalid appid: not served here"}
}

func refuseNoToken(retryAfter time.Duration, cause error) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, errcode: errcode.Busy,
		errmsg: "no access to WeChat for now, try again later", retryAfter: retryAfter, cause: cause}
}

// refuseForToken is for want of a token, or of the caller.
func refuseForToken(ctx context.Context, err error) *refusal {
	if ctx.Err() != nil {
		return refuseGone(ctx.Err())
	}
	retryAfter := 10 * time.Second
	var unavailable *token.UnavailableError
	if errors.As(err, &unavailable) {
		retryAfter = unavailable.RetryAfter
	}
	return refuseNoToken(retryAfter, err)
}

// refuseGone is for the access log: there is nobody to read it.
func refuseGone(cause error) *refusal {
	return &refusal{status: statusClientGone, errcode: errcode.Busy, errmsg: "the caller left", cause: cause}
}

func refuseNoMemory() *refusal {
	return &refusal{status: http.StatusServiceUnavailable, errcode: errcode.Busy,
		errmsg: "too many uploads without Content-Length at once, send one or try again later", retryAfter: 2 * time.Second}
}

// refuseNotKept is for an upload that an operator's retry would have sent again.
func refuseNotKept() *refusal {
	return &refusal{status: http.StatusServiceUnavailable, errcode: errcode.Busy,
		errmsg: "the upload could not be sent again, try again later", retryAfter: 2 * time.Second, cause: errNotKept}
}

// refuseCrowd is for want of a connection: other callers, not WeChat, keep them all.
func refuseCrowd(cause error) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, errcode: errcode.Busy,
		errmsg: "too many requests at once, try again later", retryAfter: 2 * time.Second, cause: cause}
}

func refuseSlowCaller(cause error) *refusal {
	return &refusal{status: http.StatusRequestTimeout, errcode: errcode.NoMedia,
		errmsg: "media data missing: the upload stood still for too long", cause: cause}
}

func refuseBrokenUpload(cause error) *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: errcode.NoMedia,
		errmsg: "media data missing: the upload ended early", cause: cause}
}

func refuseUpstream(timedOut bool, cause error) *refusal {
	if timedOut {
		return &refusal{status: http.StatusGatewayTimeout, errcode: errcode.Busy, errmsg: "WeChat did not answer in time", cause: cause}
	}
	return &refusal{status: http.StatusBadGateway, errcode: errcode.Busy, errmsg: "WeChat cannot be reached", cause: cause}
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

// response is the refusal as if WeChat had sent it with a status, for a transport
// without the handler.
func (r *refusal) response(req *http.Request, status int) *http.Response {
	body := r.body()
	h := http.Header{
		"Content-Type":   {contentTypeJSON},
		"Content-Length": {strconv.Itoa(len(body))},
	}
	r.setHeader(h)
	res := &http.Response{
		Status:        strconv.Itoa(status),
		StatusCode:    status,
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
