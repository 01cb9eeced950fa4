package wechatmedia

// The stand-in for the platform's token endpoints, for SDKs that insist on a token.

import (
	"io"
	"net/http"
	"strconv"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
)

// placeholderToken is what SDKs get in place of a token. It opens nothing: the
// gateway drops it from every request.
const placeholderToken = "held-by-the-gateway"

// answerToken answers as the platform's token endpoints do. The id and secret of the
// request are not looked at.
func answerToken(w http.ResponseWriter, p *platform.Platform) {
	body := `{` + p.TokenHead + `"access_token":"` + placeholderToken + `","expires_in":7200}`
	h := w.Header()
	h.Set("Content-Type", contentTypeJSON)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", cacheControlForErrors)
	w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(w, body)
}
