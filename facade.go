package wechatmedia

// The stand-in for WeChat's token endpoints, for SDKs that insist on a token.

import (
	"io"
	"net/http"
	"strconv"
)

// placeholderToken is what SDKs get in place of a token. It opens nothing: the
// gateway drops it from every request.
const placeholderToken = "held-by-the-gateway"

// answerToken answers as /cgi-bin/token and /cgi-bin/stable_token do. The appid
// and secret of the request are not looked at.
func answerToken(w http.ResponseWriter) error {
	const body = `{"access_token":"` + placeholderToken + `","expires_in":7200}`
	h := w.Header()
	h.Set("Content-Type", contentTypeJSON)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", cacheControlForErrors)
	w.WriteHeader(http.StatusOK)
	_, err := io.WriteString(w, body)
	return err
}
