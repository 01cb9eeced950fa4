package faults

// Every fault of Toxiproxy's, in both directions, for downloads and uploads.

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
)

// faultCase is what befalls the connections to WeChat, and what may come of it.
type faultCase struct {
	name     string
	toxics   []toxic
	download []outcome
	upload   []outcome
}

var (
	fine    = []outcome{right}
	failing = []outcome{honest, broken}
	either  = []outcome{right, honest, broken}
)

func from(kind string, attributes map[string]int) toxic {
	return toxic{Type: kind, Stream: "downstream", Attributes: attributes}
}

func to(kind string, attributes map[string]int) toxic {
	return toxic{Type: kind, Stream: "upstream", Attributes: attributes}
}

// toxicCases are the faults; get and up are the bytes of a whole reply to a
// download, and of a whole upload, on the wire.
func toxicCases(get, head, up int) []faultCase {
	type attrs = map[string]int
	cases := []faultCase{
		{"nothing", nil, fine, fine},
		{"latency", []toxic{from("latency", attrs{"latency": 100, "jitter": 50}), to("latency", attrs{"latency": 100})}, fine, fine},
		{"little bandwidth", []toxic{from("bandwidth", attrs{"rate": 1000}), to("bandwidth", attrs{"rate": 1000})}, fine, fine},
		{"small packets", []toxic{from("slicer", attrs{"average_size": 700, "size_variation": 600, "delay": 20}), to("slicer", attrs{"average_size": 700, "size_variation": 600, "delay": 20})}, fine, fine},
		{"slow close", []toxic{from("slow_close", attrs{"delay": 500}), to("slow_close", attrs{"delay": 500})}, fine, fine},
		{"reset at once", []toxic{from("reset_peer", attrs{"timeout": 0})}, failing, failing},
		{"reset later", []toxic{from("reset_peer", attrs{"timeout": 200})}, failing, failing},
		{"reset on the way there", []toxic{to("reset_peer", attrs{"timeout": 0})}, failing, failing},
		{"stalls", []toxic{from("timeout", attrs{"timeout": 0})}, failing, failing},
		{"stalls, then closes", []toxic{from("timeout", attrs{"timeout": 200})}, failing, failing},
		{"stalls on the way there", []toxic{to("timeout", attrs{"timeout": 0})}, failing, failing},
		{"slow and cut", []toxic{from("bandwidth", attrs{"rate": 1000}), from("limit_data", attrs{"bytes": get / 2})}, failing, either},
		{"sliced and cut", []toxic{from("slicer", attrs{"average_size": 700, "size_variation": 600}), from("limit_data", attrs{"bytes": get - 1})}, failing, either},
	}
	for _, at := range placesIn(head, get-head) {
		want := failing
		if at.n == get {
			want = fine
		}
		cases = append(cases, faultCase{"cut " + at.name, []toxic{from("limit_data", attrs{"bytes": at.n})}, want, either})
	}
	for _, n := range []int{0, 1, 50, 400, 16<<10 - 1, 16 << 10, 16<<10 + 1, up / 2, up - 1} {
		cases = append(cases, faultCase{fmt.Sprintf("cut after %d bytes on the way there", n), []toxic{to("limit_data", attrs{"bytes": n})}, either, failing})
	}
	return cases
}

// lane is a gateway and a host of its own before WeChat.
type lane struct {
	w       *wechat
	h       *host
	g       *server
	from    []caller
	content []byte // of a file that is there to be downloaded
	id      string
}

func newLane(t *testing.T, w *wechat, options ...string) *lane {
	t.Helper()
	l := &lane{w: w, h: startHost(t, w.addr), from: callers(t), content: gateway.Picture(150_000)}
	l.g = startGateway(t, l.h.url, options...)
	contentType, body := form(l.content)
	a := l.from[0].upload(l.g, contentType, body, true, "")
	if l.id = mediaIDOf(a); l.id == "" {
		t.Fatal(a)
	}
	return l
}

// Whatever happens between the gateway and WeChat, a caller gets the right bytes
// or learns that it does not, and an upload that is right is stored once.
func TestToxics(t *testing.T) {
	t.Parallel()
	w := startWechat(t)
	var work sync.WaitGroup
	first, jobs := startLanes(t, &work, w, 4)
	_, stallJobs := startLanes(t, &work, w, 4, quick)
	get := len(rawReply(t, w, first.id))
	for _, c := range toxicCases(get, get-len(first.content), len(first.content)+400) {
		to := jobs
		if slices.ContainsFunc(c.toxics, func(tox toxic) bool { return tox.Type == "timeout" }) {
			to = stallJobs
		}
		to <- func(l *lane) { l.downloads(t, c) }
		to <- func(l *lane) { l.uploads(t, c) }
	}
	close(jobs)
	close(stallJobs)
	work.Wait()
}

// startLanes has a number of lanes do jobs, and returns one of them.
func startLanes(t *testing.T, work *sync.WaitGroup, w *wechat, n int, options ...string) (one *lane, jobs chan func(*lane)) {
	t.Helper()
	jobs = make(chan func(*lane), 100)
	for range n {
		l := newLane(t, w, options...)
		one = l
		work.Go(func() {
			for job := range jobs {
				job(l)
			}
			if !eventually(t, func() bool { return l.g.metric(t, "caddy_wechat_replay_buffer_bytes") == 0 }) {
				t.Error("memory is kept for uploads that have ended")
			}
		})
	}
	return one, jobs
}

// strike lets something befall the host's next connections, and the gateway need
// one.
func (l *lane) strike(toxics []toxic) {
	l.h.weather(toxics...)
	l.h.hangUp()
}

func (l *lane) downloads(t *testing.T, c faultCase) {
	for _, from := range l.from {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			l.strike(c.toxics)
			a := from.get(l.g, method, "/media/"+l.id)
			want := c.download
			if method == http.MethodHead && !slices.Contains(want, right) {
				want = append(slices.Clone(want), right) // the headers may be through
			}
			if got := judge(a, method, l.content); !slices.Contains(want, got) {
				t.Errorf("%s; %s %s: got %s, not one of %s: %v", c.name, from.proto, method, got, want, a)
			}
		}
	}
}

func (l *lane) uploads(t *testing.T, c faultCase) {
	for _, from := range l.from[:2] { // HTTP/1.0 is no different here
		for _, known := range []bool{true, false} {
			l.strike(c.toxics)
			content := gateway.Picture(len(l.content))
			contentType, body := form(content)
			a := from.upload(l.g, contentType, body, known, "")
			got, copies := judgeUpload(a), l.w.copies(content)
			if !slices.Contains(c.upload, got) || copies > mostCopies || got == right && copies != 1 {
				t.Errorf("%s; %s upload, length known %t: got %s, not one of %s, stored %d times: %v", c.name, from.proto, known, got, c.upload, copies, a)
			}
		}
	}
}

// mostCopies is how often an upload may be stored whose caller gets an error: twice,
// if the gateway could take its first connection for one that had died while it waited.
const mostCopies = 2

// judgeUpload is judge for an answer whose media_id nobody knows beforehand.
func judgeUpload(a answer) outcome {
	switch {
	case mediaIDOf(a) != "":
		return right
	case os.IsTimeout(a.err):
		return hangs
	case a.err != nil:
		return broken
	case a.status >= 400 && isRefusal(a, http.MethodPost), a.status >= 500 && len(a.body) == 0: // the host's own
		return honest
	}
	return wrong
}

// rawReply is a download as it goes over the wire.
func rawReply(t *testing.T, w *wechat, id string) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /cgi-bin/media/get?access_token=%s&media_id=%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
		url.QueryEscape(w.CurrentToken(appID)), id, w.addr)
	var raw strings.Builder
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		raw.Write(buf[:n])
		if err != nil {
			// the gateway's connection stays open, whose reply says nothing of it
			return []byte(strings.Replace(raw.String(), "Connection: close\r\n", "", 1))
		}
	}
}
