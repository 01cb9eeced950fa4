package caddysandbox

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func adapt(t *testing.T, block string) (string, error) {
	t.Helper()
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	out, _, err := adapter.Adapt([]byte("http://127.0.0.1:8081 {\n"+block+"\n}\n"), map[string]any{"filename": "Caddyfile"})
	return string(out), err
}

func TestCaddyfile(t *testing.T) {
	got, err := adapt(t, "wechat_sandbox {\napp wx1 one\napp wx2 {env.TWO}\nmax_memory 1MiB\ntoken_ttl 10m\nlatency 50ms\nkeep_alive\n}")
	if err != nil {
		t.Fatal(err)
	}
	want := `{"apps":[{"app_id":"wx1","app_secret":"one"},{"app_id":"wx2","app_secret":"{env.TWO}"}],"handler":"wechat_sandbox",` +
		`"keep_alive":true,"latency":50000000,"max_memory":1048576,"token_ttl":600000000000}`
	if !strings.Contains(got, want) {
		t.Errorf("got %s, want in it %s", got, want)
	}
}

func TestBadCaddyfiles(t *testing.T) {
	for block, want := range map[string]string{
		"wechat_sandbox":                                                 "no app is configured; write: app <app_id> <app_secret>",
		"wechat_sandbox x {\napp wx1 s\n}":                               "wrong argument count",
		"wechat_sandbox {\napp wx1\n}":                                   "write: app <app_id> <app_secret>",
		"wechat_sandbox {\napp wx1 s\napp wx1 t\n}":                      "app wx1 is configured twice",
		"wechat_sandbox {\napp wx1 s\nmax_memory -1\n}":                  "max_memory -1 is not a size",
		"wechat_sandbox {\napp wx1 s\nmax_memory 1MB\nmax_memory 1MB\n}": "max_memory is already specified",
		"wechat_sandbox {\napp wx1 s\ntoken_ttl soon\n}":                 "token_ttl soon is not a duration",
		"wechat_sandbox {\napp wx1 s\nlatency -1s\n}":                    "latency -1s is not a duration",
		"wechat_sandbox {\napp wx1 s\nkeep_alive on\n}":                  "wrong argument count",
		"wechat_sandbox {\napp wx1 s {\nx\n}\n}":                         "app takes no block",
		"wechat_sandbox {\napp wx1 s\nstrict\n}":                         "unrecognized subdirective strict; use app,",
	} {
		if _, err := adapt(t, block); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%q: %v, want %q", block, err, want)
		}
	}
}

func TestReloadKeepsMedia(t *testing.T) {
	provision := func(config string) *Handler {
		t.Helper()
		h := new(Handler)
		if err := json.Unmarshal([]byte(config), h); err != nil {
			t.Fatal(err)
		}
		if err := h.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		return h
	}
	const config = `{"apps":[{"app_id":"wx1","app_secret":"s"}]}`
	first := provision(config)
	second := provision(config)
	other := provision(`{"apps":[{"app_id":"wx1","app_secret":"t"}]}`)
	if first.server != second.server || first.server == other.server {
		t.Error("a sandbox is known by its settings")
	}
	for _, h := range []*Handler{first, second, other, new(Handler)} {
		if err := h.Cleanup(); err != nil {
			t.Error(err)
		}
	}
	if third := provision(config); third.server == first.server {
		t.Error("a sandbox outlives its configs")
	} else if err := third.Cleanup(); err != nil {
		t.Error(err)
	}
	for _, config := range []string{`{"apps":[{"app_id":"wx1","app_secret":"{env.NO_SUCH_VARIABLE}"}]}`,
		`{"apps":[{"app_id":"wx1","app_secret":"s"},{"app_id":"wx1","app_secret":"s"}]}`} {
		h := new(Handler)
		if err := json.Unmarshal([]byte(config), h); err != nil {
			t.Fatal(err)
		}
		if err := h.Provision(caddy.Context{}); err == nil {
			t.Errorf("%s was accepted", config)
		}
	}
	for _, h := range []*Handler{{}, {Apps: make([]App, 1), MaxMemory: -1}, {Apps: make([]App, 1), TokenTTL: 1}, {Apps: make([]App, 1), Latency: -1}} {
		if h.Validate() == nil {
			t.Errorf("%+v is valid", h)
		}
	}
}
