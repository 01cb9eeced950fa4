package sandbox

// What a token is, and how it ends.

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestStableToken(t *testing.T) {
	w := newWorld(t, Options{})
	first := w.stable(false)
	if first.ExpiresIn != 7200 {
		t.Errorf("expires_in %d", first.ExpiresIn)
	}
	w.pass(6900 * time.Second)
	if same := w.stable(false); same.AccessToken != first.AccessToken || same.ExpiresIn != 300 {
		t.Errorf("5 minutes before its end: same %t, expires_in %d", same.AccessToken == first.AccessToken, same.ExpiresIn)
	}
	w.pass(time.Second)
	second := w.stable(false)
	if second.AccessToken == first.AccessToken || second.ExpiresIn != 7200 {
		t.Error("not replaced in its last 5 minutes")
	}
	if w.check(first.AccessToken) != 0 || w.check(second.AccessToken) != 0 {
		t.Error("the two do not overlap")
	}
	w.pass(299 * time.Second)
	if got := w.check(first.AccessToken); got != 42001 {
		t.Errorf("at its end: %d", got)
	}
}

func TestStableTokenRefusals(t *testing.T) {
	w := newWorld(t, Options{})
	for body, want := range map[string]int{
		``:                               44002,
		`appid=x`:                        47001,
		`{"appid":"x"`:                   47001,
		`{"secret":"x"}`:                 41002,
		`{"appid":"wx0123456789abcdef"}`: 41004,
		`{"appid":"wx0123456789abcdef","secret":"x"}`:                                             40002,
		`{"grant_type":"client_credential","appid":"wx3","secret":"x"}`:                           40013,
		`{"grant_type":"client_credential","appid":"wx0123456789abcdef","secret":"wrong"}`:        40125,
		`{"grant_type":"authorization_code","appid":"wx0123456789abcdef","secret":"secret-of-x"}`: 40002,
	} {
		if _, got := w.do("POST", "/cgi-bin/stable_token", "application/json", strings.NewReader(body)); errcode(t, got) != want {
			t.Errorf("%s: %s, want %d", body, got, want)
		}
	}
	if _, got := w.do("GET", "/cgi-bin/stable_token", "", nil); errcode(t, got) != 43002 {
		t.Errorf("GET: %s", got)
	}
	if res, got := w.do("POST", "/cgi-bin/stable_token", "application/json", io.MultiReader(strings.NewReader("{}"))); res.StatusCode != 412 || len(got) != 0 {
		t.Errorf("without Content-Length: %d %q", res.StatusCode, got)
	}
}

func TestForceRefresh(t *testing.T) {
	w := newWorld(t, Options{})
	first := w.stable(true).AccessToken
	if w.stable(true).AccessToken != first {
		t.Error("refreshed within 30 s")
	}
	w.pass(30 * time.Second)
	second := w.stable(true).AccessToken
	if second == first {
		t.Error("not refreshed after 30 s")
	}
	if w.check(first) != 0 {
		t.Error("one forced call ended the token before at once")
	}
	w.pass(30 * time.Second)
	w.stable(true)
	if got := w.check(first); got != 40001 {
		t.Errorf("after two forced calls: %d", got)
	}
	w.pass(5*time.Minute + time.Second)
	if got := w.check(second); got != 40001 {
		t.Errorf("after the overlap: %d", got)
	}
	last := ""
	for range 25 {
		w.pass(time.Minute)
		last = w.stable(true).AccessToken
	}
	w.pass(time.Minute)
	if w.stable(true).AccessToken != last {
		t.Error("refreshed more than 20 times a day")
	}
}

func TestToken(t *testing.T) {
	w := newWorld(t, Options{})
	stable := w.stable(false).AccessToken
	first := w.classic()
	second := w.classic()
	if first.AccessToken == second.AccessToken || first.ExpiresIn != 7200 {
		t.Error("a call does not issue a new token of 2 hours")
	}
	w.pass(5*time.Minute - time.Second)
	if w.check(first.AccessToken) != 0 {
		t.Error("no overlap")
	}
	w.pass(time.Second)
	if got := w.check(first.AccessToken); got != 40001 {
		t.Errorf("after 5 minutes: %d", got)
	}
	if w.check(stable) != 0 || w.stable(false).AccessToken != stable {
		t.Error("the two endpoints are not isolated")
	}
	for target, want := range map[string]int{
		"?appid=" + appID + "&secret=" + secret:                          40002,
		"?grant_type=client_credential&secret=" + secret:                 41002,
		"?grant_type=client_credential&appid=" + appID:                   41004,
		"?grant_type=client_credential&appid=wx3&secret=x":               40013,
		"?grant_type=client_credential&appid=" + appID + "&secret=wrong": 40001,
	} {
		if _, got := w.do("GET", "/cgi-bin/token"+target, "", nil); errcode(t, got) != want {
			t.Errorf("%s: %s, want %d", target, got, want)
		}
	}
	if _, got := w.do("POST", "/cgi-bin/token", "", strings.NewReader("x")); errcode(t, got) != 43001 {
		t.Errorf("POST: %s", got)
	}
}

func TestTokenErrors(t *testing.T) {
	w := newWorld(t, Options{})
	good := w.stable(false).AccessToken
	for query, want := range map[string]int{
		"":                                  41001,
		"access_token=":                     41001,
		"access_token=short":                40014,
		"access_token=" + good[:60] + "%20": 40014,
		"access_token=" + good + "&access_token=" + good: 40014,
		"access_token=" + strings.Repeat("a", 136):       40001,
		"Access_Token=" + good:                           41001,
		"access_token=" + good:                           40007,
	} {
		if _, got := w.do("GET", "/cgi-bin/media/get?media_id=none&"+query, "", nil); errcode(t, got) != want {
			t.Errorf("%s: %s, want %d", query, got, want)
		}
	}
	w.RevokeTokens("wx2")
	if w.check(good) != 0 {
		t.Error("another app's tokens were revoked")
	}
	w.RevokeTokens(appID)
	if got := w.check(good); got != 40001 {
		t.Errorf("revoked: %d", got)
	}
	next := w.stable(false).AccessToken
	if next == good || w.CurrentToken(appID) != next {
		t.Error("a revoked token is handed out")
	}
	w.ExpireTokens(appID)
	if got := w.check(next); got != 42001 {
		t.Errorf("expired: %d", got)
	}
	w.AddToken(appID, strings.Repeat("c", 64), time.Minute)
	if _, got := w.do("GET", "/cgi-bin/media/get?media_id=none&cloudbase_access_token="+strings.Repeat("c", 64), "", nil); errcode(t, got) != 40007 {
		t.Errorf("cloudbase: %s", got)
	}
	if n := len(w.IssuedTokens()); n != 3 {
		t.Errorf("%d tokens were issued", n)
	}
}

func TestQuotas(t *testing.T) {
	w := newWorld(t, Options{
		DailyQuota:  map[Endpoint]int{Token: 2, StableToken: 5, MediaGet: 1, MediaUpload: 1},
		MinuteQuota: map[Endpoint]int{StableToken: 3},
	})
	ask := func() int {
		_, body := w.do("POST", "/cgi-bin/stable_token", "", strings.NewReader(
			`{"grant_type":"client_credential","appid":"`+appID+`","secret":"`+secret+`"}`))
		return errcode(t, body)
	}
	for i, want := range []int{0, 0, 0, 45011} {
		if got := ask(); got != want {
			t.Errorf("call %d: %d, want %d", i, got, want)
		}
	}
	w.pass(time.Minute)
	for i, want := range []int{0, 45009, 45009} {
		if got := ask(); got != want {
			t.Errorf("call %d of the next minute: %d, want %d", i, got, want)
		}
	}
	w.classic()
	token := w.classic().AccessToken
	if _, got := w.do("GET", "/cgi-bin/token?grant_type=client_credential&appid="+appID+"&secret="+secret, "", nil); errcode(t, got) != 45009 {
		t.Errorf("token: %s", got)
	}
	w.check(token)
	if got := w.check(token); got != 45009 {
		t.Errorf("download: %d", got)
	}
	w.pass(24 * time.Hour)
	if got := ask(); got != 0 {
		t.Errorf("the next day: %d", got)
	}
}
