// Package clients has callers that send all of a request before they read: Java's
// and Python's. Whatever the answer to an upload, each must get to see it.
package clients

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
)

func TestMain(m *testing.M) { gateway.Main(m) }

// times is how often each client makes each call, and must get its answer.
const times = 20

// upload is what a client sends, and the answer to it.
type upload struct {
	name   string
	path   string
	app    string // in the header X-App, which selects the app
	size   int    // of the picture, in bytes
	status int
	body   string // is in the answer's
}

const noTokenApp = "wxffffffffffffffff" // is unknown to the sandbox

var uploads = []upload{
	{"fine", "/media", gateway.AppID, 3 << 20, 200, `"media_id":"`},
	{"too large", "/media", gateway.AppID, 11 << 20, 413, `"errcode":45001`},
	{"a type that is not allowed", "/media?type=voice", gateway.AppID, 2 << 20, 400, `"errcode":40004`},
	{"no such endpoint", "/cgi-bin/menu/create", gateway.AppID, 4 << 20, 404, `"errcode":40066`},
	{"an app that nobody knows", "/media", "wx0000000000000000", 4 << 20, 400, `"errcode":40013`},
	{"no token", "/media", noTokenApp, 4 << 20, 503, `"errcode":-1`},
	{"a stranger, by respond", "/stranger/media", gateway.AppID, 4 << 20, 401, `{"errcode":401,"errmsg":"who are you"}`},
	{"a stranger, by forward_auth", "/asked/media", gateway.AppID, 4 << 20, 401, `{"errcode":401,"errmsg":"the others do not know you"}`},
}

// start runs a gateway that gives all of these answers.
func start(t *testing.T) *gateway.Site {
	t.Helper()
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"errcode":401,"errmsg":"the others do not know you"}`)
	}))
	t.Cleanup(auth.Close)
	secret := "{env." + gateway.SecretVariable + "}"
	return gateway.Site{
		App:     fmt.Sprintf("app %s %s\n\t\tapp %s %s", gateway.AppID, secret, noTokenApp, secret),
		Options: "app_selector {header.X-App}",
		Other: `@guarded path /stranger/* /asked/*
	wechat_linger @guarded
	respond /stranger/* ` + "`" + `{"errcode":401,"errmsg":"who are you"}` + "`" + ` 401
	forward_auth /asked/* ` + auth.URL + ` {
		uri /who
	}`,
	}.Start(t)
}

// client is one of those that a program beside this file has.
type client struct {
	name    string
	tls     bool
	sees401 bool // HttpURLConnection throws the body away when it streams
}

// TestJava needs a JDK from 17 on.
func TestJava(t *testing.T) {
	callAll(t, []string{"java", "-Xmx256m", "Calls.java"}, []client{
		{"HttpClient/2", false, true}, // offers h2c, which the gateway does not take up
		{"HttpClient/2", true, true},
		{"HttpClient/1.1", false, true},
		{"HttpClient/1.1", true, true},
		{"HttpURLConnection", false, true},
		{"HttpURLConnection", true, true},
		{"HttpURLConnection, streaming", false, false},
		{"HttpURLConnection, streaming", true, false},
	})
}

// TestPython needs Debian's python3-requests, or the package by another way: PYTHON
// names another interpreter than python3.
func TestPython(t *testing.T) {
	python := os.Getenv("PYTHON")
	if python == "" {
		python = "python3"
	}
	callAll(t, []string{python, "calls.py"}, []client{
		{"requests", false, true},
		{"requests", true, true},
		{"http.client", false, true},
		{"http.client", true, true},
	})
}

// callAll has a program make all calls as all of its clients, one after the other. It
// is told of one call a line, and writes a line with the status and the body of the
// answer, or what went wrong.
func callAll(t *testing.T, program []string, clients []client) {
	g := start(t)
	var calls bytes.Buffer
	var names []string
	var want []upload
	for _, c := range clients {
		base := g.HTTP
		if c.tls {
			base = g.HTTPS
		}
		for _, u := range uploads {
			if u.status == http.StatusUnauthorized && !c.sees401 {
				continue
			}
			for i := range times {
				fmt.Fprintf(&calls, "%s\t%s\t%s\t%d\n", c.name, base+u.path, u.app, u.size)
				names = append(names, fmt.Sprintf("%s, TLS %t, %s, call %d", c.name, c.tls, u.name, i+1))
				want = append(want, u)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program[0], append(program[1:], g.Cert)...)
	cmd.Stdin, cmd.Stderr = &calls, os.Stderr
	begin := time.Now()
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v", program, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(want) {
		t.Errorf("%d answers to %d calls", len(lines), len(want))
	}
	for i, line := range lines[:min(len(lines), len(want))] {
		status, body, _ := strings.Cut(line, " ")
		if status != fmt.Sprint(want[i].status) || !strings.Contains(body, want[i].body) {
			t.Errorf("%s: %s", names[i], line)
		}
	}
	t.Logf("%d calls in %v", len(want), time.Since(begin).Round(time.Second))
}
