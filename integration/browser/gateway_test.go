// Package browser tries the page of example.Caddyfile in Chromium, with real
// uploads. It is a module of its own so that the plugin does not require a
// browser's driver.
package browser

// The gateway and the sandbox as example.Caddyfile has them, on free ports.

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const root = "../.."

var caddyBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "browser")
	if err != nil {
		panic(err)
	}
	caddyBinary = filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-C", root, "-o", caddyBinary, "./cmd/caddy")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// gateway is example.Caddyfile, running.
type gateway struct {
	url     string // of the site that has the page
	sandbox string
	process *os.Process
}

func startGateway(t *testing.T) *gateway {
	t.Helper()
	example, err := os.ReadFile(filepath.Join(root, "example.Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	gatewayPort, sandboxPort, adminPort := freePort(t), freePort(t), freePort(t)
	config := strings.NewReplacer(":8080", ":"+gatewayPort, ":8081", ":"+sandboxPort).Replace(string(example))
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(caddyBinary, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CADDY_ADMIN=127.0.0.1:"+adminPort, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
		if strings.Contains(log.String(), "sandbox-secret") || strings.Contains(log.String(), "access_token=") {
			t.Error("the log has the secret or a token in it")
		}
	})
	g := &gateway{url: "http://localhost:" + gatewayPort, sandbox: "http://127.0.0.1:" + sandboxPort, process: cmd.Process}
	for range 200 {
		if res, err := http.Get(g.url); err == nil {
			res.Body.Close()
			return g
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the gateway does not come up")
	return nil
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// download fetches media without the browser.
func (g *gateway) download(t *testing.T, mediaID string) []byte {
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
func (g *gateway) fault(t *testing.T, what string) {
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
