package tokensource

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// always is a client that gets the same answer each time, and counts.
func always(calls *atomic.Int64, status int, body string) *http.Client {
	return &http.Client{Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
		calls.Add(1)
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	})}
}

// manage starts a manager of source's tokens, which ends with the test.
func manage(t *testing.T, source token.Source, req token.Request) *token.Manager {
	traits := source.Traits()
	m := token.NewManager(token.Identity{AppID: "wxapp", Issuer: "weixin.qq.com", Source: traits.Identity}, traits)
	binding := m.Attach(token.Binding{Source: source, Request: req})
	binding.Start()
	t.Cleanup(func() {
		binding.Detach()
		m.Close()
	})
	return m
}

// A change is picked up within 5 seconds; while the file is missing or torn, the
// token that was in it stays.
func TestFileManaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		f := &File{Path: path}
		mustProvision(t, f)
		m := manage(t, f, token.Request{})
		if _, err := m.Token(t.Context()); err == nil {
			t.Fatal("a token without a file")
		}
		if s := m.Status(); s.Failure != token.KindFile || !strings.Contains(s.Hint, "token file") {
			t.Errorf("status is %+v", s)
		}
		write := func(content string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(pollInterval)
			synctest.Wait()
		}
		check := func(want string) *token.Token {
			t.Helper()
			tok, err := m.Token(t.Context())
			if err != nil || tok.Secret() != want {
				t.Fatalf("got %v, %v; want %s", tok, err, want)
			}
			return tok
		}
		write("first")
		check("first")
		write("")
		_ = os.Remove(path)
		time.Sleep(10 * time.Minute)
		check("first")
		write("second")
		check("second")
		time.Sleep(5 * time.Hour) // it stays as long as the file does
		tok := check("second")
		if s := m.Status(); s.Failure != "" {
			t.Errorf("status is %+v", s)
		}
		if next, err := m.Reject(t.Context(), tok, 40001); err != nil || next.Secret() != "second" {
			t.Errorf("got %v", err)
		}
		write("third")
		check("third")
	})
}

// WeCom blocks an address for an hour after 2,000 wrong calls in one.
func TestWeComWrongSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		m := manage(t, new(WeCom), token.Request{AppID: "ww1/2", AppSecret: sentinelSecret, BaseURL: "https://h",
			Client: always(&calls, 200, `{"errcode":40001,"errmsg":"invalid credential"}`)})
		for hour := range 2 {
			before := calls.Load()
			for range 3600 { // a request each second
				_, err := m.Token(t.Context())
				if err == nil {
					t.Fatal("a token")
				}
				checkNoSecret(t, err)
				time.Sleep(time.Second)
			}
			if made := calls.Load() - before; made < 10 || made > 60 {
				t.Errorf("%d calls in hour %d", made, hour)
			}
		}
		if s := m.Status(); s.Failure != token.KindSecret || s.Errcode != 40001 || !strings.Contains(s.Hint, "WeCom admin") {
			t.Errorf("status is %+v", s)
		}
	})
}

// What the operator is told fits the source.
func TestManagedHints(t *testing.T) {
	for _, tc := range []struct {
		source token.Source
		status int
		body   string
		kind   token.Kind
		hint   string
	}{
		{new(Stable), 200, `{"errcode":40164,"errmsg":"invalid ip 203.0.113.9"}`, token.KindIP, "add 203.0.113.9 to the IP whitelist"},
		{new(WeCom), 200, `{"errcode":60020,"errmsg":"from ip: 203.0.113.9"}`, token.KindIP, "add 203.0.113.9 to the trusted addresses"},
		{new(WeCom), 502, ``, token.KindReply, "WeCom's token endpoint"},
		{&Server{URL: "http://h/"}, 302, ``, token.KindReply, "the URL that it redirects to"},
		{&Server{URL: "http://h/"}, 200, `{"code":401}`, token.KindReply, "token_field access_token"},
		{&Server{URL: "http://h/"}, 200, `{"errcode":40164,"errmsg":"invalid ip 203.0.113.9"}`, token.KindIP, "add 203.0.113.9 to the IP whitelist"},
		{&Server{URL: "http://h/?key=SENTINEL"}, 200, `{"errcode":40164,"errmsg":"invalid ip 203.0.113.9, SENTINEL"}`, token.KindIP, "add 203.0.113.9 to"},
		{&Server{URL: "http://h/"}, 200, `{"errcode":61004,"errmsg":""}`, token.KindIP, "add the token server's public IP address to the IP whitelist"},
		{&Server{URL: "http://h/"}, 200, `{"errcode":45009,"errmsg":"quota"}`, token.KindQuota, "the token server has used up its quota"},
	} {
		if s, ok := tc.source.(*Server); ok {
			mustProvision(t, s)
		}
		if s := told(t, tc.source, tc.status, tc.body); s.Failure != tc.kind || !strings.Contains(s.Hint, tc.hint) {
			t.Errorf("got %s: %s (%s); want %s: %s", s.Failure, s.Error, s.Hint, tc.kind, tc.hint)
		}
	}
}

// told returns what the operator is told of an answer that has no token.
func told(t *testing.T, source token.Source, status int, body string) (s token.Status) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		m := manage(t, source, token.Request{AppID: "wxapp", AppSecret: sentinelSecret, BaseURL: "https://h", Client: always(&calls, status, body)})
		if _, err := m.Token(t.Context()); err == nil {
			t.Error("a token")
		}
		s = m.Status()
	})
	return s
}
