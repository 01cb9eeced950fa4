package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	appID  = "wx0123456789abcdef"
	secret = "secret-of-the-app"
)

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
	req, err := http.NewRequest(method, w.URL+target, body)
	if err != nil {
		w.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
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
	if json.Unmarshal(body, &e) == nil && e.Errcode != 0 &&
		!regexp.MustCompile(` rid: [0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}$`).MatchString(e.Errmsg) {
		t.Errorf("errmsg %q has no rid", e.Errmsg)
	}
	return e.Errcode
}

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

// form writes a multipart body by hand, so that it can be wrong in every way.
func form(disposition, content string) string {
	return "--b0undary\r\nContent-Disposition: " + disposition + "\r\nContent-Type: application/octet-stream\r\n\r\n" + content + "\r\n--b0undary--\r\n"
}

const formType = "multipart/form-data; boundary=b0undary"

func (w *world) upload(mediaType, filename, content string) (int, string) {
	w.t.Helper()
	_, body := w.do("POST", "/cgi-bin/media/upload?type="+mediaType+"&access_token="+w.stable(false).AccessToken, formType,
		strings.NewReader(form(`form-data; name="media"; filename="`+filename+`"`, content)))
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

func TestStableToken(t *testing.T) {
	w := newWorld(t, Options{})
	first := w.stable(false)
	if first.ExpiresIn != 7200 {
		t.Errorf("expires_in %d", first.ExpiresIn)
	}
	w.pass(6900 * time.Second)
	if same := w.stable(false); same.AccessToken != first.AccessToken || same.ExpiresIn != 300 {
		t.Errorf("5 minutes before its end: same %t, expires_in %d", same.AccessToken == first.AccessToken, same.ExpiresIn)
	}
	w.pass(time.Second)
	second := w.stable(false)
	if second.AccessToken == first.AccessToken || second.ExpiresIn != 7200 {
		t.Error("not replaced in its last 5 minutes")
	}
	if w.check(first.AccessToken) != 0 || w.check(second.AccessToken) != 0 {
		t.Error("the two do not overlap")
	}
	w.pass(299 * time.Second)
	if got := w.check(first.AccessToken); got != 42001 {
		t.Errorf("at its end: %d", got)
	}
}

func TestStableTokenRefusals(t *testing.T) {
	w := newWorld(t, Options{})
	for body, want := range map[string]int{
		``:                               44002,
		`appid=x`:                        47001,
		`{"appid":"x"`:                   47001,
		`{"secret":"x"}`:                 41002,
		`{"appid":"wx0123456789abcdef"}`: 41004,
		`{"appid":"wx0123456789abcdef","secret":"x"}`:                                             40002,
		`{"grant_type":"client_credential","appid":"wx3","secret":"x"}`:                           40013,
		`{"grant_type":"client_credential","appid":"wx0123456789abcdef","secret":"wrong"}`:        40125,
		`{"grant_type":"authorization_code","appid":"wx0123456789abcdef","secret":"secret-of-x"}`: 40002,
	} {
		if _, got := w.do("POST", "/cgi-bin/stable_token", "application/json", strings.NewReader(body)); errcode(t, got) != want {
			t.Errorf("%s: %s, want %d", body, got, want)
		}
	}
	if _, got := w.do("GET", "/cgi-bin/stable_token", "", nil); errcode(t, got) != 43002 {
		t.Errorf("GET: %s", got)
	}
	if res, got := w.do("POST", "/cgi-bin/stable_token", "application/json", io.MultiReader(strings.NewReader("{}"))); res.StatusCode != 412 || len(got) != 0 {
		t.Errorf("without Content-Length: %d %q", res.StatusCode, got)
	}
}

func TestForceRefresh(t *testing.T) {
	w := newWorld(t, Options{})
	first := w.stable(true).AccessToken
	if w.stable(true).AccessToken != first {
		t.Error("refreshed within 30 s")
	}
	w.pass(30 * time.Second)
	second := w.stable(true).AccessToken
	if second == first {
		t.Error("not refreshed after 30 s")
	}
	if w.check(first) != 0 {
		t.Error("one forced call ended the token before at once")
	}
	w.pass(30 * time.Second)
	w.stable(true)
	if got := w.check(first); got != 40001 {
		t.Errorf("after two forced calls: %d", got)
	}
	w.pass(5*time.Minute + time.Second)
	if got := w.check(second); got != 40001 {
		t.Errorf("after the overlap: %d", got)
	}
	last := ""
	for range 25 {
		w.pass(time.Minute)
		last = w.stable(true).AccessToken
	}
	w.pass(time.Minute)
	if w.stable(true).AccessToken != last {
		t.Error("refreshed more than 20 times a day")
	}
}

func TestToken(t *testing.T) {
	w := newWorld(t, Options{})
	stable := w.stable(false).AccessToken
	first := w.classic()
	second := w.classic()
	if first.AccessToken == second.AccessToken || first.ExpiresIn != 7200 {
		t.Error("a call does not issue a new token of 2 hours")
	}
	w.pass(5*time.Minute - time.Second)
	if w.check(first.AccessToken) != 0 {
		t.Error("no overlap")
	}
	w.pass(time.Second)
	if got := w.check(first.AccessToken); got != 40001 {
		t.Errorf("after 5 minutes: %d", got)
	}
	if w.check(stable) != 0 || w.stable(false).AccessToken != stable {
		t.Error("the two endpoints are not isolated")
	}
	for target, want := range map[string]int{
		"?appid=" + appID + "&secret=" + secret:                          40002,
		"?grant_type=client_credential&secret=" + secret:                 41002,
		"?grant_type=client_credential&appid=" + appID:                   41004,
		"?grant_type=client_credential&appid=wx3&secret=x":               40013,
		"?grant_type=client_credential&appid=" + appID + "&secret=wrong": 40001,
	} {
		if _, got := w.do("GET", "/cgi-bin/token"+target, "", nil); errcode(t, got) != want {
			t.Errorf("%s: %s, want %d", target, got, want)
		}
	}
	if _, got := w.do("POST", "/cgi-bin/token", "", strings.NewReader("x")); errcode(t, got) != 43001 {
		t.Errorf("POST: %s", got)
	}
}

func TestTokenErrors(t *testing.T) {
	w := newWorld(t, Options{})
	good := w.stable(false).AccessToken
	for query, want := range map[string]int{
		"":                                  41001,
		"access_token=":                     41001,
		"access_token=short":                40014,
		"access_token=" + good[:60] + "%20": 40014,
		"access_token=" + good + "&access_token=" + good: 40014,
		"access_token=" + strings.Repeat("a", 136):       40001,
		"Access_Token=" + good:                           41001,
		"access_token=" + good:                           40007,
	} {
		if _, got := w.do("GET", "/cgi-bin/media/get?media_id=none&"+query, "", nil); errcode(t, got) != want {
			t.Errorf("%s: %s, want %d", query, got, want)
		}
	}
	w.RevokeTokens("wx2")
	if w.check(good) != 0 {
		t.Error("another app's tokens were revoked")
	}
	w.RevokeTokens(appID)
	if got := w.check(good); got != 40001 {
		t.Errorf("revoked: %d", got)
	}
	next := w.stable(false).AccessToken
	if next == good || w.CurrentToken(appID) != next {
		t.Error("a revoked token is handed out")
	}
	w.ExpireTokens(appID)
	if got := w.check(next); got != 42001 {
		t.Errorf("expired: %d", got)
	}
	w.AddToken(appID, strings.Repeat("c", 64), time.Minute)
	if _, got := w.do("GET", "/cgi-bin/media/get?media_id=none&cloudbase_access_token="+strings.Repeat("c", 64), "", nil); errcode(t, got) != 40007 {
		t.Errorf("cloudbase: %s", got)
	}
	if n := len(w.IssuedTokens()); n != 3 {
		t.Errorf("%d tokens were issued", n)
	}
}

func TestQuotas(t *testing.T) {
	w := newWorld(t, Options{
		DailyQuota:  map[Endpoint]int{Token: 2, StableToken: 5, MediaGet: 1, MediaUpload: 1},
		MinuteQuota: map[Endpoint]int{StableToken: 3},
	})
	ask := func() int {
		_, body := w.do("POST", "/cgi-bin/stable_token", "", strings.NewReader(
			`{"grant_type":"client_credential","appid":"`+appID+`","secret":"`+secret+`"}`))
		return errcode(t, body)
	}
	for i, want := range []int{0, 0, 0, 45011} {
		if got := ask(); got != want {
			t.Errorf("call %d: %d, want %d", i, got, want)
		}
	}
	w.pass(time.Minute)
	for i, want := range []int{0, 45009, 45009} {
		if got := ask(); got != want {
			t.Errorf("call %d of the next minute: %d, want %d", i, got, want)
		}
	}
	w.classic()
	token := w.classic().AccessToken
	if _, got := w.do("GET", "/cgi-bin/token?grant_type=client_credential&appid="+appID+"&secret="+secret, "", nil); errcode(t, got) != 45009 {
		t.Errorf("token: %s", got)
	}
	w.check(token)
	if got := w.check(token); got != 45009 {
		t.Errorf("download: %d", got)
	}
	w.pass(24 * time.Hour)
	if got := ask(); got != 0 {
		t.Errorf("the next day: %d", got)
	}
}

func TestUploadAndDownload(t *testing.T) {
	for _, keepAlive := range []bool{false, true} {
		w := newWorld(t, Options{KeepAlive: keepAlive})
		for filename, contentType := range map[string]string{"a.jpg": "image/jpeg", "a.JPEG": "image/jpeg", "b.png": "image/png", "c.gif": "image/gif"} {
			content := "\xff\xd8" + strings.Repeat("x", 100_000)
			code, id := w.upload("image", filename, content)
			if code != 0 {
				t.Fatalf("%s: %d", filename, code)
			}
			for _, method := range []string{"GET", "POST", "HEAD"} {
				res, got := w.do(method, "/cgi-bin/media/get?media_id="+id+"&access_token="+w.stable(false).AccessToken, "", nil)
				if method != "HEAD" && string(got) != content || method == "HEAD" && len(got) != 0 {
					t.Errorf("%s %s: %d bytes", method, filename, len(got))
				}
				extension := strings.ToLower(filename[strings.Index(filename, "."):])
				for name, want := range map[string]string{
					"Content-Type": contentType, "Content-Disposition": `attachment; filename="` + id + extension + `"`,
					"Cache-Control": "no-cache, must-revalidate", "Content-Length": strconv.Itoa(len(content)),
				} {
					if got := res.Header.Get(name); got != want {
						t.Errorf("%s %s: %s %q, want %q", method, filename, name, got, want)
					}
				}
				if res.Close == keepAlive || res.Header.Get("Date") == "" {
					t.Errorf("close %t, keep alive %t", res.Close, keepAlive)
				}
			}
		}
	}
}

func TestUploadRefusals(t *testing.T) {
	w := newWorld(t, Options{})
	media := `form-data; name="media"; filename="a.jpg"`
	token := w.stable(false).AccessToken
	for name, tc := range map[string]struct {
		query, contentType, body string
		want                     int
	}{
		"no type":                 {"", formType, form(media, "x"), 40004},
		"unknown type":            {"type=gif", formType, form(media, "x"), 40004},
		"type in quotes":          {"type=%22image%22", formType, form(media, "x"), 40004},
		"type twice":              {"type=image&type=image", formType, form(media, "x"), 40004},
		"not a form":              {"type=image", "image/jpeg", form(media, "x"), 41005},
		"no boundary":             {"type=image", "multipart/form-data", form(media, "x"), 41005},
		"boundary in quotes":      {"type=image", `multipart/form-data; boundary="b0undary"`, form(media, "x"), 41005},
		"another boundary":        {"type=image", "multipart/form-data; boundary=other", form(media, "x"), 41005},
		"part of another name":    {"type=image", formType, form(`form-data; name="file"; filename="a.jpg"`, "x"), 41005},
		"no filename":             {"type=image", formType, form(`form-data; name="media"`, "x"), 41005},
		"filename without quotes": {"type=image", formType, form(`form-data; name="media"; filename=a.jpg`, "x"), 41005},
		"filename*":               {"type=image", formType, form(`form-data; name="media"; filename*=UTF-8''a.jpg`, "x"), 41005},
		"wrong line ends":         {"type=image", formType, strings.ReplaceAll(form(media, "x"), "\r\n", "\n"), 41005},
		"cut off":                 {"type=image", formType, form(media, "x")[:80], 41005},
		"no extension":            {"type=image", formType, form(`form-data; name="media"; filename="a"`, "x"), 40005},
		"another extension":       {"type=image", formType, form(`form-data; name="media"; filename="a.mp3"`, "x"), 40005},
		"no bytes":                {"type=image", formType, form(media, ""), 44001},
		"no body":                 {"type=image", formType, "", 44002},
		"image too large":         {"type=image", formType, form(media, strings.Repeat("x", 10<<20+1)), 40009},
		"voice too large":         {"type=voice", formType, form(`form-data; name="media"; filename="a.amr"`, strings.Repeat("x", 2<<20+1)), 40010},
		"video too large":         {"type=video", formType, form(`form-data; name="media"; filename="a.mp4"`, strings.Repeat("x", 10<<20+1)), 40011},
		"thumb too large":         {"type=thumb", formType, form(`form-data; name="media"; filename="a.jpg"`, strings.Repeat("x", 64<<10+1)), 40012},
		"far too large":           {"type=image", formType, form(media, strings.Repeat("x", maxUpload)), 45001},
		"the largest":             {"type=image", formType, form(media, strings.Repeat("x", 10<<20)), 0},
		"among other parts": {"type=image", formType,
			"--b0undary\r\nContent-Disposition: form-data; name=\"description\"\r\n\r\n{}\r\n" + form(media, "x"), 0},
	} {
		req, _ := http.NewRequest("POST", w.URL+"/cgi-bin/media/upload?"+tc.query+"&access_token="+token, strings.NewReader(tc.body))
		req.Header.Set("Content-Type", tc.contentType)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			if name == "far too large" {
				continue // closed before all was sent
			}
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if errcode(t, got) != tc.want || res.StatusCode != 200 {
			t.Errorf("%s: %d %s, want %d", name, res.StatusCode, got, tc.want)
		}
	}
	res, got := w.do("POST", "/cgi-bin/media/upload?type=image&access_token="+token, formType, io.MultiReader(strings.NewReader(form(media, "x"))))
	if res.StatusCode != 412 || len(got) != 0 {
		t.Errorf("without Content-Length: %d %q", res.StatusCode, got)
	}
	if _, got := w.do("GET", "/cgi-bin/media/upload?type=image", "", nil); errcode(t, got) != 43002 {
		t.Errorf("GET: %s", got)
	}
	if _, got := w.do("POST", "/cgi-bin/media/upload?type=image", formType, strings.NewReader(form(media, "x"))); errcode(t, got) != 41001 {
		t.Errorf("no token: %s", got)
	}
	w.opts.CheckTokenFirst = true
	if _, got := w.do("POST", "/cgi-bin/media/upload?type=nonsense&access_token="+strings.Repeat("a", 136), formType, strings.NewReader("x")); errcode(t, got) != 40001 {
		t.Errorf("token first: %s", got)
	}
}

func TestDownloadRefusals(t *testing.T) {
	w := newWorld(t, Options{})
	_, id := w.upload("image", "a.jpg", "x")
	token := w.stable(false).AccessToken
	for query, want := range map[string]int{
		"":                               41006,
		"media_id=":                      41006,
		"media_id=none":                  40007,
		"media_id=" + id + "&media_id=x": 40007,
	} {
		if _, got := w.do("GET", "/cgi-bin/media/get?access_token="+token+"&"+query, "", nil); errcode(t, got) != want {
			t.Errorf("%q: %s, want %d", query, got, want)
		}
	}
	_, body := w.do("POST", "/cgi-bin/stable_token", "", strings.NewReader(`{"grant_type":"client_credential","appid":"wx2","secret":"`+secret+`"}`))
	if _, got := w.do("GET", "/cgi-bin/media/get?media_id="+id+"&access_token="+w.parse(body).AccessToken, "", nil); errcode(t, got) != 40007 {
		t.Errorf("another app's: %s", got)
	}
	if _, got := w.do("PUT", "/cgi-bin/media/get?media_id="+id, "", nil); errcode(t, got) != 43001 {
		t.Errorf("PUT: %s", got)
	}
	if _, got := w.do("GET", "/cgi-bin/media/get/jssdk?media_id="+id+"&access_token="+token, "", nil); errcode(t, got) != 40007 {
		t.Errorf("jssdk of an image: %s", got)
	}
	w.pass(mediaLife - time.Second)
	if _, got := w.download(id); string(got) != "x" {
		t.Errorf("before three days: %s", got)
	}
	w.pass(time.Second)
	if _, got := w.download(id); errcode(t, got) != 40007 {
		t.Errorf("after three days: %s", got)
	}
	if n, memory := w.Stored(); n != 0 || memory != 0 {
		t.Errorf("%d media, %d bytes are kept", n, memory)
	}
}

func TestVoiceVideoThumb(t *testing.T) {
	w := newWorld(t, Options{})
	_, voice := w.upload("voice", "a.amr", "#!AMR")
	res, got := w.do("GET", "/cgi-bin/media/get/jssdk?media_id="+voice+"&access_token="+w.stable(false).AccessToken, "", nil)
	if res.Header.Get("Content-Type") != "voice/speex" || !strings.HasSuffix(res.Header.Get("Content-Disposition"), `.speex"`) || string(got) != "#!AMR" {
		t.Errorf("jssdk: %v %s", res.Header, got)
	}
	if _, thumb := w.upload("thumb", "a.jpg", "x"); thumb == "" {
		t.Error("no thumb")
	}
	_, video := w.upload("video", "a.mp4", "film")
	res, got = w.download(video)
	var reply struct {
		VideoURL string `json:"video_url"`
	}
	if err := json.Unmarshal(got, &reply); err != nil || reply.VideoURL == "" || res.Header.Get("Content-Disposition") != "" {
		t.Fatalf("video: %v %s", res.Header, got)
	}
	if _, film := w.do("GET", strings.TrimPrefix(reply.VideoURL, w.URL), "", nil); string(film) != "film" {
		t.Errorf("video_url: %s", film)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	const size, limit = 100_000, 1_000_000
	w := newWorld(t, Options{MaxMemory: limit})
	var first, last string
	for i := range 50 {
		_, last = w.upload("image", "a.jpg", strings.Repeat("x", size))
		if i == 0 {
			first = last
		}
		if _, memory := w.Stored(); memory > limit {
			t.Fatalf("%d bytes in use", memory)
		}
	}
	if _, got := w.download(first); errcode(t, got) != 40007 {
		t.Error("the oldest is still there")
	}
	if _, got := w.download(last); len(got) != size {
		t.Error("the newest is not there")
	}
	if code, _ := w.upload("image", "a.jpg", strings.Repeat("x", limit)); code != -1 {
		t.Errorf("more than the memory: %d", code)
	}
	if n, _ := w.Stored(); n == 0 {
		t.Error("what was refused drove everything out")
	}
}

func TestFaults(t *testing.T) {
	w := newWorld(t, Options{})
	content := strings.Repeat("x", 50_000)
	_, id := w.upload("image", "a.jpg", content)

	w.Busy(MediaGet, 1)
	if _, got := w.download(id); errcode(t, got) != -1 {
		t.Errorf("busy: %s", got)
	}
	if _, got := w.download(id); string(got) != content {
		t.Error("busy for longer than asked")
	}

	w.Cut(MediaGet, 1000, 1)
	res, err := http.Get(w.URL + "/cgi-bin/media/get?media_id=" + id + "&access_token=" + w.stable(false).AccessToken)
	if err == nil {
		var n int64
		if n, err = io.Copy(io.Discard, res.Body); n != 1000 {
			t.Errorf("cut after %d bytes", n)
		}
	}
	if err == nil {
		t.Error("a cut download looks complete")
	}

	w.Cut(MediaUpload, 1000, 1)
	stored, _ := w.Stored()
	if _, err := http.Post(w.URL+"/cgi-bin/media/upload?type=image&access_token="+w.stable(false).AccessToken, formType,
		strings.NewReader(form(`form-data; name="media"; filename="a.jpg"`, content))); err == nil {
		t.Error("a cut upload was answered")
	}
	if n, _ := w.Stored(); n != stored {
		t.Error("a cut upload was stored")
	}

	w.Respond(StableToken, 1, func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "<html>") })
	if _, got := w.do("POST", "/cgi-bin/stable_token", "", strings.NewReader("{}")); string(got) != "<html>" {
		t.Errorf("respond: %s", got)
	}

	var seen []Endpoint
	var progress int64
	var uploads []string
	w.OnRequest(func(e Endpoint, _ *http.Request) { seen = append(seen, e) })
	w.OnUploadProgress(func(n int64) { progress = n })
	w.OnStored(func(id string, content []byte) { uploads = append(uploads, id+string(content)) })
	_, id = w.upload("image", "a.jpg", "x")
	if fmt.Sprint(seen) != "[stable_token upload]" || progress != int64(len(form(`form-data; name="media"; filename="a.jpg"`, "x"))) || fmt.Sprint(uploads) != "["+id+"x]" {
		t.Errorf("hooks saw %v, %d bytes, %v", seen, progress, uploads)
	}

	w.SetLatency(MediaGet, time.Hour)
	w.ResetFaults()
	if _, got := w.download(id); string(got) != "x" {
		t.Error("faults were not reset")
	}
}

func TestCallsAreCounted(t *testing.T) {
	w := newWorld(t, Options{})
	w.upload("image", "a.jpg", "x")
	w.download("none")
	res, got := w.do("GET", "/cgi-bin/user/info", "", nil)
	if res.StatusCode != 404 || errcode(t, got) != 40066 {
		t.Errorf("%d %s", res.StatusCode, got)
	}
	for e, want := range map[Endpoint]int64{StableToken: 2, MediaUpload: 1, MediaGet: 1, Other: 1, Token: 0} {
		if got := w.Calls(e); got != want {
			t.Errorf("%s: %d, want %d", e, got, want)
		}
	}
}

func TestControl(t *testing.T) {
	w := newWorld(t, Options{})
	token := w.stable(false).AccessToken
	for _, tc := range []struct {
		method, target string
		status         int
	}{
		{"POST", "/sandbox/revoke?appid=" + appID, 200},
		{"POST", "/sandbox/expire?appid=" + appID, 200},
		{"POST", "/sandbox/revoke", 400},
		{"POST", "/sandbox/latency?endpoint=get&duration=1ms", 200},
		{"POST", "/sandbox/latency?endpoint=get&duration=x", 400},
		{"POST", "/sandbox/latency?endpoint=nothing&duration=1s", 400},
		{"POST", "/sandbox/rate?endpoint=get&bytes_per_second=1000", 200},
		{"POST", "/sandbox/cut?endpoint=get&after=10&times=2", 200},
		{"POST", "/sandbox/cut?endpoint=get&after=-1", 400},
		{"POST", "/sandbox/busy?endpoint=upload&times=2", 200},
		{"POST", "/sandbox/busy?endpoint=upload&times=x", 400},
		{"POST", "/sandbox/reset", 200},
		{"POST", "/sandbox/nothing", 404},
		{"GET", "/sandbox/reset", 405},
		{"GET", "/sandbox/status", 200},
	} {
		if res, got := w.do(tc.method, tc.target, "", nil); res.StatusCode != tc.status || bytes.Contains(got, []byte(token)) {
			t.Errorf("%s %s: %d %s", tc.method, tc.target, res.StatusCode, got)
		}
	}
	if got := w.check(token); got != 40001 {
		t.Errorf("the token was not revoked: %d", got)
	}
	rec := httptest.NewRecorder()
	req := httptest.NewRequest("POST", "/sandbox/reset", nil)
	req.RemoteAddr = "192.0.2.1:1234"
	w.ServeHTTP(rec, req)
	if rec.Code != 403 {
		t.Errorf("from another machine: %d", rec.Code)
	}
}

func TestConcurrentUse(t *testing.T) {
	w := newWorld(t, Options{MaxMemory: 1 << 20})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for range 20 {
				code, id := w.upload("image", "a.jpg", strings.Repeat("x", 10_000+i))
				if code != 0 && code != 40001 && code != -1 {
					t.Errorf("errcode %d", code)
				}
				w.download(id)
				if i == 0 {
					w.RevokeTokens(appID)
				}
			}
		})
	}
	wg.Wait()
	if _, memory := w.Stored(); memory > 1<<20 {
		t.Errorf("%d bytes in use", memory)
	}
}
