package sandbox

// Faults and hooks.

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
	"testing"
	"testing/synctest"
	"time"
)

func TestFaults(t *testing.T) {
	w := newWorld(t, Options{})
	content := jpeg(50_000)
	_, id := w.upload("image", "a.jpg", content)

	w.Busy(MediaGet, 1)
	if _, got := w.download(id); errcode(t, got) != -1 {
		t.Errorf("busy: %s", got)
	}
	if _, got := w.download(id); string(got) != content {
		t.Error("busy for longer than asked")
	}

	w.Refuse(MediaGet, 40164, 1)
	if _, got := w.download(id); errcode(t, got) != 40164 || !bytes.Contains(got, []byte("invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist rid:")) {
		t.Errorf("refuse: %s", got)
	}
	w.Refuse(MediaUpload, 12345, 1)
	if code, _ := w.upload("image", "a.jpg", content); code != 12345 {
		t.Errorf("refuse with a code of one's own: %d", code)
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
		strings.NewReader(formOf(`form-data; name="media"; filename="a.jpg"`, content))); err == nil {
		t.Error("a cut upload was answered")
	}
	if n, used := w.Stored(); n != stored || used > 51_000 {
		t.Errorf("a cut upload left %d media and %d bytes", n, used)
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
	_, id = w.upload("image", "a.jpg", jpegHead)
	if fmt.Sprint(seen) != "[stable_token upload]" || progress != int64(len(formOf(`form-data; name="media"; filename="a.jpg"`, jpegHead))) || fmt.Sprint(uploads) != "["+id+jpegHead+"]" {
		t.Errorf("hooks saw %v, %d bytes, %v", seen, progress, uploads)
	}

	w.SetLatency(MediaGet, time.Hour)
	w.ResetFaults()
	if _, got := w.download(id); string(got) != jpegHead {
		t.Error("faults were not reset")
	}
}

func TestCallsAreCounted(t *testing.T) {
	w := newWorld(t, Options{})
	w.upload("image", "a.jpg", jpegHead)
	w.download("none")
	res, got := w.do("GET", "/cgi-bin/user/info", "", nil)
	if res.StatusCode != 404 || len(got) != 0 || res.ContentLength != 0 || res.Header.Get("Content-Type") != "" {
		t.Errorf("%d %v %s", res.StatusCode, res.Header, got)
	}
	for e, want := range map[Endpoint]int64{StableToken: 2, MediaUpload: 1, MediaGet: 1, Other: 1, Token: 0} {
		if got := w.Calls(e); got != want {
			t.Errorf("%s: %d, want %d", e, got, want)
		}
	}
}

// Errors are as in the replies that people have shown.
func TestErrorReplies(t *testing.T) {
	w := newWorld(t, Options{})
	res, body := w.do("GET", "/cgi-bin/media/get?media_id=none&access_token="+strings.Repeat("a", 136), "", nil)
	var e struct {
		Errcode int
		Errmsg  string
	}
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json; encoding=utf-8", "Retkey": "11", "Logicret": "40001", "Content-Length": strconv.Itoa(len(body)),
	} {
		if got := res.Header.Get(name); got != want || res.StatusCode != 200 {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	rid := regexp.MustCompile(` rid: ([0-9a-f]{8})-[0-9a-f]{8}-[0-9a-f]{8}$`).FindStringSubmatch(e.Errmsg)
	if rid == nil {
		t.Fatalf("errmsg %q", e.Errmsg)
	}
	if at, _ := strconv.ParseInt(rid[1], 16, 64); at != w.opts.Now().Unix() {
		t.Errorf("the rid's time is %d", at)
	}
	if res, body := w.do("HEAD", "/cgi-bin/media/get?media_id=none", "", nil); len(body) != 0 || res.Header.Get("Logicret") != "41001" || res.ContentLength <= 0 {
		t.Errorf("HEAD: %v %s", res.Header, body)
	}
}

// The latency of the options is where a reset leads to.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Latency: time.Second})
		took := func() time.Duration {
			start := time.Now()
			s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/cgi-bin/media/get", nil))
			return time.Since(start)
		}
		if got := took(); got != time.Second {
			t.Errorf("by the options: %s", got)
		}
		s.SetLatency(MediaGet, time.Minute)
		if got := took(); got != time.Minute {
			t.Errorf("set: %s", got)
		}
		s.SetLatency(MediaGet, 0)
		if got := took(); got != 0 {
			t.Errorf("none: %s", got)
		}
		s.ResetFaults()
		if got := took(); got != time.Second {
			t.Errorf("after a reset: %s", got)
		}
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Apps: map[string]string{appID: secret}})
		token := strings.Repeat("t", 64)
		s.AddToken(appID, token, time.Hour)
		s.SetRate(MediaUpload, 1000)
		s.SetRate(MediaGet, 5000)
		body := formOf(`form-data; name="media"; filename="a.jpg"`, jpeg(10_000))
		r := httptest.NewRequest("POST", "/cgi-bin/media/upload?type=image&access_token="+token, strings.NewReader(body))
		r.Header.Set("Content-Type", formType)
		rec, start := httptest.NewRecorder(), time.Now()
		s.ServeHTTP(rec, r)
		if got := time.Since(start); got.Round(time.Second) != 10*time.Second {
			t.Errorf("up: %s", got)
		}
		var reply struct {
			MediaID string `json:"media_id"`
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &reply); err != nil {
			t.Fatal(err)
		}
		rec, start = httptest.NewRecorder(), time.Now()
		s.ServeHTTP(rec, httptest.NewRequest("GET", "/cgi-bin/media/get?media_id="+reply.MediaID+"&access_token="+token, nil))
		if got := time.Since(start); got != 2*time.Second || rec.Body.Len() != 10_000 {
			t.Errorf("down: %s, %d bytes", got, rec.Body.Len())
		}
	})
}
