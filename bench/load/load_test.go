package load

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/bench/media"
	"github.com/caddy-wechat/caddy-wechat-media/bench/upstream"
)

// Callers without a gateway, of everything there is.
func TestDirect(t *testing.T) {
	s, err := upstream.Start()
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "POST"} {
		for _, size := range media.Sizes {
			result, err := Run(Options{
				URL: "https://" + s.Addr, CA: s.CA, Token: s.Token, Control: s.Control,
				Method: method, Size: size, Concurrency: 3, Duration: 30 * time.Millisecond,
			})
			if err != nil {
				t.Fatalf("%s %d: %v", method, size, err)
			}
			if result.First.Requests != 3 || result.Load <= 0 {
				t.Errorf("%s %d: %+v", method, size, result)
			}
		}
	}
}

// Requests that begin before or end after a window count in part.
func TestWork(t *testing.T) {
	second := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	callers := []*caller{
		{samples: []sample{{second(1), second(1)}, {second(3), second(2)}, {second(5), second(2)}}}, // half of the second is inside
		{samples: []sample{{second(2.5), second(2.5)}, {second(2.75), second(0.25)}, {second(10), second(7.25)}}},
	}
	w := newWindow(callers, mark{at: second(2)}, mark{at: second(3)})
	if want := 0.5 + 0.2 + 1 + 0.25/7.25; math.Abs(w.Work-want) > 1e-9 || w.Requests != 2 || w.Seconds != 1 {
		t.Errorf("%+v, want work %v", w, want)
	}
}

// gateway answers as it should, but for what spoil changes in the n-th reply.
func gateway(t *testing.T, spoil func(w http.ResponseWriter, n int64, body []byte) []byte) string {
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/checks") {
			return
		}
		body := media.Picture(media.Size(r.URL.Path[len(r.URL.Path)-min(len(r.URL.Path), media.IDLength):]))
		if r.Method == "POST" {
			sum := sha256.New()
			_, _ = io.Copy(sum, r.Body)
			body = fmt.Appendf(nil, `{"type":"image","media_id":"%s","created_at":1}`, hex.EncodeToString(sum.Sum(nil)))
		}
		if spoil != nil {
			body = spoil(w, n.Add(1), body)
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func runPlain(url, method string) (*Result, error) {
	return Run(Options{
		URL: url, Control: url, Method: method, Size: 339_721, Concurrency: 4,
		Duration: 60 * time.Millisecond, Window: 20 * time.Millisecond, Gateway: []int{os.Getpid()},
	})
}

func TestPlain(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		result, err := runPlain(gateway(t, nil), method)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		work := 0.0
		for _, w := range result.Windows {
			work += w.Work
		}
		if len(result.Windows) != 3 || math.Abs(work-result.Work) > 1e-6 || result.Gateway <= 0 || result.P50 > result.P99 || result.P99 > result.Max {
			t.Errorf("%s: %+v", method, result)
		}
	}
}

// The first reply is compared, those after it are counted.
func TestWrongRepliesAreErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		method string
		spoil  func(w http.ResponseWriter, n int64, body []byte) []byte
	}{
		"another picture":  {"GET", func(_ http.ResponseWriter, _ int64, b []byte) []byte { b[len(b)-1]++; return b }},
		"another upload":   {"POST", func(_ http.ResponseWriter, _ int64, b []byte) []byte { b[30]++; return b }},
		"a shorter one":    {"GET", onlyLater(func(b []byte) []byte { return b[1:] })},
		"an error":         {"GET", onlyLater(func([]byte) []byte { return []byte(`{"errcode":40001}`) })},
		"an upload's":      {"POST", onlyLater(func([]byte) []byte { return []byte(`{"errcode":40001}`) })},
		"status 502":       {"GET", func(w http.ResponseWriter, n int64, b []byte) []byte { status(w, n); return b }},
		"an upload's, 502": {"POST", func(w http.ResponseWriter, n int64, b []byte) []byte { status(w, n); return b }},
	} {
		if result, err := runPlain(gateway(t, tc.spoil), tc.method); err == nil {
			t.Errorf("%s: %+v", name, result)
		}
	}
}

func onlyLater(spoil func([]byte) []byte) func(http.ResponseWriter, int64, []byte) []byte {
	return func(_ http.ResponseWriter, n int64, b []byte) []byte {
		if n == 1 {
			return b
		}
		return spoil(b)
	}
}

func status(w http.ResponseWriter, n int64) {
	if n > 1 {
		w.WriteHeader(http.StatusBadGateway)
	}
}
