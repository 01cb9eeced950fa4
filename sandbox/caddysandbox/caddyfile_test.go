package caddysandbox

// The directive.

import (
	"strings"
	"testing"

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
	got, err := adapt(t, "wechat_sandbox {\napp wx1 one\napp wx2 {env.TWO}\ncorp ww1/1000001 a\ncorp ww1/1000002 b\nmax_memory 1MiB\ntoken_ttl 10m\nlatency 50ms\nidle_timeout 5s\nkeep_alive\n}")
	if err != nil {
		t.Fatal(err)
	}
	want := `{"apps":[{"app_id":"wx1","app_secret":"one"},{"app_id":"wx2","app_secret":"{env.TWO}"}],` +
		`"corps":[{"corp_id":"ww1/1000001","corp_secret":"a"},{"corp_id":"ww1/1000002","corp_secret":"b"}],"handler":"wechat_sandbox",` +
		`"idle_timeout":5000000000,"keep_alive":true,"latency":50000000,"max_memory":1048576,"token_ttl":600000000000}`
	if !strings.Contains(got, want) {
		t.Errorf("got %s, want in it %s", got, want)
	}
}

func TestBadCaddyfiles(t *testing.T) {
	for block, want := range map[string]string{
		"wechat_sandbox":                                                   "no account is configured; write: app <app_id> <app_secret>, or for WeCom: corp <corp_id>",
		"wechat_sandbox x {\napp wx1 s\n}":                                 "wrong argument count",
		"wechat_sandbox {\napp wx1\n}":                                     "write: app <app_id> <app_secret>",
		"wechat_sandbox {\napp wx1 s\napp wx1 t\n}":                        "app wx1 is configured twice",
		"wechat_sandbox {\napp wx1 s\nmax_memory -1\n}":                    "max_memory -1 is not a size",
		"wechat_sandbox {\napp wx1 s\nmax_memory 1MB\nmax_memory 1MB\n}":   "max_memory is already specified",
		"wechat_sandbox {\napp wx1 s\ntoken_ttl soon\n}":                   "token_ttl soon is not a duration",
		"wechat_sandbox {\napp wx1 s\nlatency -1s\n}":                      "latency -1s is not a duration",
		"wechat_sandbox {\napp wx1 s\nkeep_alive on\n}":                    "wrong argument count",
		"wechat_sandbox {\ncorp ww1\n}":                                    "write: corp <corp_id>[/<agent_id>] <secret>",
		"wechat_sandbox {\ncorp ww1/1 s\ncorp ww1/1 t\n}":                  "corp ww1/1 is configured twice",
		"wechat_sandbox {\napp wx1 s\nidle_timeout 0s\n}":                  "idle_timeout 0s is not a duration",
		"wechat_sandbox {\napp wx1 s\nidle_timeout 1s\nidle_timeout 1s\n}": "idle_timeout is already specified",
		"wechat_sandbox {\napp wx1 s {\nx\n}\n}":                           "app takes no block",
		"wechat_sandbox {\napp wx1 s\nstrict\n}":                           "unrecognized subdirective strict; use app,",
	} {
		if _, err := adapt(t, block); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%q: %v, want %q", block, err, want)
		}
	}
}
