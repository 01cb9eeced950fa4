// Package faults puts a fault-injecting proxy, and upstreams that lie, between the
// gateway and WeChat's stand-in. It is a module of its own so that the plugin does
// not require them.
package faults

// The gateway as people run it: the real binary in a process of its own, with a
// site for HTTP/1.1 and one for HTTP/2.

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	appID  = "wx0123456789abcdef"
	secret = "sentinel-app-secret-0123456789abcdef"
)

var caddyBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		panic(err)
	}
	caddyBinary = filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-C", "../..", "-o", caddyBinary, "./cmd/caddy")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// gateway is a running Caddy.
type gateway struct {
	http, https string // base URLs
	admin       string
	cert, key   string
	global      string // further global options
	log         *lockedBuffer
}

// startGateway runs the gateway until the test ends.
func startGateway(t *testing.T, upstreams string, options ...string) *gateway {
	t.Helper()
	dir := t.TempDir()
	g := &gateway{
		http: "http://" + freeAddr(t), https: "https://" + freeAddr(t), admin: "http://" + freeAddr(t),
	}
	g.cert, g.key = makeCert(t, dir)
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(g.caddyfile(upstreams, options...)), 0o600); err != nil {
		t.Fatal(err)
	}
	log := new(lockedBuffer)
	g.log = log
	cmd := exec.Command(caddyBinary, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "REAL_SECRET="+secret, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.tail(5_000))
		}
		if out := log.String(); strings.Contains(out, secret) || strings.Contains(out, wireToken) || strings.Contains(out, "panic:") {
			t.Error("the log has a secret or a panic in it")
		}
	})
	g.awaitReady(t, log)
	return g
}

// caddyfile is the gateway's configuration.
func (g *gateway) caddyfile(upstreams string, options ...string) string {
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	grace_period 10s
	servers {
		protocols h1 h2
	}
	%s
}
(gateway) {
	bind 127.0.0.1
	wechat_media %s {
		app %s {env.REAL_SECRET}
		%s
	}
}
%s {
	import gateway
}
%s {
	import gateway
	tls %s %s
}
`, strings.TrimPrefix(g.admin, "http://"), g.global, upstreams, appID, strings.Join(options, "\n\t\t"), g.http, g.https, g.cert, g.key)
}

// awaitReady waits until the gateway has its token, if there is one to be had.
func (g *gateway) awaitReady(t *testing.T, log *lockedBuffer) {
	t.Helper()
	for range 200 {
		if res, err := http.Get(g.http + "/cgi-bin/none"); err == nil {
			res.Body.Close()
			if strings.Contains(log.String(), "access token") {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the gateway does not come up:\n%s", log.tail(5_000))
}

// metric is the sum of a metric's values.
func (g *gateway) metric(t testing.TB, name string) (sum float64) {
	t.Helper()
	for _, v := range g.metricBy(t, name, "") {
		sum += v
	}
	return sum
}

// metricBy is a metric's values by one of its labels.
func (g *gateway) metricBy(t testing.TB, name, label string) map[string]float64 {
	t.Helper()
	res, err := http.Get(g.admin + "/metrics")
	if err != nil {
		t.Error(err)
		return nil
	}
	defer res.Body.Close()
	values := make(map[string]float64)
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		n, labels, _ := strings.Cut(series, "{")
		if n != name {
			continue
		}
		_, by, _ := strings.Cut(labels, label+`="`)
		by, _, _ = strings.Cut(by, `"`)
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Error(err)
		}
		values[by] += v
	}
	return values
}

// quick are timeouts for tests in which WeChat stands still.
const quick = "transport wechat {\nread_timeout 2s\nresponse_header_timeout 2s\n}"

// nextPort is where freeAddr goes on looking.
var nextPort atomic.Int64

func init() { nextPort.Store(15_000 + mathrand.Int64N(10_000)) }

// freeAddr is an address of the loopback interface that nobody listens on, and
// that stays free: it is given out once, and is not among those that outgoing
// connections get.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", nextPort.Add(1)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// makeCert puts a certificate of its own for the loopback interface into dir.
func makeCert(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: certDER}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *lockedBuffer) tail(n int) string {
	s := b.String()
	return s[max(0, len(s)-n):]
}
