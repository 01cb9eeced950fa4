// Package browser tries the page of example.Caddyfile in Chromium, with real
// uploads.
package browser

// The gateway and the sandbox as example.Caddyfile has them, on free ports.

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
)

func TestMain(m *testing.M) { gateway.Main(m) }

// example is example.Caddyfile, running.
type example struct {
	url     string // of the site that has the page
	sandbox string
	*gateway.Process
}

func startExample(t *testing.T) *example {
	t.Helper()
	config, err := os.ReadFile(filepath.Join(gateway.Root, "example.Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	port := func() string { return strings.TrimPrefix(loopback.FreeAddr(t), "127.0.0.1:") }
	gatewayPort, sandboxPort := port(), port()
	g := &example{url: "http://localhost:" + gatewayPort, sandbox: "http://127.0.0.1:" + sandboxPort}
	g.Process = gateway.Start(t, gateway.Config{
		Caddyfile: strings.NewReplacer(":8080", ":"+gatewayPort, ":8081", ":"+sandboxPort).Replace(string(config)),
		Env:       []string{"CADDY_ADMIN=127.0.0.1:" + port()},
		URL:       g.url, Ready: gateway.HasToken, Secrets: []string{"sandbox-secret", "access_token="},
	})
	return g
}

// download fetches media without the browser.
func (g *example) download(t *testing.T, mediaID string) []byte {
	t.Helper()
	res, err := http.Get(g.url + "/media/" + mediaID)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// fault asks the sandbox for a fault, such as busy?endpoint=upload.
func (g *example) fault(t *testing.T, what string) {
	t.Helper()
	res, err := http.Post(g.sandbox+"/sandbox/"+what, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d", what, res.StatusCode)
	}
}
