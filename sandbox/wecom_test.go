package sandbox

// WeCom: its tokens, types, names and errors.

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// corpToken asks for a token; the errcode is 0 for one that comes.
func (w *world) corpToken(corp, secret string) (code int, r tokenReply) {
	w.t.Helper()
	res, body := w.do("GET", "/cgi-bin/gettoken?corpid="+corp+"&corpsecret="+secret, "", nil)
	code = errcode(w.t, body)
	if code == 0 && (json.Unmarshal(body, &r) != nil || !strings.HasPrefix(string(body), `{"errcode":0,"errmsg":"ok",`) || len(r.AccessToken) != 214) {
		w.t.Fatalf("no token: %s", body)
	}
	if got := res.Header.Get("Content-Type"); got != "application/json; charset=UTF-8" {
		w.t.Errorf("Content-Type %q", got)
	}
	return code, r
}

func (w *world) corpUpload(token, mediaType, filename, content string) (code int, id string) {
	w.t.Helper()
	_, body := w.do("POST", "/cgi-bin/media/upload?type="+mediaType+"&access_token="+token, formType,
		strings.NewReader(formOf(`form-data; name="media"; filename="`+filename+`"`, content)))
	if code := errcode(w.t, body); code != 0 {
		return code, ""
	}
	var r struct {
		Errcode   *int
		Type      string `json:"type"`
		MediaID   string `json:"media_id"`
		CreatedAt string `json:"created_at"`
	}
	if err := json.Unmarshal(body, &r); err != nil || r.Errcode == nil || r.Type != mediaType || r.CreatedAt != strconv.FormatInt(w.opts.Now().Unix(), 10) || len(r.MediaID) != 65 {
		w.t.Fatalf("%v: %s", err, body)
	}
	return 0, r.MediaID
}

// get downloads with a token, and a Range if there is one.
func (w *world) get(token, id, ranges string) (*http.Response, []byte) {
	w.t.Helper()
	return w.fetch("GET", "/cgi-bin/media/get?media_id="+id+"&access_token="+token, http.Header{"Range": {ranges}}, nil)
}

func TestCorpTokens(t *testing.T) {
	w := newWorld(t, Options{})
	_, a := w.corpToken(corpID, secretA)
	_, b := w.corpToken(corpID, secretB)
	_, other := w.corpToken(loner, secretA)
	if a.AccessToken == b.AccessToken || a.AccessToken == other.AccessToken || a.ExpiresIn != 7200 {
		t.Error("a secret does not have a token of its own")
	}
	w.pass(7199 * time.Second)
	if _, same := w.corpToken(corpID, secretA); same.AccessToken != a.AccessToken || same.ExpiresIn != 1 {
		t.Errorf("while it lives: same %t, %d s", same.AccessToken == a.AccessToken, same.ExpiresIn)
	}
	w.RevokeTokens(agentB)
	if got := w.check(a.AccessToken); got != 0 {
		t.Errorf("another agent's token was revoked: %d", got)
	}
	if got := w.check(b.AccessToken); got != 40014 {
		t.Errorf("revoked: %d", got)
	}
	if _, next := w.corpToken(corpID, secretB); next.AccessToken == b.AccessToken || w.CurrentToken(agentB) != next.AccessToken {
		t.Error("a revoked token is handed out")
	}
	w.pass(time.Second)
	if got := w.check(a.AccessToken); got != 42001 {
		t.Errorf("at its end: %d", got)
	}
	for query, want := range map[string]int{
		"": 41002, "corpsecret=x": 41002, "corpid=" + corpID: 41004, "corpid=ww3&corpsecret=" + secretA: 40013,
		"corpid=" + corpID + "&corpsecret=x": 40001, "corpid=" + loner + "&corpsecret=" + secretB: 40001,
		"corpid=" + appID + "&corpsecret=" + secret: 40013, "corpid=" + agentA + "&corpsecret=" + secretA: 40013,
	} {
		if _, got := w.do("GET", "/cgi-bin/gettoken?"+query, "", nil); errcode(t, got) != want {
			t.Errorf("%s: %s, want %d", query, got, want)
		}
	}
	if _, got := w.do("POST", "/cgi-bin/gettoken", "", strings.NewReader("{}")); errcode(t, got) != 43001 {
		t.Errorf("POST: %s", got)
	}
	if _, got := w.do("GET", "/cgi-bin/token?grant_type=client_credential&appid="+corpID+"&secret="+secretA, "", nil); errcode(t, got) != 40013 {
		t.Errorf("WeChat's endpoint: %s", got)
	}
}

func TestCorpErrors(t *testing.T) {
	w := newWorld(t, Options{MinuteQuota: map[Endpoint]int{MediaGet: 2}})
	res, body := w.do("GET", "/cgi-bin/gettoken?corpid="+corpID+"&corpsecret=wrong", "", nil)
	want := fmt.Sprintf(`^\{"errcode":40001,"errmsg":"invalid credential, hint: \[%d\d{15}\], from ip: 127\.0\.0\.1, more info at https://open\.work\.weixin\.qq\.com/devtool/query\?e=40001"\}$`, w.opts.Now().Unix())
	if !regexp.MustCompile(want).Match(body) || res.Header.Get("Error-Code") != "40001" || !strings.HasPrefix(res.Header.Get("Error-Msg"), "invalid credential, hint") {
		t.Errorf("%v %s", res.Header, body)
	}
	_, a := w.corpToken(corpID, secretA)
	w.Refuse(MediaGet, 60020, 1)
	if _, body := w.get(a.AccessToken, "none", ""); errcode(t, body) != 60020 ||
		!regexp.MustCompile(`not allow to access from your ip, hint: \[\d+\], from ip: 127\.0\.0\.1, more info at`).Match(body) {
		t.Errorf("%s", body)
	}
	w.Refuse(CorpToken, 45033, 1)
	if code, _ := w.corpToken(corpID, secretA); code != 45033 {
		t.Errorf("%d", code)
	}
	_, b := w.corpToken(corpID, secretB)
	w.check(a.AccessToken)
	w.check(b.AccessToken)
	if got := w.check(a.AccessToken); got != 45009 {
		t.Errorf("beyond the corp's quota: %d", got)
	}
	// without a token to tell by, the words are those of whom there are accounts of
	if got := New(Options{Corps: map[string]string{"ww1": "s"}}).platformOf(MediaGet, httptest.NewRequest("GET", "/cgi-bin/media/get", nil)); got != wecom {
		t.Error("a server of corps speaks as WeChat")
	}
}

func TestCorpUploads(t *testing.T) {
	w := newWorld(t, Options{})
	_, a := w.corpToken(corpID, secretA)
	_, b := w.corpToken(corpID, secretB)
	_, other := w.corpToken(loner, secretA)
	for _, tc := range []struct {
		mediaType, filename, content string
		want                         int
	}{
		{"image", "a.png", "\x89PNG\r\n\x1a\n", 0},
		{"image", "a.gif", "GIF89a", 40005},
		{"image", "a.jpg", "no picture", 40005},
		{"voice", "a.amr", "#!AMR\n", 0},
		{"voice", "a.mp3", "ID3456", 40005},
		{"thumb", "a.jpg", jpeg(100), 40004},
		{"file", "no extension", "123456", 0},
		{"file", "a.txt", "12345", 40006},
		{"file", "a.txt", "", 44001},
		{"file", "a.bin", strings.Repeat("x", 20<<20), 0},
	} {
		code, id := w.corpUpload(a.AccessToken, tc.mediaType, tc.filename, tc.content)
		if code != tc.want {
			t.Errorf("%s %s of %d bytes: %d, want %d", tc.mediaType, tc.filename, len(tc.content), code, tc.want)
		}
		if code != 0 {
			continue
		}
		if _, got := w.get(b.AccessToken, id, ""); string(got) != tc.content {
			t.Errorf("%s: another agent of the corp got %d bytes", tc.filename, len(got))
		}
		if _, got := w.get(other.AccessToken, id, ""); errcode(t, got) != 40007 {
			t.Errorf("%s: another corp got %d bytes", tc.filename, len(got))
		}
		if _, got := w.download(id); errcode(t, got) != 40007 {
			t.Errorf("%s: an app of WeChat's got %d bytes", tc.filename, len(got))
		}
	}
}

func TestCorpFilenames(t *testing.T) {
	w := newWorld(t, Options{})
	_, a := w.corpToken(corpID, secretA)
	for filename, encoded := range map[string]string{
		"报告 2026.xlsx":     "%E6%8A%A5%E5%91%8A%202026.xlsx",
		"%E6%8A%A5.xlsx":   "%25E6%258A%25A5.xlsx", // shown as it was sent
		`a \"quoted\".txt`: `a%20%5C%22quoted%5C%22.txt`,
		"a+b;c.txt":        "a%2Bb%3Bc.txt",
	} {
		_, id := w.corpUpload(a.AccessToken, "file", filename, "123456")
		res, got := w.get(a.AccessToken, id, "")
		want := "attachment; filename*=utf-8''" + encoded + `; filename="` + filename + `"`
		if disposition := res.Header.Get("Content-Disposition"); disposition != want || string(got) != "123456" {
			t.Errorf("got  %s\nwant %s", disposition, want)
		}
		if got := res.Header.Get("Content-Type"); got != "application/octet-stream" {
			t.Errorf("Content-Type %s", got)
		}
	}
}

func TestCorpRanges(t *testing.T) {
	w := newWorld(t, Options{})
	_, a := w.corpToken(corpID, secretA)
	small, err := w.AddMedia(agentA, "video", "a.mp4", []byte("0123456789"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 21 << 20
	large, err := w.AddMedia(agentB, "file", "a.bin", []byte(strings.Repeat("x", size)))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		id, ranges   string
		status       int
		contentRange string
		length       int
	}{
		{small, "", 200, "", 10},
		{small, "bytes=0-3", 206, "bytes 0-3/10", 4},
		{small, "bytes=8-", 206, "bytes 8-9/10", 2},
		{small, "bytes=-1", 206, "bytes 9-9/10", 1},
		{small, "bytes=20-", 416, "bytes */10", -1},
		{large, "bytes=0-20971519", 206, "bytes 0-20971519/22020096", 20 << 20},
		{large, "bytes=20971520-", 206, "bytes 20971520-22020095/22020096", 1 << 20},
		{large, "bytes=-1024", 206, "bytes 22019072-22020095/22020096", 1024},
		{large, "", 200, "", 830002},
		{large, "bytes=0-", 200, "", 830002},
		{large, "bytes=0-20971520", 200, "", 830002},
		{large, "bytes=-22020096", 200, "", 830002},
		{large, "bytes=0-1,3-4", 200, "", 830002},
		{large, "bytes=-", 200, "", 830002},
	} {
		res, got := w.get(a.AccessToken, tc.id, tc.ranges)
		if res.StatusCode != tc.status || res.Header.Get("Content-Range") != tc.contentRange {
			t.Errorf("%q: %d %q", tc.ranges, res.StatusCode, res.Header.Get("Content-Range"))
		}
		if tc.length == 830002 {
			if code := errcode(t, got); code != 830002 {
				t.Errorf("%q: %d", tc.ranges, code)
			}
		} else if tc.length >= 0 && len(got) != tc.length {
			t.Errorf("%q: %d bytes", tc.ranges, len(got))
		}
	}
	if res, got := w.do("HEAD", "/cgi-bin/media/get?media_id="+small+"&access_token="+a.AccessToken, "", nil); len(got) != 0 || res.ContentLength != 10 || res.Header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("HEAD: %v", res.Header)
	}
	voice, err := w.AddMedia(agentA, "voice", "a.amr", []byte("#!AMR\n"))
	if err != nil {
		t.Fatal(err)
	}
	if res, got := w.do("GET", "/cgi-bin/media/get/jssdk?media_id="+voice+"&access_token="+a.AccessToken, "", nil); res.Header.Get("Content-Type") != "voice/speex" || string(got) != "#!AMR\n" {
		t.Errorf("jssdk: %v %s", res.Header, got)
	}
}

// Both platforms' faults cut a download short.
func TestCorpCut(t *testing.T) {
	w := newWorld(t, Options{})
	_, a := w.corpToken(corpID, secretA)
	id, err := w.AddMedia(agentA, "file", "a.bin", make([]byte, 100_000))
	if err != nil {
		t.Fatal(err)
	}
	w.Cut(MediaGet, 1000, 1)
	res, err := http.Get(w.URL + "/cgi-bin/media/get?media_id=" + id + "&access_token=" + a.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); n != 1000 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}
