package wechatmedia

// Several sites of one process, with one app: what they share, and what not.

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// at is a directive that stands at a path.
func at(path, directive string) string {
	return strings.Replace(directive, "wechat_media ", "wechat_media "+path+"* ", 1)
}

// A site with a sandbox has tokens of the sandbox, and one with WeChat has WeChat's,
// in whatever order they are loaded; neither's token goes to the other.
func TestSitesOfTwoIssuers(t *testing.T) {
	one, two := startWechat(t), startWechat(t)
	g := startGateway(t, at("/one", block(one.URL))+"\n"+at("/two", block(two.URL)))
	for range 3 {
		for _, path := range []string{"/one/cgi-bin/media/get?media_id=abc", "/two/cgi-bin/media/get?media_id=abc"} {
			if _, body := g.get(path); !strings.Contains(string(body), "40007") {
				t.Errorf("%s: %s", path, body)
			}
		}
		g.load(at("/two", block(two.URL, "translate_status")) + "\n" + at("/one", block(one.URL)))
		g.load(at("/one", block(one.URL)) + "\n" + at("/two", block(two.URL)))
	}
	for w, other := range map[*wechat]*wechat{one: two, two: one} {
		for _, s := range w.requests() {
			for _, token := range other.IssuedTokens() {
				if strings.Contains(s.uri, token) {
					t.Fatal("a token went to another issuer")
				}
			}
		}
		if n := w.count(testTokenPath); n != 1 {
			t.Errorf("%d calls for a token", n)
		}
	}
}

// A dead upstream of one site is nothing to the other, in every order of starts.
func TestDeadSiteBesideAHealthyOne(t *testing.T) {
	w := startWechat(t)
	dead := at("/dead", block("http://127.0.0.1:1"))
	for range 10 {
		g := startGateway(t, dead+"\n"+at("/alive", block(w.URL)))
		if res, body := g.get("/alive/cgi-bin/media/get?media_id=abc"); res.StatusCode != 200 {
			t.Fatalf("%d %s", res.StatusCode, body)
		}
		g.load("respond gone") // and so the next start is from nothing
	}
}

// Two sources of one app and upstream are two tokens.
func TestSitesOfTwoSources(t *testing.T) {
	w := startWechat(t)
	file := tokenFile(t, w)
	other := "wechat_media " + w.URL + " {\napp " + testAppID + " {\ntoken file " + file + "\n}\n}"
	g := startGateway(t, at("/file", other)+"\n"+at("/stable", block(w.URL)))
	known, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for path, fromFile := range map[string]bool{"/file": true, "/stable": false} {
		w.reset()
		g.get(path + "/cgi-bin/media/get?media_id=abc")
		if got := strings.Contains(w.only(t, "/cgi-bin/media/get").uri, string(known)); got != fromFile {
			t.Errorf("%s: the token of the file: %v", path, got)
		}
	}

	if testPlatform == platform.WeCom {
		return // which has one kind of token
	}
	classic := "wechat_media " + w.URL + " {\napp " + testAppID + " {env.TEST_WECHAT_SECRET} {\ntoken classic\n}\n}"
	w.reset()
	g = startGatewayWith(t, "storage file_system "+storageDir(t), at("/classic", classic)+"\n"+at("/stable", block(w.URL)))
	for _, path := range []string{"/classic", "/stable"} {
		if res, body := g.get(path + "/cgi-bin/media/get?media_id=abc"); res.StatusCode != 200 {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	if w.count("/cgi-bin/token") != 1 {
		t.Errorf("%d calls of classic's endpoint", w.count("/cgi-bin/token"))
	}
}

// A site that is gone fetches nothing any more, not even when its neighbour fails.
func TestSiteThatIsGone(t *testing.T) {
	w := startWechat(t)
	var mu sync.Mutex
	calls := make(map[string]int)
	w.OnRequest(func(e sandbox.Endpoint, r *http.Request) {
		if e == testTokenEndpoint {
			mu.Lock()
			defer mu.Unlock()
			calls[r.Header.Get("X-Site")]++
		}
	})
	stays, goes := at("/stays", block(w.URL, "header_up X-Site stays")), at("/goes", block(w.URL, "header_up X-Site goes"))
	g := startGateway(t, goes+"\n"+stays)
	g.get("/stays/cgi-bin/media/get?media_id=abc")
	g.load(stays)
	mu.Lock()
	clear(calls)
	mu.Unlock()
	w.Respond(testTokenEndpoint, 100, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) })
	w.revoke()
	for range 3 {
		g.get("/stays/cgi-bin/media/get?media_id=abc")
	}
	mu.Lock()
	defer mu.Unlock()
	if calls["goes"] != 0 || calls["stays"] == 0 {
		t.Errorf("token calls by site: %v", calls)
	}
}

// A server that stops waits for connections that nothing came over yet, and so would a
// sandbox of the same config for those that are made ahead. They go as soon as the config
// stops, and a request that is still there makes its own.
func TestSparesOfAConfigThatStops(t *testing.T) {
	accounts := testAccounts()
	accounts.KeepAlive = false
	srv := httptest.NewUnstartedServer(sandbox.New(accounts))
	var mu sync.Mutex
	waiting := make(map[net.Conn]bool)
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if delete(waiting, c); s == http.StateNew {
			waiting[c] = true
		}
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(waiting)
	}
	srv.Start()
	t.Cleanup(srv.Close)
	g := startGateway(t, block(srv.URL))
	g.get("/cgi-bin/media/get?media_id=abc")
	if !eventually(func() bool { return count() > 0 }) {
		t.Fatal("no connection was made ahead")
	}
	ctx := caddy.ActiveContext()
	app, err := ctx.App("events")
	if err != nil {
		t.Fatal(err)
	}
	app.(*caddyevents.App).Emit(ctx, "stopping", nil)
	if !eventually(func() bool { return count() == 0 }) {
		t.Errorf("%d connections are still there", count())
	}
	if _, body := g.get("/cgi-bin/media/get?media_id=abc"); !strings.Contains(string(body), "40007") {
		t.Errorf("a request that is still there: %s", body)
	}
}

// The secret goes where the operator says, and to nobody whom an answer names.
func TestTokenCallsFollowNoRedirect(t *testing.T) {
	sources := []string{testSource}
	if testPlatform == platform.WeChat {
		sources = append(sources, "classic")
	}
	for _, source := range sources {
		asked := false
		elsewhere := upstream(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
		up := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, elsewhere.URL+"/?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
		}))
		g := startGatewayWith(t, "storage file_system "+storageDir(t),
			"wechat_media "+up.URL+" {\napp "+testAppID+" {env.TEST_WECHAT_SECRET} {\ntoken "+source+"\n}\n}")
		res, body := g.get("/media/abc")
		if res.StatusCode != 503 || asked {
			t.Errorf("%s: %d %s, another host was asked: %v", source, res.StatusCode, body, asked)
		}
		if strings.Contains(loggedSoFar(), testSecret) {
			t.Errorf("%s: the secret is in the log", source)
		}
	}
}

// A request that waits in front of the gateway while its app is taken out of the config
// ends well.
func TestRequestWhoseAppIsRemoved(t *testing.T) {
	w := startWechat(t)
	arrived, goOn := make(chan struct{}), make(chan struct{})
	auth := upstream(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-goOn
	}))
	g := startGatewayWith(t, "", "forward_auth "+auth.URL+" {\nuri /\n}\n"+block(w.URL))
	answer := make(chan string, 1)
	target := g.URL + "/cgi-bin/media/get?media_id=abc"
	go func() {
		res, err := http.Get(target)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		answer <- string(body)
	}()
	<-arrived
	waitForToken(t)
	loaded := make(chan struct{})
	go func() { g.load("respond gone"); close(loaded) }()
	if !eventually(func() bool { return len(managersOf("")) == 0 }) {
		t.Error("the app is still there")
	}
	close(goOn)
	if got := <-answer; !strings.Contains(got, "40007") {
		t.Errorf("the request that waited got %s", got)
	}
	<-loaded
}
