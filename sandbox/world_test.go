package sandbox

// What the tests stand on.

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	appID  = "wx0123456789abcdef"
	secret = "secret-of-the-app"

	corpID, agentA, agentB  = "ww0123456789abcdef", "ww0123456789abcdef/1000001", "ww0123456789abcdef/1000002"
	secretA, secretB, loner = "secret-of-agent-a", "secret-of-agent-b", "ww2"
	jpegHead, mp4Head       = "\xff\xd8\xff", "\x00\x00\x00\x20ftypisom"
)

// jpeg is a picture of so many bytes, as far as WeChat looks.
func jpeg(size int) string { return jpegHead + strings.Repeat("x", size-len(jpegHead)) }

// world is a sandbox with a clock that stands still until it is moved.
type world struct {
	t *testing.T
	*Server
	URL string

	mu  sync.Mutex
	now time.Time
}

func newWorld(t *testing.T, opts Options) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	opts.Apps = map[string]string{appID: secret, "wx2": secret}
	opts.Corps = map[string]string{agentA: secretA, agentB: secretB, loner: secretA}
	opts.Now = func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	w.Server = New(opts)
	srv := httptest.NewServer(w.Server)
	t.Cleanup(srv.Close)
	w.URL = srv.URL
	return w
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) do(method, target, contentType string, body io.Reader) (*http.Response, []byte) {
	w.t.Helper()
	return w.fetch(method, target, http.Header{"Content-Type": {contentType}}, body)
}

// fetch makes a request with the headers that are not empty.
func (w *world) fetch(method, target string, header http.Header, body io.Reader) (*http.Response, []byte) {
	w.t.Helper()
	req, err := http.NewRequest(method, w.URL+target, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for name, values := range header {
		if values[0] != "" {
			req.Header[name] = values
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, b
}

// errcode is that of an answer; 0 for one without.
func errcode(t *testing.T, body []byte) int {
	t.Helper()
	var e struct {
		Errcode int
		Errmsg  string
	}
	if json.Unmarshal(body, &e) == nil && e.Errcode != 0 && !explained.MatchString(e.Errmsg) {
		t.Errorf("errmsg %q has no rid and no hint", e.Errmsg)
	}
	return e.Errcode
}

var explained = regexp.MustCompile(` rid: [0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}$|, hint: \[\d{25}\], from ip: 127\.0\.0\.1, more info at https://\S+\?e=-?\d+$`)

type tokenReply struct {
	AccessToken string `json:"access_token"`
	ExpiresIn   int    `json:"expires_in"`
}

func (w *world) stable(force bool) tokenReply {
	w.t.Helper()
	_, body := w.do("POST", "/cgi-bin/stable_token", "application/json", strings.NewReader(fmt.Sprintf(
		`{"grant_type":"client_credential","appid":%q,"secret":%q,"force_refresh":%t}`, appID, secret, force)))
	return w.parse(body)
}

func (w *world) classic() tokenReply {
	w.t.Helper()
	_, body := w.do("GET", "/cgi-bin/token?grant_type=client_credential&appid="+appID+"&secret="+secret, "", nil)
	return w.parse(body)
}

func (w *world) parse(body []byte) tokenReply {
	w.t.Helper()
	var r tokenReply
	if err := json.Unmarshal(body, &r); err != nil || !regexp.MustCompile(`^[0-9A-Za-z_-]{136,157}$`).MatchString(r.AccessToken) {
		w.t.Fatalf("no token: %s", body)
	}
	return r
}

// check returns the errcode that a token gets; 0 if it is good.
func (w *world) check(token string) int {
	w.t.Helper()
	_, body := w.do("GET", "/cgi-bin/media/get?media_id=none&access_token="+token, "", nil)
	if code := errcode(w.t, body); code != 40007 {
		return code
	}
	return 0
}

// formOf writes a multipart body by hand, so that it can be wrong in every way.
func formOf(disposition, content string) string {
	return "--b0undary\r\nContent-Disposition: " + disposition + "\r\nContent-Type: application/octet-stream\r\n\r\n" + content + "\r\n--b0undary--\r\n"
}

const formType = "multipart/form-data; boundary=b0undary"

func (w *world) upload(mediaType, filename, content string) (int, string) {
	w.t.Helper()
	res, body := w.do("POST", "/cgi-bin/media/upload?type="+mediaType+"&access_token="+w.stable(false).AccessToken, formType,
		strings.NewReader(formOf(`form-data; name="media"; filename="`+filename+`"`, content)))
	var r struct {
		Type      string `json:"type"`
		MediaID   string `json:"media_id"`
		Thumb     string `json:"thumb_media_id"`
		CreatedAt int64  `json:"created_at"`
	}
	if code := errcode(w.t, body); code != 0 {
		return code, ""
	}
	if err := json.Unmarshal(body, &r); err != nil || r.Type != mediaType || r.CreatedAt != w.opts.Now().Unix() {
		w.t.Fatalf("%v: %s", err, body)
	}
	if got := res.Header.Get("Content-Type"); got != "text/plain" {
		w.t.Errorf("an upload is answered as %s", got)
	}
	if mediaType == "thumb" {
		r.MediaID = r.Thumb
	}
	if !regexp.MustCompile(`^[0-9A-Za-z_-]{64}$`).MatchString(r.MediaID) {
		w.t.Fatalf("media_id in %s", body)
	}
	return 0, r.MediaID
}

func (w *world) download(id string) (*http.Response, []byte) {
	w.t.Helper()
	return w.do("GET", "/cgi-bin/media/get?media_id="+id+"&access_token="+w.stable(false).AccessToken, "", nil)
}
