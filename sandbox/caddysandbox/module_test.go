package caddysandbox

// Configs that come and go, and configs that cannot work.

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

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
		`{"apps":[{"app_id":"wx1","app_secret":"s"},{"app_id":"wx1","app_secret":"s"}]}`,
		`{"apps":[{"app_id":"wx1","app_secret":"s"}],"corps":[{"corp_id":"wx1","corp_secret":"t"}]}`,
		`{"corps":[{"corp_id":"ww1/1","corp_secret":"s"},{"corp_id":"ww1/2","corp_secret":"s"}]}`,
		`{"corps":[{"corp_id":"ww1/1","corp_secret":"{env.NO_SUCH_VARIABLE}"}]}`,
		`{"corps":[{"corp_id":"","corp_secret":"s"}]}`} {
		h := new(Handler)
		if err := json.Unmarshal([]byte(config), h); err != nil {
			t.Fatal(err)
		}
		if err := h.Provision(caddy.Context{}); err == nil {
			t.Errorf("%s was accepted", config)
		}
	}
	for _, h := range []*Handler{{}, {Apps: make([]App, 1), MaxMemory: -1}, {Apps: make([]App, 1), TokenTTL: 1}, {Apps: make([]App, 1), Latency: -1}, {Corps: make([]Corp, 1), IdleTimeout: -1}} {
		if h.Validate() == nil {
			t.Errorf("%+v is valid", h)
		}
	}
}
