// Package gateway starts the gateway as people run it, the real binary in a process
// of its own, for the tests of the packages beside it.
package gateway

// Building, starting and ending it.

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// The account that the tests' gateways have at WeChat's stand-in. The secret is in
// the environment of each, as SecretVariable.
const (
	AppID          = "wx0123456789abcdef"
	Secret         = "5e2713e1a90b4c8d5e2713e1a90b4c8d"
	SecretVariable = "REAL_SECRET"
)

// Root is the project's directory, from a package's.
const Root = "../.."

var binary string

// Main is what TestMain calls: it builds the binary, or takes the one that the
// environment variable CADDY names, and runs the tests.
func Main(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if binary = os.Getenv("CADDY"); binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "gateway")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-C", Root, "-o", binary, "./cmd/caddy")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building the gateway: %v\n%s", err, out))
	}
	return m.Run()
}

// Config says what to run.
type Config struct {
	Caddyfile string
	Args      []string // in place of a Caddyfile: the command and its arguments
	Env       []string // variables, beside SecretVariable
	URL       string   // answers when the gateway is up

	// What must hold, too, before the gateway is ready. Default: nothing.
	Ready func(*Process) bool

	// What must not be in the log, beside Secret and tokens in URLs.
	Secrets []string
}

// Process is a running gateway.
type Process struct {
	t     testing.TB
	cmd   *exec.Cmd
	log   log
	ended chan struct{}
}

// Start runs the gateway in the project's directory until the test ends, and returns
// when it is ready.
func Start(t testing.TB, c Config) *Process {
	t.Helper()
	dir := t.TempDir()
	args := c.Args
	if args == nil {
		file := filepath.Join(dir, "Caddyfile")
		if err := os.WriteFile(file, []byte(c.Caddyfile), 0o600); err != nil {
			t.Fatal(err)
		}
		args = []string{"run", "--config", file, "--adapter", "caddyfile"}
	}
	p := &Process{t: t, cmd: exec.Command(binary, args...), ended: make(chan struct{})}
	p.cmd.Dir = Root
	p.cmd.Env = append(os.Environ(), SecretVariable+"="+Secret, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	p.cmd.Env = append(p.cmd.Env, c.Env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.Stop()
		p.checkLog(append(c.Secrets, Secret))
	})
	p.await(c)
	return p
}

// patience is how long the gateway may take until it is ready.
const patience = time.Minute

func (p *Process) await(c Config) {
	p.t.Helper()
	client := http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if res, err := client.Get(c.URL); err == nil {
			res.Body.Close()
			if c.Ready == nil || c.Ready(p) {
				return
			}
		}
		select {
		case <-p.ended:
			p.t.Fatalf("the gateway ended:\n%s", p.log.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
	p.t.Fatalf("the gateway does not come up:\n%s", p.log.tail())
}

// Stop ends the gateway, at once.
func (p *Process) Stop() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is what the gateway has written so far.
func (p *Process) Log() string { return p.log.String() }

var token = regexp.MustCompile(`access_token=[A-Za-z0-9_-]{20,}`)

func (p *Process) checkLog(secrets []string) {
	out := p.Log()
	if p.t.Failed() {
		p.t.Log(p.log.tail())
	}
	for _, secret := range secrets {
		if strings.Contains(out, secret) {
			p.t.Error("the log has a secret in it")
		}
	}
	if token.MatchString(out) {
		p.t.Error("the log has a token in it")
	}
	if strings.Contains(out, "panic") {
		p.t.Error("the log has a panic in it")
	}
}

// log is read while it is written.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *log) tail() string {
	s := l.String()
	return s[max(0, len(s)-5_000):]
}
