package main

// The gateway's process: how it is started, and what it takes; and the upstream.

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// gateway is a running process.
type gateway struct {
	cmd           *exec.Cmd
	dir           string
	address, base string // of it, and of URLs
	admin         string
}

func startGateway(binary string, up *httptest.Server, protocol int) (*gateway, error) {
	dir, err := os.MkdirTemp("", "memory")
	if err != nil {
		return nil, err
	}
	g := &gateway{dir: dir, address: freeAddr(), admin: freeAddr()}
	g.base = "http://" + g.address
	pemFile, tls := filepath.Join(dir, "pair.pem"), ""
	if err := writePair(up, pemFile); err != nil {
		return nil, err
	}
	if protocol > 0 {
		g.base, tls = "https://"+g.address, "tls "+pemFile+" "+pemFile
	}
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{
	admin %s
	persist_config off
	auto_https off
}
%s {
	bind 127.0.0.1
	%s
	wechat_media %s {
		app wx0123456789abcdef 0123456789abcdef0123456789abcdef
		transport wechat {
			tls_trust_pool file %s
		}
	}
}
`, g.admin, g.base, tls, up.URL, pemFile), 0o600); err != nil {
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
		if newClient(g, protocol).small() == "200" {
			return g, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, errors.Join(g.stop(), fmt.Errorf("the gateway does not come up:\n%s", output))
}

// writePair writes the upstream's certificate, which the gateway trusts and uses itself, and its key.
func writePair(up *httptest.Server, file string) error {
	pair := up.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return err
	}
	out := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	return os.WriteFile(file, out, 0o600)
}

func (g *gateway) stop() error {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
	return os.RemoveAll(g.dir)
}

// memory reads one of the kernel's figures, in MiB.
func (g *gateway) memory(name string) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); fields[0] == name+":" {
			kib, err := strconv.Atoi(fields[1])
			return (kib + 512) / 1024, err
		}
	}
	return 0, fmt.Errorf("/proc has no %s", name)
}

// profile saves a heap profile when the load has gone on for a while.
func (g *gateway) profile(file string) {
	time.Sleep(3 * time.Second)
	res, err := http.Get("http://" + g.admin + "/debug/pprof/heap")
	if err != nil {
		log.Print(err)
		return
	}
	defer res.Body.Close()
	raw, _ := io.ReadAll(res.Body)
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		log.Print(err)
	}
}

// freeAddr is an address of the loopback interface that nobody listens on.
func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// upstream has any media_id, of as many bytes as the media_id says, and keeps nothing.
type upstream struct {
	*httptest.Server
	open, most atomic.Int64 // connections
}

func startUpstream(slow bool) *upstream {
	up := new(upstream)
	up.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "token"):
			fmt.Fprintf(rw, `{"access_token":"%s","expires_in":7200}`, strings.Repeat("t", 100))
		case r.Method == http.MethodPost:
			n, err := io.Copy(io.Discard, slowly(r.Body, slow))
			if err == nil {
				fmt.Fprintf(rw, `{"type":"image","media_id":"%d"}`, n)
			}
		default:
			length := r.URL.Query().Get("media_id")
			n, _ := strconv.ParseInt(length, 10, 64)
			rw.Header().Set("Content-Disposition", "attachment")
			rw.Header().Set("Content-Length", length)
			_, _ = io.Copy(rw, slowly(io.LimitReader(zeros{}, n), slow))
		}
	}))
	up.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			n := up.open.Add(1)
			for most := up.most.Load(); n > most && !up.most.CompareAndSwap(most, n); most = up.most.Load() {
			}
		case http.StateClosed:
			up.open.Add(-1)
		}
	}
	up.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that the gateway opens and does not need
	up.StartTLS()
	return up
}
