//go:build linux

package fleet

// A gateway of the fleet: a real Caddy in a process of its own.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
)

var gatewayBinary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	gatewayBinary = filepath.Join(dir, "gateway")
	if out, err := exec.Command("go", "build", "-o", gatewayBinary, "./gateway").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building: %v\n%s", err, out))
	}
	return m.Run()
}

// gateway is one process, and those that took its place.
type gateway struct {
	t      *testing.T
	from   string // the address that it calls WeChat from
	port   string
	dir    string
	config string
	client *http.Client

	cmd  *exec.Cmd
	away atomic.Bool // no requests go to it, and what becomes of those under way does not count
	log  lockedBuffer
}

const caddyfile = `{
	admin unix/%[1]s/admin.sock
	persist_config off
	auto_https off
	debug
	storage redis {
		host 127.0.0.1
		port %[2]s
		username gateway
		password {env.FLEET_REDIS_PASSWORD}
	}
}
http://127.0.0.1:%[3]s {
	bind 127.0.0.1
	log
%[4]s}
`

const site = `	handle_path /%[1]s/* {
		wechat_media %[2]s {
			app %[3]s {env.FLEET_APP_SECRET} {
				token %[1]s
				share_token
			}
			transport wechat {
				local_address %[4]s
			}
		}
	}
`

func newGateway(t *testing.T, number int, redis *redisServer, wechatURL string, patience time.Duration) *gateway {
	t.Helper()
	g := &gateway{t: t, from: fmt.Sprintf("127.0.0.%d", 11+number), port: freePort(t), dir: shortDir(t)}
	var sites strings.Builder
	for _, src := range sources {
		fmt.Fprintf(&sites, site, src.name, wechatURL, src.appID, g.from)
	}
	g.config = fmt.Sprintf(caddyfile, g.dir, redis.port, g.port, sites.String())
	g.client = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	t.Cleanup(g.stop)
	return g
}

// start starts the process; await waits until it listens.
func (g *gateway) start() {
	g.t.Helper()
	path := filepath.Join(g.dir, "Caddyfile")
	if err := os.WriteFile(path, []byte(g.config), 0o600); err != nil {
		g.t.Fatal(err)
	}
	g.cmd = exec.Command(gatewayBinary, "run", "--config", path)
	g.cmd.Env = append(os.Environ(), "FLEET_APP_SECRET="+appSecret, "FLEET_REDIS_PASSWORD="+redisPassword,
		"XDG_DATA_HOME="+g.dir, "XDG_CONFIG_HOME="+g.dir)
	g.cmd.Stdout, g.cmd.Stderr = &g.log, &g.log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) await() {
	g.t.Helper()
	eventually(g.t, time.Minute, "a gateway to listen", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+g.port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	g.away.Store(false)
}

// kill ends the process as a power cut would.
func (g *gateway) kill() {
	g.away.Store(true)
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
	g.cmd = nil
}

// stop ends the process as its administrator would.
func (g *gateway) stop() {
	g.away.Store(true)
	if g.cmd == nil {
		return
	}
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(20*time.Second, func() { _ = g.cmd.Process.Kill() })
	_ = g.cmd.Wait()
	timer.Stop()
	g.cmd = nil
}

// reload loads the same config once more, which replaces all that runs.
func (g *gateway) reload() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://admin/load", strings.NewReader(g.config))
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(g.dir, "admin.sock"))
	}
	res, err := (&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		g.t.Errorf("reload: %v", err)
		return
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		g.t.Errorf("reload: status %d: %s", res.StatusCode, body)
	}
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// shortDir is a t.TempDir with a name that is short enough for sockets in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func freePort(t *testing.T) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(loopback.FreeAddr(t))
	return port
}

// eventually waits for other processes, which have no clock in common with the test.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", within, what)
		}
	}
}
