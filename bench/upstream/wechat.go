package upstream

// What WeChat answers: media, media_ids, tokens and errors. How they travel is
// not its business.

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/bench/media"
)

// The account of the gateway with a live token manager.
const (
	AppID     = "wx0123456789abcdef"
	AppSecret = "secret-of-the-benchmark-s-app"
)

// reply is one answer, ready for HTTP/1.1 and apart for HTTP/2.
type reply struct {
	status int
	header [][2]string
	body   []byte
	wire   []byte
}

func newReply(status int, body []byte, header ...[2]string) *reply {
	header = append(header, [2]string{"Content-Length", strconv.Itoa(len(body))})
	var head strings.Builder
	fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	for _, h := range header {
		fmt.Fprintf(&head, "%s: %s\r\n", h[0], h[1])
	}
	head.WriteString("\r\n")
	return &reply{status: status, header: header, body: body, wire: append([]byte(head.String()), body...)}
}

func jsonReply(format string, args ...any) *reply {
	return newReply(http.StatusOK, fmt.Appendf(nil, format, args...),
		[2]string{"Content-Type", "application/json; encoding=utf-8"},
		[2]string{"Date", time.Now().UTC().Format(http.TimeFormat)})
}

// wechat is the state behind the endpoints.
type wechat struct {
	fixed    string // a token that is never revoked, for who cannot ask for one
	pictures map[string]*reply
	uploaded *reply

	checks   atomic.Bool  // whether uploads are answered with their checksum
	lifetime atomic.Int64 // of tokens, in seconds
	delay    atomic.Int64 // before a token is handed out, in nanoseconds
	fetches  atomic.Int64 // of tokens
	rejected atomic.Int64 // requests with a token that is not valid
	opened   atomic.Int64 // connections, after their handshake

	mu   sync.RWMutex
	live map[string]bool // tokens handed out and not revoked
}

func newWechat(fixed string) *wechat {
	w := &wechat{fixed: fixed, pictures: map[string]*reply{}, live: map[string]bool{}}
	w.lifetime.Store(7200)
	for _, size := range media.Sizes {
		id := media.ID(size)
		w.pictures[id] = newReply(http.StatusOK, media.Picture(size),
			[2]string{"Content-Type", "image/jpeg"},
			[2]string{"Content-disposition", fmt.Sprintf(`attachment; filename="%s.jpg"`, id)},
			[2]string{"Date", time.Now().UTC().Format(http.TimeFormat)},
			[2]string{"Cache-Control", "no-cache, must-revalidate"})
	}
	w.uploaded = w.acceptUpload(media.ID(0))
	return w
}

// refuse checks a token as WeChat does, and is nil for a valid one.
func (w *wechat) refuse(token string) *reply {
	if token == w.fixed {
		return nil
	}
	w.mu.RLock()
	ok := w.live[token]
	w.mu.RUnlock()
	if ok {
		return nil
	}
	w.rejected.Add(1)
	return jsonReply(`{"errcode":40001,"errmsg":"invalid credential, access_token is invalid or not latest"}`)
}

func (w *wechat) download(token, mediaID string) *reply {
	if refused := w.refuse(token); refused != nil {
		return refused
	}
	if picture := w.pictures[mediaID]; picture != nil {
		return picture
	}
	return jsonReply(`{"errcode":40007,"errmsg":"invalid media_id"}`)
}

// upload answers when the body has been read. checksum is empty if none was asked
// for.
func (w *wechat) upload(token, mediaType, checksum string) *reply {
	switch refused := w.refuse(token); {
	case refused != nil:
		return refused
	case mediaType != "image":
		return jsonReply(`{"errcode":40004,"errmsg":"invalid media type"}`)
	case checksum != "":
		return w.acceptUpload(checksum)
	}
	return w.uploaded
}

func (w *wechat) acceptUpload(mediaID string) *reply {
	return jsonReply(`{"type":"image","media_id":"%s","created_at":%d}`, mediaID, time.Now().Unix())
}

// stableToken hands out a new token; those before it stay valid until revoked.
func (w *wechat) stableToken(body []byte) *reply {
	var ask struct {
		AppID  string `json:"appid"`
		Secret string `json:"secret"`
	}
	if json.Unmarshal(body, &ask) != nil || ask.AppID != AppID || ask.Secret != AppSecret {
		return jsonReply(`{"errcode":40001,"errmsg":"invalid credential"}`)
	}
	time.Sleep(time.Duration(w.delay.Load()))
	token := strings.Repeat("bench-", 16) + rand.Text()
	w.mu.Lock()
	w.live[token] = true
	w.mu.Unlock()
	w.fetches.Add(1)
	return jsonReply(`{"access_token":"%s","expires_in":%d}`, token, w.lifetime.Load())
}

// revoke ends all tokens but the fixed one.
func (w *wechat) revoke() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.live)
}

// noLength is how WeChat answers a body without a length.
var noLength = newReply(http.StatusPreconditionFailed, nil)

var notFound = newReply(http.StatusNotFound, nil)
