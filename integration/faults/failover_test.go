package faults

// WeChat's second host, when something is wrong with the first.

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
)

// failoverCase is what is wrong with the first host.
type failoverCase struct {
	name     string
	toxics   []toxic
	down     bool // refuses connections
	status   int  // what it answers
	download []outcome
	upload   []outcome
	second   sometimes // whether uploads go to the second host
	size     int       // of uploads
}

type sometimes int

const (
	never sometimes = iota
	always
	maybe // what the host answers before it has the whole upload may arrive, or not
)

func failoverCases() []failoverCase {
	type attrs = map[string]int
	return []failoverCase{
		{name: "nothing", download: fine, upload: fine},
		{name: "refuses connections", down: true, download: fine, upload: fine, second: always},
		{name: "resets", toxics: []toxic{to("reset_peer", attrs{"timeout": 0})}, download: fine, upload: fine, second: always, size: largeFile},
		{name: "takes some of an upload and closes", toxics: []toxic{to("limit_data", attrs{"bytes": 1 << 20})}, download: fine, upload: fine, second: always, size: largeFile},
		{name: "takes a few bytes and closes", toxics: []toxic{to("limit_data", attrs{"bytes": 10})}, download: fine, upload: fine, second: always, size: largeFile},
		{name: "takes everything and stalls", toxics: []toxic{from("timeout", attrs{"timeout": 0})}, download: fine, upload: failing},
		{name: "loses its reply", toxics: []toxic{from("limit_data", attrs{"bytes": 0})}, download: fine, upload: failing},
		{name: "breaks off in the headers", toxics: []toxic{from("limit_data", attrs{"bytes": 100})}, download: fine, upload: failing},
		{name: "breaks off in the body", toxics: []toxic{from("limit_data", attrs{"bytes": 1000})}, download: failing, upload: fine},
		{name: "answers 502", status: http.StatusBadGateway, download: fine, upload: either, second: maybe},
		{name: "answers 503", status: http.StatusServiceUnavailable, download: fine, upload: either, second: maybe},
		{name: "answers 504", status: http.StatusGatewayTimeout, download: fine, upload: either, second: maybe},
	}
}

// largeFile is more than fits between the gateway and a host that takes no more:
// beyond that, what has left the gateway may have arrived.
const largeFile = 9 << 20

// fork is a gateway before two hosts of WeChat's, with a Toxiproxy before the first.
type fork struct {
	lane
	status atomic.Int64    // what the first host answers; 0 for its own answers
	seen   [2]atomic.Int64 // uploads, by host
}

func newFork(t *testing.T, c failoverCase) *fork {
	t.Helper()
	f := &fork{lane: lane{w: startWechat(t), from: callers(t), content: gateway.Picture(300_000)}}
	var addrs [2]string
	for i := range addrs {
		srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/upload") {
				f.seen[i].Add(1)
			}
			if status := f.status.Load(); i == 0 && status != 0 {
				rw.WriteHeader(int(status))
				return
			}
			f.w.ServeHTTP(rw, r)
		}))
		t.Cleanup(srv.Close)
		addrs[i] = strings.TrimPrefix(srv.URL, "http://")
	}
	f.h = startHost(t, addrs[0])
	// the first host is always tried, whatever has happened to it
	options := []string{"fail_duration 1m", "max_fails 100000"}
	if slices.ContainsFunc(c.toxics, func(tox toxic) bool { return tox.Type == "timeout" }) {
		options = append(options, quick)
	}
	f.g = startGateway(t, f.h.url+" http://"+addrs[1], options...)
	contentType, body := form(f.content)
	a := f.from[0].upload(f.g, contentType, body, true, "")
	if f.id = mediaIDOf(a); f.id == "" {
		t.Fatal(a)
	}
	if c.down {
		f.h.down()
	}
	f.status.Store(int64(c.status))
	return f
}

// With a second host a download gets through, unless its bytes were under way
// already. An upload does if the first host certainly has not got it; and one that is
// right is stored once.
func TestFailover(t *testing.T) {
	t.Parallel()
	var work sync.WaitGroup
	for _, c := range failoverCases() {
		for _, run := range []func(*fork, *testing.T, failoverCase){(*fork).downloads, (*fork).uploads} {
			f := newFork(t, c)
			work.Go(func() { run(f, t, c) })
		}
	}
	work.Wait()
}

func (f *fork) downloads(t *testing.T, c failoverCase) {
	for _, from := range f.from {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			f.strike(c.toxics)
			a := from.get(f.g, method, "/media/"+f.id)
			want := c.download
			if method == http.MethodHead {
				want = append(slices.Clone(want), right) // which has no body to break off
			}
			if got := judge(a, method, f.content); !slices.Contains(want, got) {
				t.Errorf("the first host %s; %s %s: got %s, not one of %s: %v", c.name, from.proto, method, got, want, a)
			}
		}
	}
}

func (f *fork) uploads(t *testing.T, c failoverCase) {
	for _, from := range f.from[:2] { // HTTP/1.0 is no different here
		for _, known := range []bool{true, false} {
			f.strike(c.toxics)
			f.seen[1].Store(0)
			content := gateway.Picture(max(c.size, len(f.content)))
			contentType, body := form(content)
			a := from.upload(f.g, contentType, body, known, "")
			got, copies, second := judgeUpload(a), f.w.copies(content), f.seen[1].Load()
			if !slices.Contains(c.upload, got) || copies > mostCopies || got == right && copies != 1 || c.second != maybe && (second > 0) != (c.second == always) {
				t.Errorf("the first host %s; %s upload, length known %t: got %s, not one of %s; stored %d times, sent to the second host %d times: %v",
					c.name, from.proto, known, got, c.upload, copies, second, a)
			}
		}
	}
}
