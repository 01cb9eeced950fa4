package faults

// All at once, for a while: callers of every kind, some of whom leave, while
// tokens are revoked, the config is reloaded and the way to WeChat breaks.
// ../soak has a script that does it for three minutes.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// soakCallers is how many there are at a time.
const soakCallers = 120

// soak is one run.
type soak struct {
	t     *testing.T
	w     *wechat
	hosts [2]*host
	g     *server
	from  []caller
	mu    sync.Mutex
	files []file
	books *books
}

// file is something to be downloaded.
type file struct {
	id      string
	content []byte
}

func TestSoak(t *testing.T) {
	duration := 20 * time.Second
	if env := os.Getenv("SOAK"); env != "" {
		var err error
		if duration, err = time.ParseDuration(env); err != nil {
			t.Fatalf("SOAK=%s: %v", env, err)
		}
	}
	s := newSoak(t)
	s.run(2*time.Second, false) // what a process needs once and keeps
	before := s.rest(health{heap: math.Inf(1), rss: math.Inf(1)})

	s.books = newBooks(s)
	s.run(duration, true)
	after := s.rest(health{heap: before.heap + heapMore, rss: before.rss + rssMore})
	s.books.close(t, duration, before, after)
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{t: t, w: startWechat(t), from: soakFrom(t)}
	s.hosts = [2]*host{startHost(t, s.w.addr), startHost(t, s.w.addr)}
	s.g = startGateway(t, s.upstreams(), s.options(0)...)
	s.books = newBooks(s)
	for _, size := range []int{3, 10_000, 300_000, 2 << 20, 10 << 20} {
		content := gateway.Picture(size)
		s.files = append(s.files, file{s.put(content), content})
	}
	return s
}

// put stores a file at WeChat, past the gateway and whatever the weather.
func (s *soak) put(content []byte) (id string) {
	contentType, body := form(content)
	if !eventually(s.t, func() bool {
		token := fmt.Sprintf("%032d", rand.Uint64())
		s.w.AddToken(appID, token, time.Minute)
		res, err := http.Post("http://"+s.w.addr+"/cgi-bin/media/upload?type=image&access_token="+token, contentType, bytes.NewReader(body))
		if err != nil {
			return false
		}
		defer res.Body.Close()
		reply, err := io.ReadAll(res.Body)
		id = mediaIDOf(answer{status: res.StatusCode, body: reply, err: err})
		return id != ""
	}) {
		s.t.Error("WeChat does not take a file")
	}
	return id
}

// renewFiles puts the files there again, because the oldest go when there are many
// uploads.
func (s *soak) renewFiles() {
	for i := range s.files {
		f := s.file(i)
		f.id = s.put(f.content)
		s.mu.Lock()
		s.files[i] = f
		s.mu.Unlock()
	}
}

func (s *soak) file(i int) file {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[i]
}

func (s *soak) upstreams() string { return s.hosts[0].url + " " + s.hosts[1].url }

// options are those of the n-th config.
func (s *soak) options(n int) []string {
	return []string{strings.Replace(quick, "{\n", "{\nwrite_timeout 2s\n", 1), "replay_buffer 8MiB", "fail_duration 1s", "max_fails 10", fmt.Sprintf("header_up X-Config %d", n)}
}

// run has callers call for a while, in fair weather or in foul.
func (s *soak) run(duration time.Duration, foul bool) {
	ctx, cancel := context.WithTimeout(s.t.Context(), duration)
	defer cancel()
	var work sync.WaitGroup
	for i := range soakCallers {
		work.Go(func() {
			for from := s.from[i%len(s.from)]; ctx.Err() == nil; {
				s.oneCall(from, foul)
				time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
			}
		})
	}
	every := func(d time.Duration, f func(n int)) {
		work.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-time.After(d):
					f(n)
				}
			}
		})
	}
	every(5*time.Second, func(int) { s.renewFiles() })
	if foul {
		every(max(1500*time.Millisecond, duration/30), func(int) { s.w.RevokeTokens(appID); s.books.count("tokens revoked") })
		every(400*time.Millisecond, s.reload)
		every(time.Second, func(int) { s.w.Busy(sandbox.MediaGet, 3); s.w.Busy(sandbox.MediaUpload, 1) })
		every(700*time.Millisecond, func(int) { s.w.Cut(sandbox.MediaGet, int64(rand.IntN(300_000)), 2) })
		for i, h := range s.hosts {
			every(time.Duration(500+1500*i)*time.Millisecond, func(int) { s.strike(h, i == 0) })
		}
	}
	work.Wait()
}

// reload puts the n-th config in place, as an operator does.
func (s *soak) reload(n int) {
	res, err := http.Post(s.g.admin+"/load", "text/caddyfile", strings.NewReader(s.g.caddyfile(s.upstreams(), s.options(n)...)))
	if err != nil {
		s.t.Error(err)
		return
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		s.t.Errorf("reloading: status %d", res.StatusCode)
	}
	s.books.count("configs loaded")
}

// strike lets something befall a third of a host's new connections for a while; the
// second host is spared the worst.
func (s *soak) strike(h *host, first bool) {
	type attrs = map[string]int
	faults := []toxic{
		from("latency", attrs{"latency": 100, "jitter": 100}),
		from("bandwidth", attrs{"rate": 2000}),
		to("bandwidth", attrs{"rate": 2000}),
		from("slicer", attrs{"average_size": 1000, "size_variation": 500, "delay": 100}),
		from("limit_data", attrs{"bytes": rand.IntN(100_000)}),
		to("limit_data", attrs{"bytes": rand.IntN(100_000)}),
		from("reset_peer", attrs{"timeout": 10}),
		to("reset_peer", attrs{"timeout": 10}),
		from("timeout", attrs{"timeout": 0}),
		to("timeout", attrs{"timeout": 0}),
	}
	n := len(faults)
	if !first {
		n -= 4
	}
	s.books.count("faults on the way to WeChat")
	pause := time.Duration(100+rand.IntN(300)) * time.Millisecond
	if first && rand.IntN(8) == 0 {
		h.down()
		time.Sleep(pause)
		h.up()
		return
	}
	fault := faults[rand.IntN(n)]
	fault.Toxicity = 0.3
	h.weather(fault)
	time.Sleep(pause)
	h.weather()
}
