package faults

// The soak's books: what callers saw, what the gateway counted and what WeChat has,
// and that they agree.

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// books are those of one run.
type books struct {
	s        *soak
	attempts atomic.Int64 // requests that callers put on a connection
	answered atomic.Int64 // of them, those that got at least the headers of an answer
	last     atomic.Uint64
	begin    map[string]float64 // the gateway's counters at the beginning, by class
	gets     int64              // and WeChat's

	mu      sync.Mutex
	results map[string]map[string]int // by kind of call
	classes map[string]int            // of whole answers
	events  map[string]int
	uploads map[uint64]*uploaded // by number
}

// uploaded is one upload: what its caller was told, and what WeChat has.
type uploaded struct {
	sum    [sha256.Size]byte
	told   string
	stored []string
	spoilt bool // WeChat has other bytes
}

func newBooks(s *soak) *books {
	b := &books{
		s: s, begin: s.requests(), gets: s.w.Calls(sandbox.MediaGet), results: make(map[string]map[string]int),
		classes: make(map[string]int), events: make(map[string]int), uploads: make(map[uint64]*uploaded),
	}
	s.w.OnStored(func(id string, content []byte) {
		if len(content) < numberAt+8 {
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if u := b.uploads[binary.BigEndian.Uint64(content[numberAt:])]; u != nil {
			u.stored = append(u.stored, id)
			u.spoilt = u.spoilt || sha256.Sum256(content) != u.sum
		}
	})
	return b
}

// numberAt is where the number of an upload is: behind what makes it a picture.
const numberAt = 3

// newUpload returns a file that no other upload has, and its number, which can be
// read off it.
func (b *books) newUpload(size int) (n uint64, content []byte) {
	n, content = b.last.Add(1), gateway.Picture(max(numberAt+8, size))
	binary.BigEndian.PutUint64(content[numberAt:], n)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.uploads[n] = &uploaded{sum: sha256.Sum256(content)}
	return n, content
}

func (b *books) told(n uint64, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.uploads[n].told = id
}

func (b *books) result(kind, result string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.results[kind] == nil {
		b.results[kind] = make(map[string]int)
	}
	b.results[kind][result]++
}

func (b *books) class(class string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.classes[class]++
}

func (b *books) count(event string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events[event]++
}

// counted is how many requests the gateway has counted since the books were opened,
// by class.
func (b *books) counted() map[string]int64 {
	counted := make(map[string]int64)
	for class, n := range b.s.requests() {
		counted[class] = int64(n - b.begin[class])
	}
	return counted
}

func (s *soak) requests() map[string]float64 {
	return s.g.metricBy(s.t, "caddy_wechat_requests_total", "class")
}

// health is what a process costs when it has nothing to do.
type health struct{ rss, heap, goroutines, kept float64 }

// How much more than before may be on the heap, and resident, at rest, in bytes.
const (
	heapMore = 16 << 20
	rssMore  = 64 << 20
)

// restTime is how long the gateway may take to come to rest: HTTP/2 connections of
// configs that are gone, and what they hold, stay for some of Caddy's and net/http's
// grace periods, and Go gives memory back little by little.
const restTime = 90 * time.Second

// rest waits until the gateway has nothing to do and its memory has come down to goal,
// and returns what is left of it.
func (s *soak) rest(goal health) health {
	for _, c := range s.from {
		c.client.CloseIdleConnections()
	}
	for _, h := range s.hosts {
		h.hangUp()
	}
	var h health
	for begin := time.Now(); ; time.Sleep(time.Second) {
		for range 2 { // pools give back what they have at the second time
			res, err := http.Get(s.g.admin + "/debug/pprof/heap?gc=1")
			if err != nil {
				s.t.Error(err)
				return h
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		last := h
		h = health{
			rss: s.g.metric(s.t, "process_resident_memory_bytes"), heap: s.g.metric(s.t, "go_memstats_heap_alloc_bytes"),
			goroutines: s.g.metric(s.t, "go_goroutines"), kept: s.g.metric(s.t, "caddy_wechat_replay_buffer_bytes"),
		}
		if h.kept == 0 && h.goroutines == last.goroutines && h.heap > last.heap-1<<20 && h.heap <= goal.heap && h.rss <= goal.rss ||
			time.Since(begin) > restTime {
			return h
		}
	}
}

// close compares the books and shows them.
func (b *books) close(t *testing.T, duration time.Duration, before, after health) {
	t.Helper()
	holds := func(what string, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("does not add up: %s", what)
		}
	}
	attempts, answered := b.attempts.Load(), b.answered.Load()
	var counted map[string]int64
	var all int64
	eventually(t, func() bool {
		counted, all = b.counted(), 0
		for _, n := range counted {
			all += n
		}
		return all >= answered
	})
	holds(fmt.Sprintf("answered %d <= counted %d <= attempted %d", answered, all, attempts), answered <= all && all <= attempts)
	unseen := attempts
	for _, n := range b.classes {
		unseen -= int64(n)
	}
	for class := range counted {
		n := int64(b.classes[class])
		holds(fmt.Sprintf("class %s: answers %d <= counted %d <= those and %d that nobody saw the end of", class, n, counted[class], unseen),
			n <= counted[class] && counted[class] <= n+unseen)
	}
	stored, told, lost, twice := b.checkUploads(holds)
	gets := b.s.w.Calls(sandbox.MediaGet) - b.gets
	rightGets := b.results["GET"]["right"] + b.results["HEAD"]["right"]
	holds(fmt.Sprintf("right downloads %d <= WeChat's %d", rightGets, gets), int64(rightGets) <= gets)
	log := b.s.g.Log()
	holds("no token is in the log", !slices.ContainsFunc(b.s.w.IssuedTokens(), func(token string) bool { return strings.Contains(log, token) }))
	holds("nothing but media and tokens was asked of WeChat", b.s.w.Calls(sandbox.Other) == 0)
	fetched, fetches := b.s.g.metricBy(t, "caddy_wechat_token_fetches_total", "result")["ok"], b.s.g.metric(t, "caddy_wechat_token_fetches_total")
	holds(fmt.Sprintf("tokens fetched %v <= WeChat was asked for one %d times", fetched, b.s.w.Calls(sandbox.StableToken)), int64(fetched) <= b.s.w.Calls(sandbox.StableToken))
	holds(fmt.Sprintf("replay memory: %v bytes are kept", after.kept), after.kept == 0)
	holds(fmt.Sprintf("goroutines: %v before, %v after", before.goroutines, after.goroutines), after.goroutines <= before.goroutines+20)
	holds(fmt.Sprintf("heap: %s before, %s after", mib(before.heap), mib(after.heap)), after.heap <= before.heap+heapMore)
	holds(fmt.Sprintf("memory: %s before, %s after", mib(before.rss), mib(after.rss)), after.rss <= before.rss+rssMore)

	var out strings.Builder
	b.table(&out)
	fmt.Fprintf(&out, "\n%v of %d callers; %s.\n\n", duration, soakCallers, listed(b.events))
	fmt.Fprintf(&out, "- Requests put on a connection %d, answered %d, counted by the gateway %d: %s.\n", attempts, answered, all, listed(counted))
	fmt.Fprintf(&out, "- Uploads WeChat has %d, of which the caller was told %d; %d callers saw an error or had left. There are twice %d, and none more often.\n", stored, told, lost, twice)
	fmt.Fprintf(&out, "- Downloads that were right %d, asked of WeChat %d.\n", rightGets, gets)
	fmt.Fprintf(&out, "- Tokens fetched %v, fetches that failed %v; WeChat was asked for one %d times.\n", fetched, fetches-fetched, b.s.w.Calls(sandbox.StableToken))
	fmt.Fprintf(&out, "- Requests whose token was rejected: %s.\n", listed(whole(b.s.g.metricBy(t, "caddy_wechat_replays_total", "outcome"))))
	fmt.Fprintf(&out, "- At rest before and after: resident memory %s, %s; heap %s, %s; goroutines %v, %v; replay memory %v, %v bytes.\n",
		mib(before.rss), mib(after.rss), mib(before.heap), mib(after.heap), before.goroutines, after.goroutines, before.kept, after.kept)
	t.Log("\n" + out.String())
	if file := os.Getenv("SOAK_TABLE"); file != "" && !t.Failed() {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// checkUploads compares what WeChat has with what callers were told. An upload can be
// there twice whose connection died before the first byte of the reply.
func (b *books) checkUploads(holds func(string, bool)) (stored, told, lost, twice int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n, u := range b.uploads {
		stored += min(1, len(u.stored))
		switch {
		case u.told == "":
			lost++
		default:
			told++
			holds(fmt.Sprintf("upload %d: its caller was told %s, WeChat has %s", n, u.told, u.stored), slices.Contains(u.stored, u.told))
		}
		holds(fmt.Sprintf("upload %d has the right bytes", n), !u.spoilt)
		holds(fmt.Sprintf("upload %d is there %d times", n, len(u.stored)), len(u.stored) <= mostCopies)
		if len(u.stored) > 1 {
			twice++
		}
	}
	holds(fmt.Sprintf("uploads: told %d <= stored %d <= told and %d without an answer", told, stored, lost), told <= stored && stored <= told+lost)
	return stored, told, lost, twice
}

// table shows the results of all calls.
func (b *books) table(out *strings.Builder) {
	var columns []string
	for _, results := range b.results {
		for result := range results {
			if !slices.Contains(columns, result) {
				columns = append(columns, result)
			}
		}
	}
	slices.SortFunc(columns, func(x, y string) int {
		first := []string{wechatError, string(right)}
		return cmp.Or(cmp.Compare(slices.Index(first, y), slices.Index(first, x)), cmp.Compare(x, y))
	})
	fmt.Fprintf(out, "| | calls | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---:|", len(columns)+1))
	for _, kind := range slices.Sorted(maps.Keys(b.results)) {
		sum, row := 0, ""
		for _, column := range columns {
			n := b.results[kind][column]
			sum += n
			row += fmt.Sprintf(" %d |", n)
		}
		fmt.Fprintf(out, "| %s | %d |%s\n", kind, sum, row)
	}
}

// listed shows counts that are not 0.
func listed[N int | int64](counts map[string]N) string {
	var list []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		if counts[what] != 0 {
			list = append(list, fmt.Sprintf("%s %d", what, counts[what]))
		}
	}
	return strings.Join(list, ", ")
}

// whole are counts as a registry has them.
func whole(counts map[string]float64) map[string]int64 {
	out := make(map[string]int64)
	for what, n := range counts {
		out[what] = int64(n)
	}
	return out
}

func mib(bytes float64) string { return fmt.Sprintf("%.1f MiB", bytes/(1<<20)) }
