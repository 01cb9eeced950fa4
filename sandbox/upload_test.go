package sandbox

// Uploads.

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

const media = `form-data; name="media"; filename="a.jpg"`

func TestUploadRefusals(t *testing.T) {
	w := newWorld(t, Options{})
	x := jpeg(100)
	token := w.stable(false).AccessToken
	_, corp := w.corpToken(corpID, secretA)
	w.refuseForms(wechat, token, "file")
	w.refuseForms(wecom, corp.AccessToken, "thumb")

	for _, token := range []string{token, corp.AccessToken} {
		res, got := w.do("POST", "/cgi-bin/media/upload?type=image&access_token="+token, formType, io.MultiReader(strings.NewReader(formOf(media, x))))
		if res.StatusCode != 412 || len(got) != 0 {
			t.Errorf("without Content-Length: %d %q", res.StatusCode, got)
		}
	}
	if _, got := w.do("GET", "/cgi-bin/media/upload?type=image", "", nil); errcode(t, got) != 43002 {
		t.Errorf("GET: %s", got)
	}
	if _, got := w.do("POST", "/cgi-bin/media/upload?type=image", formType, strings.NewReader(formOf(media, x))); errcode(t, got) != 41001 {
		t.Errorf("no token: %s", got)
	}
	w.opts.CheckTokenFirst = true
	if _, got := w.do("POST", "/cgi-bin/media/upload?type=nonsense&access_token="+strings.Repeat("a", 136), formType, strings.NewReader("x")); errcode(t, got) != 40001 {
		t.Errorf("token first: %s", got)
	}
}

// refuseForms uploads what is wrong, with a token of a platform and the name of a type
// that only the other one has.
func (w *world) refuseForms(p *platform, token, othersType string) {
	w.t.Helper()
	t, x := w.t, jpeg(100)
	named := func(filename string) string { return `form-data; name="media"; filename="` + filename + `"` }
	for name, tc := range map[string]struct {
		query, contentType, body string
		want                     int
	}{
		"no type":                  {"", formType, formOf(media, x), 40004},
		"unknown type":             {"type=gif", formType, formOf(media, x), 40004},
		"the other's type":         {"type=" + othersType, formType, formOf(media, x), 40004},
		"type in quotes":           {"type=%22image%22", formType, formOf(media, x), 40004},
		"type twice":               {"type=image&type=image", formType, formOf(media, x), 40004},
		"not a form":               {"type=image", "image/jpeg", formOf(media, x), 41005},
		"no content type":          {"type=image", "", formOf(media, x), 41005},
		"boundary in quotes":       {"type=image", `multipart/form-data; boundary="b0undary"`, formOf(media, x), 41005},
		"charset behind it":        {"type=image", formType + "; charset=UTF-8", formOf(media, x), 41005},
		"a semicolon behind it":    {"type=image", formType + ";", formOf(media, x), 41005},
		"another boundary":         {"type=image", "multipart/form-data; boundary=other", formOf(media, x), 41005},
		"empty boundary":           {"type=image", "multipart/form-data; boundary=", formOf(media, x), 41005},
		"no boundary anywhere":     {"type=image", "multipart/form-data", x, 41005},
		"part of another name":     {"type=image", formType, formOf(`form-data; name="file"; filename="a.jpg"`, x), 41005},
		"no filename":              {"type=image", formType, formOf(`form-data; name="media"`, x), 41005},
		"empty filename":           {"type=image", formType, formOf(named(""), x), 41005},
		"filename without quotes":  {"type=image", formType, formOf(`form-data; name="media"; filename=a.jpg`, x), 41005},
		"filename*":                {"type=image", formType, formOf(`form-data; name="media"; filename*=UTF-8''a.jpg`, x), 41005},
		"wrong line ends":          {"type=image", formType, strings.ReplaceAll(formOf(media, x), "\r\n", "\n"), 41005},
		"cut off":                  {"type=image", formType, formOf(media, x)[:80], 41005},
		"no extension":             {"type=image", formType, formOf(named("a"), x), 40005},
		"another type's extension": {"type=image", formType, formOf(named("a.mp3"), "ID3"), 40005},
		"no bytes":                 {"type=image", formType, formOf(media, ""), 44001},
		"no body":                  {"type=image", formType, "", 44002},
		"far too large":            {"type=image", formType, formOf(media, jpeg(int(p.maxForm))), 45001},
		"the largest":              {"type=image", formType, formOf(media, jpeg(10<<20)), 0},
		"no boundary in the type":  {"type=image", "multipart/form-data", formOf(media, x), 0},
		"only a charset":           {"type=image", "multipart/form-data; charset=ISO-8859-1", formOf(media, x), 0},
		"boundary that is no token": {"type=image", "multipart/form-data; boundary====1656457491496===",
			strings.ReplaceAll(formOf(media, x), "b0undary", "===1656457491496==="), 0},
		"among other parts": {"type=image", formType,
			"--b0undary\r\nContent-Disposition: form-data; name=\"description\"\r\n\r\n{}\r\n" + formOf(media, x), 0},
	} {
		req, _ := http.NewRequest("POST", w.URL+"/cgi-bin/media/upload?"+tc.query+"&access_token="+token, strings.NewReader(tc.body))
		if tc.contentType != "" {
			req.Header.Set("Content-Type", tc.contentType)
		}
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
}

// Content is told from what it begins with.
func TestContentMustBeWhatItsNameSays(t *testing.T) {
	w := newWorld(t, Options{})
	good := map[string]string{
		"a.jpg": jpegHead, "a.JPEG": jpegHead, "a.png": "\x89PNG\r\n\x1a\n", "a.gif": "GIF89a", "old.gif": "GIF87a",
		"a.amr": "#!AMR\n", "tagged.mp3": "ID3", "a.mp3": "\xff\xfb\x90", "b.mp3": "\xff\xe3", "a.mp4": mp4Head,
	}
	typeOf := func(filename string) string {
		switch extensionOf(filename) {
		case "amr", "mp3":
			return "voice"
		case "mp4":
			return "video"
		}
		return "image"
	}
	format := func(filename string) string { return strings.Replace(extensionOf(filename), "jpeg", "jpg", 1) }
	for filename := range good {
		for other, head := range good {
			want := 40005
			if format(filename) == format(other) {
				want = 0
			}
			if code, _ := w.upload(typeOf(filename), filename, head+"content"); code != want {
				t.Errorf("%s with the content of %s: %d, want %d", filename, other, code, want)
			}
		}
		for _, text := range []string{"plain text", "x", "<html>ftyp"} {
			if code, _ := w.upload(typeOf(filename), filename, text); code != 40005 {
				t.Errorf("%s of text: %d", filename, code)
			}
		}
	}
}

// Each type has a limit and a code for what is beyond it.
func TestSizes(t *testing.T) {
	for _, tc := range []struct {
		p                         *platform
		mediaType, filename, head string
		limit, beyond             int
	}{
		{wechat, "image", "a.jpg", jpegHead, 10 << 20, 40009},
		{wechat, "voice", "a.amr", "#!AMR", 2 << 20, 40010},
		{wechat, "video", "a.mp4", mp4Head, 10 << 20, 40011},
		{wechat, "thumb", "a.jpg", jpegHead, 64 << 10, 40012},
		{wecom, "image", "a.jpg", jpegHead, 10 << 20, 40009},
		{wecom, "voice", "a.amr", "#!AMR", 2 << 20, 40010},
		{wecom, "video", "a.mp4", mp4Head, 10 << 20, 40011},
		{wecom, "file", "no extension", "", 20 << 20, 45001},
	} {
		content := make([]byte, tc.limit+1)
		copy(content, tc.head)
		if e := tc.p.check(tc.mediaType, form{filename: tc.filename, content: content}); e == nil || e.code != tc.beyond {
			t.Errorf("%s beyond %d: %v, want %d", tc.mediaType, tc.limit, e, tc.beyond)
		}
		for _, size := range []int{tc.limit, 6} {
			content := make([]byte, max(size, len(tc.head)))
			copy(content, tc.head)
			if e := tc.p.check(tc.mediaType, form{filename: tc.filename, content: content}); e != nil {
				t.Errorf("%s of %d: %v", tc.mediaType, len(content), e)
			}
		}
		e := tc.p.check(tc.mediaType, form{filename: tc.filename, content: make([]byte, 5)})
		if tooSmall := e != nil && e.code == 40006; tooSmall != (tc.p == wecom) {
			t.Errorf("%s of 5 bytes: %v", tc.mediaType, e)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	const size, limit = 100_000, 1_000_000
	w := newWorld(t, Options{MaxMemory: limit})
	var first, last string
	for i := range 50 {
		_, last = w.upload("image", "a.jpg", jpeg(size))
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
	if code, _ := w.upload("image", "a.jpg", jpeg(limit)); code != -1 {
		t.Errorf("more than the memory: %d", code)
	}
	if n, _ := w.Stored(); n == 0 {
		t.Error("what was refused drove everything out")
	}
}

func TestConcurrentUse(t *testing.T) {
	w := newWorld(t, Options{MaxMemory: 1 << 20})
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			for range 10 {
				code, id := w.upload("image", "a.jpg", jpeg(10_000+i))
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
