package sandbox

// Downloads.

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestUploadAndDownload(t *testing.T) {
	for _, keepAlive := range []bool{false, true} {
		w := newWorld(t, Options{KeepAlive: keepAlive})
		for filename, contentType := range map[string]string{"a.jpg": "image/jpeg", "a.JPEG": "image/jpeg", "b.png": "image/png", "c.gif": "image/gif"} {
			content := map[string]string{"image/jpeg": jpegHead, "image/png": "\x89PNG\r\n\x1a\n", "image/gif": "GIF89a"}[contentType] + strings.Repeat("x", 100_000)
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

func TestDownloadRefusals(t *testing.T) {
	w := newWorld(t, Options{})
	_, id := w.upload("image", "a.jpg", jpegHead)
	token := w.stable(false).AccessToken
	_, corp := w.corpToken(corpID, secretA)
	for query, want := range map[string]int{
		"":                               41006,
		"media_id=":                      41006,
		"media_id=none":                  40007,
		"media_id=" + id + "&media_id=x": 40007,
	} {
		for _, token := range []string{token, corp.AccessToken} {
			if _, got := w.do("GET", "/cgi-bin/media/get?access_token="+token+"&"+query, "", nil); errcode(t, got) != want {
				t.Errorf("%q: %s, want %d", query, got, want)
			}
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
	if _, got := w.download(id); string(got) != jpegHead {
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
	for _, method := range []string{"GET", "POST"} {
		res, got := w.do(method, "/cgi-bin/media/get/jssdk?media_id="+voice+"&access_token="+w.stable(false).AccessToken, "", nil)
		if res.Header.Get("Content-Type") != "voice/speex" || !strings.HasSuffix(res.Header.Get("Content-Disposition"), `.speex"`) || string(got) != "#!AMR" {
			t.Errorf("jssdk: %v %s", res.Header, got)
		}
	}
	if _, thumb := w.upload("thumb", "a.jpg", jpegHead); thumb == "" {
		t.Error("no thumb")
	}
	_, video := w.upload("video", "a.mp4", mp4Head)
	res, got := w.download(video)
	var reply struct {
		VideoURL string `json:"video_url"`
	}
	if err := json.Unmarshal(got, &reply); err != nil || reply.VideoURL == "" || res.Header.Get("Content-Disposition") != "" || res.Header.Get("Content-Type") != "text/plain" {
		t.Fatalf("video: %v %s", res.Header, got)
	}
	if _, film := w.do("GET", strings.TrimPrefix(reply.VideoURL, w.URL), "", nil); string(film) != mp4Head {
		t.Errorf("video_url: %s", film)
	}
}

// Media that users sent are there without an upload.
func TestAddMedia(t *testing.T) {
	w := newWorld(t, Options{MaxMemory: 1 << 20})
	content := []byte(jpeg(1000))
	id, err := w.AddMedia(appID, "image", "from-a-user.jpg", content)
	if err != nil {
		t.Fatal(err)
	}
	content[0] = 'x' // the caller's to change
	if _, got := w.download(id); string(got) != jpeg(1000) {
		t.Errorf("%d bytes came back", len(got))
	}
	for name, add := range map[string]func() (string, error){
		"no account": func() (string, error) { return w.AddMedia("wx3", "image", "a.jpg", content) },
		"no type":    func() (string, error) { return w.AddMedia(appID, "file", "a.jpg", content) },
		"no memory":  func() (string, error) { return w.AddMedia(appID, "image", "a.jpg", make([]byte, 1<<20)) },
	} {
		if id, err := add(); err == nil || id != "" {
			t.Errorf("%s: %q", name, id)
		}
	}
}
