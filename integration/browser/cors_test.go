package browser

// The documents' configuration for web pages of another host.

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
)

// A page of another origin uploads and downloads with its login, and sees what was
// refused; a page of a third one sees nothing.
func TestPagesOfAnotherHost(t *testing.T) {
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer h5" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer login.Close()
	show := func() *httptest.Server {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, `<link rel="icon" href="data:,"><p id="curl">a page</p>`)
		}))
		t.Cleanup(srv.Close)
		return srv
	}
	known, stranger := show(), show()

	site, sandbox := loopback.FreeAddr(t), loopback.FreeAddr(t)
	recipe := strings.NewReplacer(
		"media.example.com", "http://"+site,
		"https://www.example.com", known.URL,
		"127.0.0.1:9091", login.Listener.Addr().String(),
		"wechat_media /media*", "wechat_media /media* http://"+sandbox,
		"{env.WECHAT_APP_ID} {env.WECHAT_APP_SECRET}", "wxsandbox00000000 sandbox-secret",
	).Replace(gateway.Block(t, "caddyfile", "Access-Control-Allow-Origin", "wechat_media"))
	gateway.Start(t, gateway.Config{
		Caddyfile: "{\nadmin off\n}\n" + recipe + "\nhttp://" + sandbox + " {\nbind 127.0.0.1\nwechat_sandbox {\napp wxsandbox00000000 sandbox-secret\n}\n}\n",
		URL:       "http://" + site, Secrets: []string{"sandbox-secret"},
	})

	const script = `(async () => {
		const bytes = new Uint8Array(5000).fill(7)
		bytes.set([0xff, 0xd8, 0xff, 0xe0])
		const form = new FormData()
		form.set('media', new Blob([bytes]), 'photo.jpg')
		const headers = { Authorization: '%s' }
		try {
			const up = await fetch('http://%s/media', { method: 'POST', headers, body: form })
			if (up.status !== 200) return 'upload ' + up.status
			const { media_id } = await up.json()
			const down = await fetch('http://%s/media/' + media_id, { headers })
			const back = new Uint8Array(await down.arrayBuffer())
			if (back.length !== bytes.length || back.some((b, i) => b !== bytes[i])) return 'other bytes'
			const none = await fetch('http://%s/media/' + 'x'.repeat(64), { headers })
			return none.status + ' ' + (await none.json()).errcode
		} catch (e) { return e.name }
	})()`
	p := open(t, known.URL, "en")
	if got := value[string](p, fmt.Sprintf(script, "Bearer h5", site, site, site)); got != "404 40007" {
		t.Errorf("the page with the login: %s", got)
	}
	if got := value[string](p, fmt.Sprintf(script, "Bearer other", site, site, site)); got != "upload 401" {
		t.Errorf("the page without the login: %s", got)
	}
	p.forget()
	p = open(t, stranger.URL, "en")
	if got := value[string](p, fmt.Sprintf(script, "Bearer h5", site, site, site)); got != "TypeError" {
		t.Errorf("a page of a third host: %s", got)
	}
	p.forget()
}

// forget is for complaints of the console that are meant to be there.
func (p *page) forget() {
	p.eval(`new Promise(done => setTimeout(done, 200))`)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.complaints = nil
}
