package main

// The gateway's process: how it is started, and what it takes.

import (
	"bufio"
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// measurement is what a load cost.
type measurement struct {
	idle, peak int64 // resident memory in bytes
	inARow     int64 // the peak after the load was repeated without a rest; 0 if it was not
	answers    string
	runtime    string // the settings of Go's memory management
}

func (m measurement) growth() int64       { return m.peak - m.idle }
func (m measurement) growthInARow() int64 { return max(m.peak, m.inARow) - m.idle }

// measure puts a load on a new process of the gateway, some times in a row.
func measure(binary string, s scenario, times int, profile string) (m measurement, err error) {
	up := startUpstream(s.load)
	defer up.Close()
	g, err := startGateway(binary, up, s.load)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, g.stop()) }()

	warmUp := s.load
	warmUp.slowCallers = false
	if _, err := warmUp.run(g, 16, 64<<10); err != nil {
		return m, fmt.Errorf("warming up: %w", err)
	}
	if m.runtime, err = g.settings(); err != nil {
		return m, err
	}
	if m.idle, err = g.memory("VmRSS"); err != nil {
		return m, err
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", g.pid()), []byte("5"), 0); err != nil {
		return m, fmt.Errorf("starting a new high-water mark: %w", err)
	}
	if profile != "" {
		go g.profile(filepath.Join(profile, strings.NewReplacer(" ", "-", "/", "-", ",", "").Replace(s.name)+".pb.gz"))
	}
	if m.answers, err = s.load.run(g, s.transfers, mediaSize); err != nil {
		return m, err
	}
	if m.peak, err = g.memory("VmHWM"); err != nil || times == 1 {
		return m, err
	}
	for range times - 1 {
		if _, err := s.load.run(g, s.transfers, mediaSize); err != nil {
			return m, err
		}
	}
	m.inARow, err = g.memory("VmHWM")
	return m, err
}

// gateway is a running process.
type gateway struct {
	cmd        *exec.Cmd
	dir        string
	url, admin string
}

func startGateway(binary string, up *httptest.Server, l load) (*gateway, error) {
	dir, err := os.MkdirTemp("", "memory")
	if err != nil {
		return nil, err
	}
	g := &gateway{dir: dir, url: "http://" + freeAddr(), admin: "http://" + freeAddr()}
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := writeCerts(up, ca, cert, key); err != nil {
		return nil, err
	}
	tls := ""
	if l.tls {
		g.url = "https://" + strings.TrimPrefix(g.url, "http://")
		tls = "tls " + cert + " " + key
	}
	caddyfile := fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	servers {
		protocols h1 h2
	}
}
%s {
	bind 127.0.0.1
	%s
	wechat_media %s {
		app wx0123456789abcdef not-a-secret
		transport wechat {
			tls_trust_pool file %s
		}
	}
}
`, strings.TrimPrefix(g.admin, "http://"), g.url, tls, up.URL, ca)
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		return nil, err
	}
	g.cmd = exec.Command(binary, "run", "--config", file, "--adapter", "caddyfile")
	g.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	output := new(bytes.Buffer)
	g.cmd.Stdout, g.cmd.Stderr = output, output
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	for range 200 {
		if res, err := http.Get(g.admin + "/wechat/tokens"); err == nil {
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if bytes.Contains(body, []byte(`"has_token":true`)) {
				return g, nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = g.stop()
	return nil, fmt.Errorf("the gateway does not come up:\n%s", output)
}

// writeCerts has the gateway trust the upstream, and use the same certificate.
func writeCerts(up *httptest.Server, ca, cert, key string) error {
	pair := up.TLS.Certificates[0]
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	keyPEM, err := marshalKey(pair.PrivateKey)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(ca, certPEM, 0o600), os.WriteFile(cert, certPEM, 0o600), os.WriteFile(key, keyPEM, 0o600))
}

func (g *gateway) pid() int { return g.cmd.Process.Pid }

func (g *gateway) stop() error {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
	return os.RemoveAll(g.dir)
}

// memory reads one of the kernel's figures, in bytes.
func (g *gateway) memory(name string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc has no %s", name)
}

// settings are those of the gateway's memory management.
func (g *gateway) settings() (string, error) {
	res, err := http.Get(g.admin + "/metrics")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	values := make(map[string]float64)
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		values[name], _ = strconv.ParseFloat(value, 64)
	}
	return fmt.Sprintf("GOGC is %v, its GOMEMLIMIT, which Caddy sets, %.0f MiB, and its GOMAXPROCS %v",
		values["go_gc_gogc_percent"], values["go_gc_gomemlimit_bytes"]/mib, values["go_sched_gomaxprocs_threads"]), nil
}

// profile saves a heap profile when the load has gone on for a while.
func (g *gateway) profile(file string) {
	time.Sleep(3 * time.Second)
	res, err := http.Get(g.admin + "/debug/pprof/heap")
	if err != nil {
		return
	}
	defer res.Body.Close()
	raw, _ := io.ReadAll(res.Body)
	_ = os.WriteFile(file, raw, 0o644)
}

// freeAddr is an address of the loopback interface that nobody listens on.
func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}
