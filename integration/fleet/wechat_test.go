//go:build linux

package fleet

// WeChat's stand-in, in the test's own process, and what it sees of the fleet: who
// calls for tokens, and with which token each gateway works.

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

const (
	appSecret     = "5e471e15ec4e70fa99000000000fee17"
	redisPassword = "sentinel-redis-password-0123456789"
)

// usualDelay is how long a token takes.
const usualDelay = 300 * time.Millisecond

// A source is asked for the tokens of an account of its own, so that one fleet works
// with both at once.
type source struct {
	name     string
	appID    string
	endpoint sandbox.Endpoint
}

var (
	stable  = &source{"stable", "wx00000000057ab1e0", sandbox.StableToken}
	classic = &source{"classic", "wx000000000c1a551c", sandbox.Token}
	sources = []*source{stable, classic}
)

var picture = append([]byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00"), bytes.Repeat([]byte("picture "), 128)...)

// tokenCall is a call of a token endpoint.
type tokenCall struct {
	at      time.Time
	gateway string
}

// use is a token seen in a request for media.
type use struct {
	at      time.Time
	gateway string
	media   string
	token   string
}

// wechat is the stand-in. Gateways are known by the address that they call from.
type wechat struct {
	*sandbox.Server
	url   string
	media map[*source]string // a media_id for each account

	mu    sync.Mutex
	calls map[sandbox.Endpoint][]tokenCall
	uses  []use
}

func startWeChat(t *testing.T, life time.Duration) *wechat {
	t.Helper()
	w := &wechat{media: make(map[*source]string), calls: make(map[sandbox.Endpoint][]tokenCall)}
	w.Server = sandbox.New(sandbox.Options{
		Apps:     map[string]string{stable.appID: appSecret, classic.appID: appSecret},
		TokenTTL: life,
	})
	for _, src := range sources {
		id, err := w.AddMedia(src.appID, "image", "a.jpg", picture)
		if err != nil {
			t.Fatal(err)
		}
		w.media[src] = id
	}
	w.OnRequest(w.note)
	w.delay(usualDelay)
	srv := httptest.NewServer(w)
	t.Cleanup(srv.Close)
	w.url = srv.URL
	return w
}

func (w *wechat) note(endpoint sandbox.Endpoint, r *http.Request) {
	gateway, _, _ := net.SplitHostPort(r.RemoteAddr)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch endpoint {
	case sandbox.Token, sandbox.StableToken:
		w.calls[endpoint] = append(w.calls[endpoint], tokenCall{time.Now(), gateway})
	case sandbox.MediaGet:
		q := r.URL.Query()
		w.uses = append(w.uses, use{time.Now(), gateway, q.Get("media_id"), q.Get("access_token")})
	}
}

// callsFor returns the calls for tokens of the source, in order.
func (w *wechat) callsFor(src *source) []tokenCall {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls[src.endpoint])
}

// forget starts the counts anew.
func (w *wechat) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls, w.uses = make(map[sandbox.Endpoint][]tokenCall), nil
}

// agree reports whether the requests since then carried one token of the source, and
// there were some from so many gateways.
func (w *wechat) agree(src *source, since time.Time, gateways int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	tokens, seen := make(map[string]bool), make(map[string]bool)
	for _, u := range w.uses {
		if u.media == w.media[src] && u.at.After(since) {
			tokens[u.token], seen[u.gateway] = true, true
		}
	}
	return len(tokens) == 1 && len(seen) == gateways
}

// revoke ends the tokens of the sources at once.
func (w *wechat) revoke(of ...*source) {
	for _, src := range of {
		w.RevokeTokens(src.appID)
	}
}

// delay is how long both token endpoints take from now on.
func (w *wechat) delay(d time.Duration) {
	for _, src := range sources {
		w.SetLatency(src.endpoint, d)
	}
}
