//go:build unix

package faults

// Callers that leave. The gateway runs in this process, so that a goroutine that
// it leaves behind can be seen.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/goleak"

	_ "github.com/caddy-wechat/caddy-wechat-media"
)

// patient is an upstream that notes when its transfers end.
type patient struct {
	mu        sync.Mutex
	transfers map[string]*transfer
}

// transfer is one request as the upstream sees it.
type transfer struct {
	begun, ended chan struct{}
	endedAt      time.Time
}

// transfer returns the one with a key.
func (p *patient) transfer(key string) *transfer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.transfers[key] == nil {
		p.transfers[key] = &transfer{begun: make(chan struct{}), ended: make(chan struct{})}
	}
	return p.transfers[key]
}

func (p *patient) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "token") {
		fmt.Fprintf(rw, `{"access_token":"%s","expires_in":7200}`, wireToken)
		return
	}
	key := r.URL.Query().Get("media_id")
	if r.Method == http.MethodPost {
		key = r.UserAgent()
	}
	kind, _, _ := strings.Cut(key, "_")
	tr := p.transfer(key)
	begin := sync.OnceFunc(func() { close(tr.begun) })
	manners[kind](rw, r, begin)
	tr.endedAt = time.Now()
	close(tr.ended)
}

// manners are those of the upstream. Each returns when the transfer has ended.
var manners = map[string]func(rw http.ResponseWriter, r *http.Request, begin func()){
	"sends-fast": func(rw http.ResponseWriter, r *http.Request, begin func()) { send(rw, r, begin, 256<<10, 0) },
	"sends-slowly": func(rw http.ResponseWriter, r *http.Request, begin func()) {
		send(rw, r, begin, 10<<10, 50*time.Millisecond)
	},
	"sends-some-and-stalls": func(rw http.ResponseWriter, r *http.Request, begin func()) { send(rw, r, begin, 100<<10, time.Hour) },
	"does-not-answer": func(_ http.ResponseWriter, r *http.Request, begin func()) {
		begin()
		<-r.Context().Done()
	},
	"takes-fast":   func(_ http.ResponseWriter, r *http.Request, begin func()) { take(r, begin, 0) },
	"takes-slowly": func(_ http.ResponseWriter, r *http.Request, begin func()) { take(r, begin, 50*time.Millisecond) },
	"takes-all-and-does-not-answer": func(_ http.ResponseWriter, r *http.Request, begin func()) {
		_, _ = io.Copy(io.Discard, r.Body)
		begin()
		<-r.Context().Done()
	},
}

func send(rw http.ResponseWriter, r *http.Request, begin func(), piece int, pause time.Duration) {
	rw.Header().Set("Content-Disposition", "attachment")
	rw.Header().Set("Content-Length", fmt.Sprint(1<<40))
	for buf := make([]byte, piece); ; {
		if _, err := rw.Write(buf); err != nil {
			return
		}
		if err := http.NewResponseController(rw).Flush(); err != nil {
			return
		}
		begin()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(pause):
		}
	}
}

func take(r *http.Request, begin func(), pause time.Duration) {
	for buf := make([]byte, 100<<10); ; time.Sleep(pause) {
		if _, err := io.ReadFull(r.Body, buf); err != nil {
			return
		}
		begin()
	}
}

// asOnTheInternet gives a socket packets of the size that they have there, and
// little memory in the kernel. Over the loopback interface the kernel takes
// megabytes off the hands of whoever sends, which arrive whether he leaves or not.
func asOnTheInternet(_, _ string, c syscall.RawConn) error {
	var errs []error
	errs = append(errs, c.Control(func(fd uintptr) {
		errs = append(errs, syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1400),
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10),
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 64<<10))
	}))
	return errors.Join(errs...)
}

// startPatient runs a patient until the test ends.
func startPatient(t *testing.T, p *patient) *httptest.Server {
	t.Helper()
	up := httptest.NewUnstartedServer(p)
	up.Listener.Close()
	var err error
	if up.Listener, err = (&net.ListenConfig{Control: asOnTheInternet}).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	up.Start()
	t.Cleanup(up.Close)
	return up
}

// newInProcess is a gateway to be loaded into this process, and its callers.
func newInProcess(t *testing.T) (*server, []caller) {
	t.Helper()
	t.Setenv("REAL_SECRET", secret)
	g := newServer(t)
	g.global = "log {\n\t\toutput discard\n\t}"
	from := callers(t)[:2]
	for _, c := range from {
		c.client.Transport.(*http.Transport).DialContext = (&net.Dialer{Control: asOnTheInternet}).DialContext
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	return g, from
}

// loadInProcess has the gateway run in this process.
func loadInProcess(t *testing.T, g *server, upstream string, options ...string) {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(g.caddyfile(upstream, options...)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
}

// leaver is a way to begin a transfer that its caller will not see the end of.
type leaver struct {
	manner string                              // of the upstream
	size   int64                               // of an upload
	body   func(ctx context.Context) io.Reader // of an upload
}

var leavers = []leaver{
	{manner: "sends-fast"},
	{manner: "sends-slowly"},
	{manner: "sends-some-and-stalls"},
	{manner: "does-not-answer"},
	{"takes-fast", 10 << 20, func(ctx context.Context) io.Reader { // from a caller who is slow
		return io.MultiReader(io.LimitReader(zeros{}, 1<<20), halt{ctx})
	}},
	{"takes-slowly", 20 << 20, func(context.Context) io.Reader { return zeros{} }},
	{"takes-all-and-does-not-answer", 1 << 20, func(context.Context) io.Reader { return zeros{} }},
}

// zeros is no end of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// halt is a body that does not go on.
type halt struct{ ctx context.Context }

func (h halt) Read([]byte) (int, error) { <-h.ctx.Done(); return 0, h.ctx.Err() }

// leave begins a transfer, leaves in the middle of it, and returns how long the
// upstream went on.
func (l leaver) leave(t *testing.T, p *patient, g *server, from caller, key string) time.Duration {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, from.base(g)+"/media/"+key, nil)
	if l.body != nil {
		req, _ = http.NewRequestWithContext(ctx, http.MethodPost, from.base(g)+"/media", io.LimitReader(l.body(ctx), l.size))
		req.ContentLength = l.size
		req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		req.Header.Set("User-Agent", key)
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		if res, err := from.client.Do(req); err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if err == nil {
				t.Errorf("%s %s: answered", from.proto, key)
			}
		}
	}()
	tr := p.transfer(key)
	select {
	case <-tr.begun:
		time.Sleep(100 * time.Millisecond) // let it get going
	case <-time.After(patience):
		t.Errorf("%s %s: the transfer does not begin", from.proto, key)
	}
	leaving := time.Now()
	cancel()
	<-left
	select {
	case <-tr.ended:
		return tr.endedAt.Sub(leaving)
	case <-time.After(8 * time.Second): // the slowest would take 10
		t.Errorf("%s %s: the transfer does not end", from.proto, key)
		return time.Since(leaving)
	}
}

// leaveAll has callers of every kind leave, those of a kind all at once, and
// returns how long their transfers went on after that.
func leaveAll(t *testing.T, p *patient, g *server, from []caller, name string, atOnce int) map[string][]time.Duration {
	took := make(map[string][]time.Duration)
	for _, l := range leavers {
		for _, from := range from {
			all := make([]time.Duration, atOnce)
			var callers sync.WaitGroup
			for i := range all {
				callers.Go(func() {
					all[i] = l.leave(t, p, g, from, fmt.Sprintf("%s_%s_%s_%d", l.manner, name, from.proto[5:6], i))
				})
			}
			callers.Wait()
			slices.Sort(all)
			took[from.proto+" "+l.manner] = all
		}
	}
	return took
}

// A caller that leaves ends the transfer from or to WeChat, at whatever stage it
// is, and leaves nothing behind in the gateway.
func TestLeavingCallers(t *testing.T) {
	p := &patient{transfers: make(map[string]*transfer)}
	up := startPatient(t, p)
	g, from := newInProcess(t)

	for _, buffer := range []string{"1GiB", "32KiB"} { // uploads are kept, or not
		loadInProcess(t, g, up.URL, "replay_buffer "+buffer, "max_upload_size 20MiB")
		idle := func() { // so that connections that wait for a next request do not count
			up.CloseClientConnections()
			for _, c := range from {
				c.client.CloseIdleConnections()
			}
		}
		leaveAll(t, p, g, from, "warm-up-"+buffer, 2) // what a process begins once, and goes on with
		idle()
		time.Sleep(time.Second)
		before := goleak.IgnoreCurrent()
		took := leaveAll(t, p, g, from, "leave-"+buffer, 20)
		var leaked error
		if !eventually(t, func() bool { idle(); leaked = goleak.Find(before); return leaked == nil }) {
			t.Errorf("replay_buffer %s: %v", buffer, leaked)
		}
		for _, kind := range slices.Sorted(maps.Keys(took)) {
			n := len(took[kind])
			t.Logf("replay_buffer %-5s  %-39s %d callers left; half of the transfers ended within %v, all within %v",
				buffer, kind, n, took[kind][n/2].Round(time.Millisecond), took[kind][n-1].Round(time.Millisecond))
		}
	}
}

// Callers leave while WeChat takes no more of their uploads, which the gateway
// cannot learn from WeChat's side.
func TestLeavingWhileWechatStandsStill(t *testing.T) {
	release := make(chan struct{})
	p := &patient{transfers: make(map[string]*transfer)}
	manners["takes-some-and-stalls"] = func(_ http.ResponseWriter, r *http.Request, begin func()) {
		_, _ = io.ReadFull(r.Body, make([]byte, 10<<10))
		begin()
		<-release
	}
	up := startPatient(t, p)
	defer close(release)
	g, from := newInProcess(t)
	loadInProcess(t, g, up.URL, "replay_buffer 1GiB")
	for _, c := range from {
		ctx, cancel := context.WithCancel(t.Context())
		var left sync.WaitGroup
		for i := range 20 {
			key := fmt.Sprintf("takes-some-and-stalls_%s_%d", c.proto, i)
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, c.base(g)+"/media", io.LimitReader(zeros{}, 10<<20))
			req.ContentLength = 10 << 20
			req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
			req.Header.Set("User-Agent", key)
			left.Go(func() { _ = c.do(req) })
			<-p.transfer(key).begun
		}
		if n := g.underWay(t); n != 20 {
			t.Errorf("%s: %d uploads are under way", c.proto, n)
		}
		time.Sleep(200 * time.Millisecond)
		leaving := time.Now()
		cancel()
		left.Wait()
		if !eventually(t, func() bool { return g.underWay(t) == 0 }) {
			t.Errorf("%s: %d uploads of callers who left are still under way", c.proto, g.underWay(t))
			continue
		}
		t.Logf("%s: 20 callers left; their uploads ended within %v", c.proto, time.Since(leaving).Round(time.Millisecond))
	}
}

// underWay is how many requests the gateway has under way with WeChat.
func (g *server) underWay(t *testing.T) (n int) {
	t.Helper()
	res, err := http.Get(g.admin + "/reverse_proxy/upstreams")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var upstreams []struct {
		NumRequests int `json:"num_requests"`
	}
	if err := json.NewDecoder(res.Body).Decode(&upstreams); err != nil {
		t.Fatal(err)
	}
	for _, u := range upstreams {
		n += u.NumRequests
	}
	return n
}
