package wechatmedia

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// scrape returns the samples of the plugin's own metrics.
func (g *gateway) scrape() map[string]float64 {
	g.t.Helper()
	_, body := g.get("/metrics")
	samples := make(map[string]float64)
	for _, m := range regexp.MustCompile(`(?m)^(caddy_wechat_\S+) (\S+)$`).FindAllStringSubmatch(string(body), -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			g.t.Fatal(err)
		}
		samples[m[1]] = v
	}
	return samples
}

func TestMetrics(t *testing.T) {
	w := startWechat(t)
	site := "metrics /metrics\n" + block(w.URL, "replay_buffer 256KiB")
	g := startGateway(t, site)
	before := g.scrape()
	grew := func(by float64, name string) {
		t.Helper()
		if got := g.scrape()[name] - before[name]; got != by {
			t.Errorf("%s grew by %v, want %v", name, got, by)
		}
	}
	requests := func(endpoint, class, app string) string {
		return fmt.Sprintf(`caddy_wechat_requests_total{app=%q,class=%q,endpoint=%q}`, app, class, endpoint)
	}

	res, reply := g.upload("/media", "a.jpg", picture(t, 1000))
	id := uploaded(t, res, reply)
	w.revoke()
	g.get("/media/" + id)
	g.get("/media/none")
	g.get("/media/a.b")
	g.get("/cgi-bin/user/get")
	w.Busy(sandbox.MediaGet, 1)
	g.get("/media/" + id)
	g.load("metrics /metrics") // a config without the plugin
	g.load(site)
	g.get("/media/" + id)

	grew(1, requests("upload", "ok", testAppID))
	grew(2, requests("get", "ok", testAppID))
	grew(1, requests("get", "request", testAppID))
	grew(1, requests("get", "busy", testAppID))
	grew(1, requests("get", "refused", ""))
	grew(1, requests("none", "refused", ""))
	grew(1, `caddy_wechat_replays_total{outcome="succeeded"}`)

	w.revoke()
	g.upload("/media", "a.jpg", picture(t, 1<<20))
	grew(1, requests("upload", "token", testAppID))
	grew(1, `caddy_wechat_replays_total{outcome="not_kept"}`)
	if got := g.scrape()["caddy_wechat_replay_buffer_bytes"]; got != 0 {
		t.Errorf("%v bytes of the replay buffer are in use", got)
	}

	w.Cut(sandbox.MediaGet, 500, 1)
	if res, err := noRedirects.Get(g.URL + "/media/" + id); err == nil {
		if _, err := io.Copy(io.Discard, res.Body); err == nil {
			t.Error("a download that was cut looks complete")
		}
		res.Body.Close()
	}
	w.Respond(sandbox.MediaGet, 1, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) })
	g.get("/media/" + id)
	grew(1, requests("get", "truncated", testAppID))
	grew(1, requests("get", "unreachable", testAppID))
	if _, ok := before[`caddy_wechat_token_fetches_total{app="`+testAppID+`",result="ip_not_allowed",source="`+testSource+`"}`]; !ok {
		t.Error("what has not happened yet is not counted as 0")
	}

	expiry := g.scrape()[`caddy_wechat_token_expiry_timestamp_seconds{app="`+testAppID+`",issuer="`+strings.TrimPrefix(w.URL, "http://")+`"}`]
	if left := time.Until(time.Unix(int64(expiry), 0)); left < time.Hour || left > 2*time.Hour+time.Minute {
		t.Errorf("the token expires in %v", left)
	}
	for name := range g.scrape() {
		for _, secret := range append(w.IssuedTokens(), testSecret) {
			if strings.Contains(name, secret) {
				t.Errorf("a secret is in %s", name)
			}
		}
	}

	// an app that is gone must not look like one without a token
	g.load("metrics /metrics\n" + strings.Replace(block(w.URL), testAppID, otherAppID, 1))
	g.get("/media/none")
	for name := range g.scrape() {
		if strings.HasPrefix(name, `caddy_wechat_token_expiry_timestamp_seconds{app="`+testAppID) {
			t.Error("the expiry of an app's token outlives the app")
		}
	}
}

// ownErrcodes are those of one platform that the other one has nothing to say with, and
// what becomes of them.
func ownErrcodes() map[int]struct {
	class  string
	status int
} {
	type meaning = struct {
		class  string
		status int
	}
	if testPlatform == platform.WeCom {
		return map[int]meaning{60020: {"account", 403}, 45033: {"quota", 429}, 830002: {"request", 413}}
	}
	return map[int]meaning{60020: {"other", 502}, 45033: {"other", 502}, 830002: {"other", 502}}
}

func TestErrcodeClass(t *testing.T) {
	left, leave := context.WithCancel(t.Context())
	leave()
	classes := map[string][]*exchange{
		"ok":          {{status: 200}, {status: 304}},
		"token":       {{status: 200, verdict: verdict{errcode: 40001}}, {status: 200, verdict: verdict{errcode: 42001}}},
		"busy":        {{status: 200, verdict: verdict{errcode: -1}}},
		"quota":       {{status: 200, verdict: verdict{errcode: 45009}}},
		"request":     {{status: 200, verdict: verdict{errcode: 40007}}, {status: 200, verdict: verdict{errcode: 40009}}, {status: 200, verdict: verdict{errcode: 41005}}},
		"account":     {{status: 200, verdict: verdict{errcode: 48001}}},
		"other":       {{status: 200, verdict: verdict{errcode: 99999}}, {status: 412}},
		"refused":     {{refusal: refuseMediaID()}, {refusal: refuseTooLarge(1)}},
		"unavailable": {{refusal: refuseNoToken(0, nil)}},
		"unreachable": {{refusal: refuseUpstream(false, nil)}, {refusal: refuseUpstream(true, nil)}, {status: 502}},
		"truncated":   {{ctx: t.Context(), status: 200, last: &attempt{broken: true}}},
		"left":        {{}, {ctx: left, status: 200, last: &attempt{broken: true}}, {refusal: &refusal{status: statusClientGone}}},
	}
	if got := slices.Sorted(maps.Keys(classes)); !slices.Equal(got, slices.Sorted(slices.Values(requestClasses))) {
		t.Errorf("requestClasses are not %q", got)
	}
	for code, class := range ownErrcodes() {
		classes[class.class] = append(classes[class.class], &exchange{status: 200, verdict: verdict{errcode: code}})
	}
	for want, exchanges := range classes {
		for _, ex := range exchanges {
			ex.transport = &Transport{platform: testPlatform}
			if got := errcodeClass(ex); got != want {
				t.Errorf("%+v %+v: %s, want %s", ex.verdict, ex.refusal, got, want)
			}
		}
	}
}

// admin calls the admin API as Caddy's admin endpoint does.
func admin(method, target string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	req := httptest.NewRequest(method, target, nil)
	for _, route := range (adminTokens{}).Routes() {
		if route.Pattern != req.URL.Path {
			continue
		}
		var apiErr caddy.APIError
		if err := route.Handler.ServeHTTP(rec, req); errors.As(err, &apiErr) {
			rec.WriteHeader(apiErr.HTTPStatus)
			fmt.Fprint(rec, apiErr.Err)
		}
	}
	return rec
}

func TestAdminAPI(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, appLine(otherAppID)))
	g.get("/media/none")
	w.revoke()
	g.get("/media/none")

	var list []map[string]any
	rec := admin("GET", "/wechat/tokens")
	if err := json.Unmarshal(rec.Body.Bytes(), &list); err != nil || len(list) != 2 {
		t.Fatalf("%v: %s", err, rec.Body)
	}
	first := list[0]
	if first["app_id"] != testAppID || first["source"] != testSource || first["has_token"] != true || first["fetches"] != 2.0 || first["rejections"] != 1.0 {
		t.Errorf("%v", first)
	}
	if left := first["expires_in_seconds"].(float64); left < 7100 || left > 7200 {
		t.Errorf("expires in %v s", left)
	}

	// not again so soon after the last call
	if rec = admin("POST", "/wechat/tokens/refresh?app_id="+testAppID); rec.Code != http.StatusTooManyRequests || rec.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	for target, want := range map[string]int{
		"/wechat/tokens/refresh":             400,
		"/wechat/tokens/refresh?app_id=none": 404,
		"/wechat/tokens":                     405,
	} {
		if rec := admin("POST", target); rec.Code != want {
			t.Errorf("POST %s: %d", target, rec.Code)
		}
	}
	if rec := admin("GET", "/wechat/tokens/refresh?app_id="+testAppID); rec.Code != 405 {
		t.Errorf("GET refresh: %d", rec.Code)
	}

	g.load("respond gone")
	errcode, hint := 40125, "AppSecret is wrong"
	if testPlatform == platform.WeCom {
		errcode, hint = 40001, "secret is not the agent's"
	}
	up := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(rw, `{"errcode":%d,"errmsg":"invalid secret rid: 1-2-3"}`, errcode)
	}))
	g.load(block(up.URL))
	g.get("/media/none")
	rec = admin("GET", "/wechat/tokens")
	list = nil
	if err := json.Unmarshal(rec.Body.Bytes(), &list); err != nil || len(list) != 1 {
		t.Fatalf("%v: %s", err, rec.Body)
	}
	if list[0]["has_token"] != false || list[0]["errcode"] != float64(errcode) || list[0]["failure"] != "wrong_secret" ||
		!strings.Contains(list[0]["hint"].(string), hint) || list[0]["next_try"] == nil {
		t.Errorf("%v", list[0])
	}
	for _, secret := range append(w.IssuedTokens(), testSecret) {
		if strings.Contains(rec.Body.String(), secret) {
			t.Error("a secret is in the list")
		}
	}
}

// Refreshing a token is under the access control of Caddy's admin API, like all
// that is in it.
func TestAdminAPIKeepsStrangersOut(t *testing.T) {
	w := startWechat(t)
	t.Setenv("TEST_WECHAT_SECRET", testSecret)
	address := "127.0.0.1:" + freePort(t)
	config, err := adapt(t, fmt.Sprintf("{\nadmin %s\npersist_config off\n}\nhttp://127.0.0.1:%s {\nbind 127.0.0.1\n%s\n}", address, freePort(t), block(w.URL)))
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = caddy.Stop() }()
	post := func(host, origin string) int {
		t.Helper()
		req, err := http.NewRequest("POST", "http://"+address+"/wechat/tokens/refresh?app_id="+testAppID, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		res, err := noRedirects.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	calls := func() int { return w.count(testTokenPath) }
	waitForToken(t)
	before := calls()
	if status := post("attacker.example", ""); status != http.StatusForbidden {
		t.Errorf("another Host: %d", status)
	}
	if status := post(address, "https://attacker.example"); status != http.StatusForbidden {
		t.Errorf("another Origin: %d", status)
	}
	if status := post(address, ""); status != http.StatusTooManyRequests { // the token is too new
		t.Errorf("the operator: %d", status)
	}
	if calls() != before {
		t.Error("a token was fetched")
	}
}

func TestEvents(t *testing.T) {
	recordedEvents.Lock()
	recordedEvents.all = nil
	recordedEvents.Unlock()
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	g.get("/media/none")
	w.revoke()
	w.Busy(testTokenEndpoint, 1)
	g.get("/media/none")

	events := func() []caddy.Event {
		recordedEvents.Lock()
		defer recordedEvents.Unlock()
		return slices.Clone(recordedEvents.all)
	}
	eventually(func() bool { return len(events()) >= 2 })
	all := events() // each has a goroutine of its own
	if len(all) != 2 {
		t.Fatalf("%d events", len(all))
	}
	slices.SortFunc(all, func(a, b caddy.Event) int { return strings.Compare(b.Name(), a.Name()) })
	refreshed, failed := all[0], all[1]
	if refreshed.Name() != "wechat_token_refreshed" || refreshed.Data["app_id"] != testAppID || refreshed.Data["source"] != testSource {
		t.Errorf("%s %v", refreshed.Name(), refreshed.Data)
	}
	if failed.Name() != "wechat_token_failed" || failed.Data["kind"] != "busy" || failed.Data["errcode"] != -1 {
		t.Errorf("%s %v", failed.Name(), failed.Data)
	}
	for _, secret := range append(w.IssuedTokens(), testSecret) {
		if strings.Contains(fmt.Sprint(refreshed.Data, failed.Data), secret) {
			t.Error("a secret is in an event")
		}
	}
}
