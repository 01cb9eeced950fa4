package wechatmedia

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// TestMain lets the test binary be a Caddy of its own, for tests that need more
// than one process.
func TestMain(m *testing.M) {
	if os.Getenv("WECHAT_TEST_GATEWAY") != "" {
		runGatewayProcess()
		return
	}
	// package testing has no name for them
	tests := reflect.ValueOf(m).Elem().FieldByName("tests")
	everyTest = *(*[]testing.InternalTest)(tests.Addr().UnsafePointer())
	os.Exit(m.Run())
}

// everyTest are the tests of this package, in the order of their files.
var everyTest []testing.InternalTest

// runGatewayProcess is Caddy with the config that it reads, until its input ends.
func runGatewayProcess() {
	in := bufio.NewReader(os.Stdin)
	config, err := in.ReadBytes('\n')
	if err == nil {
		err = caddy.Load(config, true)
	}
	fmt.Println("loaded:", err)
	_, _ = io.Copy(io.Discard, in)
	_ = caddy.Stop()
}

func init() { caddy.RegisterModule(skewedStorage{}) }

// skewedStorage is the file system as a gateway sees it whose clock is wrong: the
// times in what it stores and loads are moved.
type skewedStorage struct {
	certmagic.Storage `json:"-"`
	Path              string         `json:"path"`
	Skew              caddy.Duration `json:"skew"`
}

func (skewedStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.test_skewed", New: func() caddy.Module { return new(skewedStorage) }}
}

func (s *skewedStorage) CertMagicStorage() (certmagic.Storage, error) {
	s.Storage = &certmagic.FileStorage{Path: s.Path}
	return s, nil
}

func (s *skewedStorage) Load(ctx context.Context, key string) ([]byte, error) {
	raw, err := s.Storage.Load(ctx, key)
	return shift(raw, -time.Duration(s.Skew)), err
}

func (s *skewedStorage) Store(ctx context.Context, key string, value []byte) error {
	return s.Storage.Store(ctx, key, shift(value, time.Duration(s.Skew)))
}

// shift moves every moment in a record.
func shift(raw []byte, by time.Duration) []byte {
	var record map[string]any
	if by == 0 || json.Unmarshal(raw, &record) != nil {
		return raw
	}
	for name, value := range record {
		if at, ok := value.(float64); ok && strings.HasSuffix(name, "_at") {
			record[name] = int64(at) + by.Milliseconds()
		}
	}
	raw, _ = json.Marshal(record)
	return raw
}

// gatewayProcess is a Caddy in a process of its own.
type gatewayProcess struct {
	cmd   *exec.Cmd
	input io.Closer // ends it
	log   bytes.Buffer
	URL   string

	stopped atomic.Bool
	served  atomic.Int64
}

func startGatewayProcess(t *testing.T, app, localAddress, storage, wechatURL string, skew time.Duration) *gatewayProcess {
	t.Helper()
	port := freePort(t)
	out, err := adapt(t, fmt.Sprintf(`{
		admin off
		persist_config off
		auto_https off
		debug
	}
	http://:%s {
		bind 127.0.0.1
		log
		wechat_media %s {
			%s
			transport wechat {
				local_address %s
			}
		}
	}`, port, wechatURL, app, localAddress))
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(out, &config); err != nil {
		t.Fatal(err)
	}
	config["storage"] = map[string]any{"module": "test_skewed", "path": storage, "skew": int64(skew)}
	out, _ = json.Marshal(config)

	p := &gatewayProcess{cmd: exec.Command(os.Args[0]), URL: "http://127.0.0.1:" + port}
	p.cmd.Env = append(os.Environ(), "WECHAT_TEST_GATEWAY=1", "TEST_WECHAT_SECRET="+testSecret, "XDG_DATA_HOME="+storage)
	p.cmd.Stderr = &p.log
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.input = stdin
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	if _, err := stdin.Write(append(out, '\n')); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "loaded: <nil>\n" {
		t.Fatalf("%q %v", line, err)
	}
	return p
}

// stop ends the process, if it has not ended, and waits for it.
func (p *gatewayProcess) stop() {
	_ = p.input.Close()
	impatient := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer impatient.Stop()
	_ = p.cmd.Wait()
}

// Each call of source classic retires the last token, which is replaced after 3 to
// 4.2 s of the 6 that it lives. WeCom's lives to its end, and is asked for some six
// times by then, from when it would have been replaced.
func TestFleetOfProcesses(t *testing.T) {
	secrets := func(id string) map[string]string { return map[string]string{id: testSecret} }
	for name, tc := range map[string]struct {
		app      string
		accounts sandbox.Options
		most     int64 // calls in ten seconds
	}{
		"WeChat": {"app " + testAppID + " {env.TEST_WECHAT_SECRET} {\ntoken classic\n}", sandbox.Options{Apps: secrets(testAppID)}, 6},
		"WeCom":  {"app " + testAgent + " {env.TEST_WECHAT_SECRET} {\ntoken wecom\nshare_token\n}", sandbox.Options{Corps: secrets(testAgent)}, 18},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.accounts.TokenTTL = 6 * time.Second
			runFleet(t, tc.app, sandbox.New(tc.accounts), tc.most)
		})
	}
}

// Three Caddy processes share one directory and an app's token, with clocks that are
// minutes apart. One is killed in the middle of a fetch, with the lock in its
// hands. No request to the others fails, there is about one call for a rotation,
// and neither the secret nor a token is in anything that they write, the storage
// aside.
func runFleet(t *testing.T, app string, w *sandbox.Server, most int64) {
	var calls atomic.Int64
	var hold atomic.Bool
	held := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "token") {
			calls.Add(1)
			if hold.CompareAndSwap(true, false) {
				host, _, _ := net.SplitHostPort(r.RemoteAddr)
				held <- host
				<-r.Context().Done()
				return
			}
		}
		w.ServeHTTP(rw, r)
	}))
	defer srv.Close()

	dir := t.TempDir()
	fleet := map[string]*gatewayProcess{}
	// they go by the address that they call from
	for name, skew := range map[string]time.Duration{"127.0.0.1": 0, "127.0.0.2": 3 * time.Minute, "127.0.0.3": -3 * time.Minute} {
		fleet[name] = startGatewayProcess(t, app, name, dir, srv.URL, skew)
	}
	content := picture(t, 10_000)
	contentType, body := form(t, "a.jpg", content)
	res, err := http.Post(fleet["127.0.0.1"].URL+"/media", contentType, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	reply, _ := io.ReadAll(res.Body)
	res.Body.Close()
	id := uploaded(t, res, reply)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for name, p := range fleet {
		wg.Go(func() {
			for ctx.Err() == nil && !p.stopped.Load() {
				if err := fetchOnce(p.URL+"/media/"+id, content); err != nil && !p.stopped.Load() {
					t.Errorf("process %s: %v", name, err)
				}
				p.served.Add(1)
				time.Sleep(20 * time.Millisecond)
			}
		})
	}

	time.Sleep(4 * time.Second) // a clock that is wrong may cost a call at the start
	before := calls.Load()
	time.Sleep(10 * time.Second)
	if n := calls.Load() - before; n < 2 || n > most {
		t.Errorf("%d calls in 10 s", n)
	}

	hold.Store(true)
	victim := <-held
	fleet[victim].stopped.Store(true)
	if err := fleet[victim].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	before = calls.Load()
	time.Sleep(12 * time.Second)
	if n := calls.Load() - before; n < 1 || n > most+2 {
		t.Errorf("%d calls in the 12 s after the lock's holder was killed", n)
	}
	cancel()
	wg.Wait()

	for name, p := range fleet {
		if n := p.served.Load(); n < 100 {
			t.Errorf("process %s served %d requests", name, n)
		}
	}
	checkLogs(t, fleet, append(w.IssuedTokens(), testSecret))
}

func fetchOnce(url string, want []byte) error {
	res, err := http.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || !bytes.Equal(got, want) {
		return fmt.Errorf("status %d, %d bytes, %v", res.StatusCode, len(got), err)
	}
	return nil
}

func checkLogs(t *testing.T, fleet map[string]*gatewayProcess, secrets []string) {
	t.Helper()
	for name, p := range fleet {
		p.stop()
		if p.log.Len() == 0 {
			t.Errorf("process %s logged nothing", name)
		}
		for _, s := range secrets {
			if bytes.Contains(p.log.Bytes(), []byte(s)) {
				t.Errorf("a secret is in the log of process %s", name)
			}
		}
	}
}
