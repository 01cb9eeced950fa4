package check

// What runs: the gateway, the sandbox in WeChat's place, a way between them on which
// the token endpoint can be killed, and Prometheus.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// The accounts. The gateway has a wrong secret for the last.
const (
	appBusy   = "wxbusy0000000000" // has all the traffic
	appOutage = "wxoutage00000000" // loses its token when the token endpoint is killed
	appWrong  = "wxwrong000000000"
	secret    = "sentinel-secret-of-the-apps"
)

type stack struct {
	gateway, admin, sandbox string // base URLs
	second                  string // another gateway's admin endpoint
	tokenEndpointDead       atomic.Bool
	prometheus              promv1.API
}

// caddyBinary is a Caddy with the plugin.
var caddyBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "check")
	if err != nil {
		panic(err)
	}
	caddyBinary = filepath.Join(dir, "caddy")
	if out, err := exec.Command("go", "build", "-C", "../..", "-o", caddyBinary, "./cmd/caddy").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// start starts everything but Prometheus.
func start(t *testing.T) *stack {
	t.Helper()
	s := new(stack)
	gateway, admin, wechat := freePort(t), freePort(t), freePort(t)
	s.gateway, s.admin, s.sandbox = "http://"+gateway, "http://"+admin, "http://"+wechat

	runCaddy(t, s.sandbox, fmt.Sprintf(`{
	admin off
	persist_config off
}
http://%[1]s {
	bind 127.0.0.1
	wechat_sandbox {
		app %[2]s {env.SECRET}
		app %[3]s {env.SECRET}
		app %[4]s another-{env.SECRET}
	}
}
`, wechat, appBusy, appOutage, appWrong))
	// two gateways of a fleet, the second without traffic
	storage, way := t.TempDir(), s.way(t)
	secondGateway, secondAdmin := freePort(t), freePort(t)
	s.second = "http://" + secondAdmin
	gatewayConfig := `{
	admin %[1]s
	persist_config off
	metrics
	storage file_system %[7]s
}
http://%[2]s {
	bind 127.0.0.1
	metrics /metrics
	handle /cgi-bin/* {
		wechat_media %[3]s {
			app %[4]s {env.SECRET} {
				share_token
			}
			app %[5]s {env.SECRET}
			app %[6]s {env.SECRET}
			app_selector {header.X-App}
			replay_buffer 1MiB
		}
	}
}
`
	runCaddy(t, s.gateway, fmt.Sprintf(gatewayConfig, admin, gateway, way, appBusy, appOutage, appWrong, storage))
	runCaddy(t, s.second, fmt.Sprintf(gatewayConfig, secondAdmin, secondGateway, way, appBusy, appOutage, appWrong, storage))
	return s
}

// way is the sandbox as the gateway reaches it. Once the token endpoint is killed,
// connections to it break.
func (s *stack) way(t *testing.T) string {
	target, err := url.Parse(s.sandbox)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.tokenEndpointDead.Load() && strings.HasSuffix(r.URL.Path, "token") {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func runCaddy(t *testing.T, address, caddyfile string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, address, caddyBinary, "run", "--config", file, "--adapter", "caddyfile")
}

// run starts a program and waits until it listens.
func run(t *testing.T, address, program string, args ...string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "SECRET="+secret, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	runCommand(t, address, cmd)
}

// runCommand starts a command, which ends with the test, and waits until it listens.
func runCommand(t *testing.T, address string, cmd *exec.Cmd) {
	t.Helper()
	var log bytes.Buffer
	program := filepath.Base(cmd.Path)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; deploy/check.sh installs Debian's prometheus", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s:\n%s", program, log.String())
		}
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log of %s has a secret in it", program)
		}
	})
	eventually(t, program+" listens", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// startPrometheus runs Prometheus with the files that are shipped, but for the
// address of the gateway, and for time: it scrapes every second and fires at once.
func (s *stack) startPrometheus(t *testing.T) {
	t.Helper()
	alerts := readAlerts(t)
	for i := range alerts.Groups {
		for j := range alerts.Groups[i].Rules {
			alerts.Groups[i].Rules[j].For = ""
		}
	}
	hasty, err := yaml.Marshal(alerts)
	if err != nil {
		t.Fatal(err)
	}
	config := string(read(t, prometheusFile))
	for old, new := range map[string]string{
		"gateway-1:9180": strings.TrimPrefix(s.admin, "http://"),
		"gateway-2:9180": strings.TrimPrefix(s.second, "http://"),
		": 15s\n":        ": 1s\n",
	} {
		if !strings.Contains(config, old) {
			t.Fatalf("%s has no %q", prometheusFile, old)
		}
		config = strings.ReplaceAll(config, old, new)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"alerts.yml": string(hasty), "prometheus.yml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := freePort(t)
	run(t, "http://"+address, "prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "tsdb"), "--web.listen-address="+address, "--log.level=warn")
	client, err := api.NewClient(api.Config{Address: "http://" + address})
	if err != nil {
		t.Fatal(err)
	}
	s.prometheus = promv1.NewAPI(client)
	eventually(t, "Prometheus has scraped the gateways", func() bool { return len(s.query(t, `up{job="caddy"} == 1`)) == 2 })
}

func (s *stack) query(t *testing.T, expr string) model.Vector {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	v, warnings, err := s.prometheus.Query(ctx, expr, time.Now())
	if err != nil {
		t.Logf("%s: %v", expr, err) // it may still be starting
		return nil
	}
	if len(warnings) > 0 {
		t.Errorf("%s: %s", expr, warnings)
	}
	return v.(model.Vector)
}

// scrape reads a page of metrics: the label names of each series' name.
func scrape(t *testing.T, address string) map[string]map[string]bool {
	t.Helper()
	res, err := http.Get(address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]map[string]bool{}
	for name, family := range families {
		labels := map[string]bool{}
		for _, m := range family.Metric {
			for _, l := range m.Label {
				labels[l.GetName()] = true
			}
		}
		names[name] = labels
		if family.Metric[0].Histogram != nil {
			names[name+"_bucket"], names[name+"_count"], names[name+"_sum"] = labels, labels, labels
		}
	}
	return names
}

// fault asks something of the sandbox.
func (s *stack) fault(t *testing.T, what string) {
	t.Helper()
	res, err := http.Post(s.sandbox+"/sandbox/"+what, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", what, body)
	}
}

// upload sends a picture of a size, and returns its media_id if WeChat took it.
func (s *stack) upload(t *testing.T, app string, size int) (mediaID string, errcode int) {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("media", "picture.jpg")
	if err != nil {
		t.Fatal(err)
	}
	picture := make([]byte, size)
	copy(picture, "\xff\xd8\xff")
	_, _ = part.Write(picture)
	_ = form.Close()
	req, err := http.NewRequest(http.MethodPost, s.gateway+"/cgi-bin/media/upload?type=image", &body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	return s.do(t, app, req)
}

func (s *stack) download(t *testing.T, app, mediaID string) (errcode int) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.gateway+"/cgi-bin/media/get?media_id="+mediaID, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, errcode = s.do(t, app, req)
	return errcode
}

func (s *stack) do(t *testing.T, app string, req *http.Request) (mediaID string, errcode int) {
	t.Helper()
	req.Header.Set("X-App", app)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var reply struct {
		Errcode int    `json:"errcode"`
		MediaID string `json:"media_id"`
	}
	_ = json.Unmarshal(body, &reply) // media are none
	return reply.MediaID, reply.Errcode
}

// hasToken asks the admin API.
func (s *stack) hasToken(app string) bool {
	res, err := http.Get(s.admin + "/wechat/tokens")
	if err != nil {
		return false
	}
	defer res.Body.Close()
	var tokens []struct {
		AppID    string `json:"app_id"`
		HasToken bool   `json:"has_token"`
	}
	_ = json.NewDecoder(res.Body).Decode(&tokens)
	for _, tok := range tokens {
		if tok.AppID == app {
			return tok.HasToken
		}
	}
	return false
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 300 {
		if f() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("it never happened that %s", what)
}

func freePort(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
