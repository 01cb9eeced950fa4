package wechatmedia

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

const sentinelSecret, sentinelToken = "SENTINELsecret", "SENTINELtoken"

// askStable lets source stable talk to h.
func askStable(t *testing.T, s *StableTokenSource, req TokenRequest, h http.HandlerFunc) (TokenReply, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	req.AppID, req.AppSecret = "wxapp", sentinelSecret
	req.Client = srv.Client()
	req.BaseURLs = append(req.BaseURLs, srv.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	reply, err := s.FetchToken(ctx, req)
	if err != nil {
		if msg := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(msg, "SENTINEL") && !strings.Contains(msg, "StableTokenSource") {
			t.Errorf("the error carries a secret: %s", msg)
		}
	}
	return reply, err
}

func TestStableRequest(t *testing.T) {
	for _, tc := range []struct {
		allowed, force bool
		body           string
	}{
		{false, false, `{"grant_type":"client_credential","appid":"wxapp","secret":"SENTINELsecret"}`},
		{false, true, `{"grant_type":"client_credential","appid":"wxapp","secret":"SENTINELsecret"}`},
		{true, false, `{"grant_type":"client_credential","appid":"wxapp","secret":"SENTINELsecret"}`},
		{true, true, `{"grant_type":"client_credential","appid":"wxapp","secret":"SENTINELsecret","force_refresh":true}`},
	} {
		reply, err := askStable(t, &StableTokenSource{ForceRefresh: tc.allowed}, TokenRequest{ForceRefresh: tc.force},
			func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.Method != "POST" || r.RequestURI != "/cgi-bin/stable_token" || r.ContentLength != int64(len(body)) ||
					r.TransferEncoding != nil || r.Header.Get("Content-Type") != "application/json" || string(body) != tc.body {
					t.Errorf("got %s %s %v %s", r.Method, r.RequestURI, r.Header, body)
				}
				fmt.Fprint(w, `{"access_token":"SENTINELtoken","expires_in":7200}`)
			})
		if err != nil || reply != (TokenReply{AccessToken: sentinelToken, ExpiresIn: 2 * time.Hour}) {
			t.Errorf("got %v, %v", reply, err)
		}
	}
}

func TestStableReplies(t *testing.T) {
	ok := func(d time.Duration) TokenReply { return TokenReply{AccessToken: sentinelToken, ExpiresIn: d} }
	for name, tc := range map[string]struct {
		status int
		body   string
		want   TokenReply
		kind   failureKind
		text   string
	}{
		"300":                 {200, `{"access_token":"SENTINELtoken","expires_in":300}`, ok(300 * time.Second), "", ""},
		"string":              {200, `{"access_token":"SENTINELtoken","expires_in":"345"}`, ok(345 * time.Second), "", ""},
		"errcode 0":           {200, `{"access_token":"SENTINELtoken","expires_in":345,"errcode":0,"errmsg":"ok"}`, ok(345 * time.Second), "", ""},
		"huge":                {200, `{"access_token":"SENTINELtoken","expires_in":99999999999999999999}`, ok(2 * time.Hour), "", ""},
		"beyond all numbers":  {200, `{"access_token":"SENTINELtoken","expires_in":1e999}`, ok(2 * time.Hour), "", ""},
		"missing":             {200, `{"access_token":"SENTINELtoken"}`, TokenReply{}, failureReply, "no expires_in"},
		"null":                {200, `{"access_token":"SENTINELtoken","expires_in":null}`, TokenReply{}, failureReply, "no expires_in"},
		"zero":                {200, `{"access_token":"SENTINELtoken","expires_in":0}`, TokenReply{}, failureReply, "expires_in of 0"},
		"negative":            {200, `{"access_token":"SENTINELtoken","expires_in":-5}`, TokenReply{}, failureReply, "expires_in of -5"},
		"no number":           {200, `{"access_token":"SENTINELtoken","expires_in":"SENTINEL"}`, TokenReply{}, failureReply, "no number"},
		"NaN":                 {200, `{"access_token":"SENTINELtoken","expires_in":"NaN"}`, TokenReply{}, failureReply, "no number"},
		"no token":            {200, `{"expires_in":7200}`, TokenReply{}, failureReply, "no access_token"},
		"empty token":         {200, `{"access_token":"","expires_in":7200}`, TokenReply{}, failureReply, "no access_token"},
		"token no string":     {200, `{"access_token":["SENTINEL"],"expires_in":7200}`, TokenReply{}, failureReply, "another shape"},
		"strange token":       {200, `{"access_token":"SENTINEL&x=1","expires_in":7200}`, TokenReply{}, failureReply, "unexpected characters"},
		"long token":          {200, `{"access_token":"` + strings.Repeat("a", 2049) + `","expires_in":7200}`, TokenReply{}, failureReply, "2049 bytes"},
		"errcode":             {200, `{"errcode":40125,"errmsg":"invalid appsecret SENTINELsecret, rid: 1"}`, TokenReply{}, failureSecret, "errcode 40125: invalid appsecret [redacted], rid: 1"},
		"errcode as a string": {200, `{"errcode":"40164","errmsg":"invalid ip 203.0.113.9"}`, TokenReply{}, failureIP, "40164"},
		"busy":                {200, `{"errcode":-1,"errmsg":"system error"}`, TokenReply{}, failureBusy, "-1"},
		"quota":               {200, `{"errcode":45009,"errmsg":"reach max api daily quota limit"}`, TokenReply{}, failureQuota, "45009"},
		"HTML with 200":       {200, `<html>SENTINEL log in`, TokenReply{}, failureReply, `no JSON but "text/html" with status 200`},
		"empty":               {200, ``, TokenReply{}, failureReply, "no JSON"},
		"truncated":           {200, `{"access_token":"SENTINELtoken","expi`, TokenReply{}, failureReply, "broken off"},
		"too long":            {200, `{"access_token":"SENTINELtoken","expires_in":7200,"x":"` + strings.Repeat("x", 64<<10) + `"}`, TokenReply{}, failureReply, "more than 65536 bytes"},
		"412":                 {412, ``, TokenReply{}, failureReply, "status 412"},
		"redirect":            {302, `{"access_token":"SENTINELtoken","expires_in":7200}`, TokenReply{}, failureReply, "status 302"},
		"502":                 {502, `{"access_token":"SENTINELtoken","expires_in":7200}`, TokenReply{}, failureReply, "status 502"},
	} {
		t.Run(name, func(t *testing.T) {
			reply, err := askStable(t, new(StableTokenSource), TokenRequest{}, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			if reply != tc.want {
				t.Errorf("got %v, want %v", reply, tc.want)
			}
			if tc.kind == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			if f := classify(err); f.kind != tc.kind || !strings.Contains(err.Error(), tc.text) || !strings.HasPrefix(err.Error(), "requesting stable token: ") {
				t.Errorf("got %s: %v; want %s: …%s", f.kind, err, tc.kind, tc.text)
			}
		})
	}
}

// The next host is asked only if the one before was not reached.
func TestStableHosts(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	garbage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, _ := http.NewResponseController(w).Hijack()
		_, _ = io.WriteString(c, `{"access_token":"SENTINELtoken"}`+"\r\n\r\n")
		_ = c.Close()
	}))
	defer garbage.Close()
	good := func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"access_token":"SENTINELtoken","expires_in":7200}`)
	}
	for name, bad := range map[string]string{
		"refused": "http://127.0.0.1:1", "silent": "http://" + silent.Addr().String(), "garbage": garbage.URL,
	} {
		if reply, err := askStable(t, new(StableTokenSource), TokenRequest{BaseURLs: []string{bad}}, good); err != nil || reply.AccessToken != sentinelToken {
			t.Errorf("%s: %v", name, err)
		}
	}

	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"errcode":-1,"errmsg":"system error"}`)
	}))
	defer busy.Close()
	var code *ErrcodeError
	_, err = askStable(t, new(StableTokenSource), TokenRequest{BaseURLs: []string{busy.URL}}, func(http.ResponseWriter, *http.Request) {
		t.Error("the second host was asked although the first had answered")
	})
	if !errors.As(err, &code) || code.Errcode != -1 {
		t.Errorf("got %v", err)
	}
	if _, err = new(StableTokenSource).FetchToken(t.Context(), TokenRequest{Client: http.DefaultClient, BaseURLs: []string{garbage.URL}}); err == nil ||
		classify(err).kind != failureNetwork || strings.Contains(err.Error(), "SENTINEL") {
		t.Errorf("got %v", err)
	}
}

func TestStableCaddyfile(t *testing.T) {
	for input, want := range map[string]string{
		"stable":                     `{}`,
		"stable {\n}":                `{}`,
		"stable {\nforce_refresh\n}": `{"force_refresh":true}`,
		"stable now":                 "error: takes no argument",
		"stable {\nforce_refresh\nforce_refresh\n}": "error: force_refresh is already specified",
		"stable {\nforce_refresh on\n}":             "error: force_refresh takes no argument",
		"stable {\nforce_refresh {\nx\n}\n}":        "error: force_refresh takes no block",
		"stable {\nforce\n}":                        "error: unrecognized option force of token stable; use force_refresh",
	} {
		var s StableTokenSource
		err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
		got := string(caddyconfig.JSON(s, nil))
		if text, isErr := strings.CutPrefix(want, "error: "); isErr {
			if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: got %v, want %s", input, err, text)
			}
		} else if err != nil || got != want {
			t.Errorf("%q: got %s, %v; want %s", input, got, err, want)
		}
	}
}
