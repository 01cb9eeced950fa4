package wechatmedia

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Whatever the header says, one header goes out, and the body is never touched.
func TestForms(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	content := picture(t, 2000)
	formOf := func(boundary string) []byte {
		return []byte("--" + boundary + "\r\nContent-Disposition: form-data; name=\"media\"; filename=\"a.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n" +
			string(content) + "\r\n--" + boundary + "--\r\n")
	}
	const f = "multipart/form-data; "
	for name, tc := range map[string]struct{ header, boundary string }{
		"plain":                      {f + "boundary=abc", "abc"},
		"a charset behind":           {f + "boundary=abc; charset=UTF-8", "abc"},
		"a charset in front":         {f + "charset=ISO-8859-1; boundary=abc", "abc"},
		"none":                       {"multipart/form-data", "abc"},
		"none, but a charset":        {f + "charset=ISO-8859-1", "abc"},
		"Java mail's":                {f + "boundary====1656457491496===", "===1656457491496==="},
		"in quotes":                  {f + `boundary="abc"`, "abc"},
		"in quotes, with a space":    {f + `boundary="a b"`, "a b"},
		"in quotes, all characters":  {f + `boundary="'()+_,-./:=?"`, "'()+_,-./:=?"},
		"in quotes, a semicolon":     {f + `boundary="abc";`, "abc"},
		"capitals":                   {"Multipart/Form-Data; BOUNDARY=AbC", "AbC"},
		"a second value":             {f + "boundary=abc, text/plain", "abc"},
		"twice":                      {f + "boundary=abc; boundary=def", "abc"},
		"a trailing semicolon":       {f + "boundary=abc;", "abc"},
		"another one than the body":  {f + "boundary=xyz", "abc"},
		"a beginning of the body's":  {f + "boundary=ab", "abc"},
		"an open quote":              {f + `boundary="abc`, "abc"},
		"extended":                   {f + "boundary*=utf-8''abc", "abc"},
		"no space":                   {"multipart/form-data;boundary=abc", "abc"},
		"as long as may be":          {f + "boundary=" + strings.Repeat("b", 70), strings.Repeat("b", 70)},
		"dashes":                     {f + "boundary=----WebKitFormBoundary7MA4YWxk", "----WebKitFormBoundary7MA4YWxk"},
		"wrong and beyond all words": {f + "boundary=a\tb\"c", "abc"},
	} {
		body := formOf(tc.boundary)
		for _, known := range []bool{true, false} {
			w.reset()
			in := io.Reader(bytes.NewReader(body))
			if !known {
				in = io.MultiReader(in)
			}
			res, reply := g.do("POST", "/media", http.Header{"Content-Type": {tc.header}}, in)
			if res.StatusCode != 200 || !strings.Contains(string(reply), "media_id") {
				t.Errorf("%s: %d %s; WeChat got %q", name, res.StatusCode, reply, w.only(t, "/cgi-bin/media/upload").header["Content-Type"])
				continue
			}
			got := w.only(t, "/cgi-bin/media/upload")
			if want := "multipart/form-data; boundary=" + tc.boundary; len(got.header["Content-Type"]) != 1 || got.header.Get("Content-Type") != want {
				t.Errorf("%s: WeChat got %q, want %q", name, got.header["Content-Type"], want)
			}
			if !bytes.Equal(got.body, body) || got.contentLength != int64(len(body)) {
				t.Errorf("%s: %d bytes became %d, Content-Length %d", name, len(body), len(got.body), got.contentLength)
			}
		}
	}
}

// Two headers are one too many for nobody: the first one counts, or the body.
func TestTwoContentTypes(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	contentType, body := form(t, "a.jpg", picture(t, 100))
	res, reply := g.do("POST", "/media", http.Header{"Content-Type": {contentType, "text/plain"}}, bytes.NewReader(body))
	uploaded(t, res, reply)
	if got := w.only(t, "/cgi-bin/media/upload").header["Content-Type"]; len(got) != 1 || got[0] != contentType {
		t.Errorf("WeChat got %q", got)
	}
}

func TestFormsWithoutABoundary(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL))
	for header, body := range map[string]string{
		"multipart/form-data":                                         "no form at all",
		"multipart/form-data; boundary=":                              "--\r\nx",
		"multipart/form-data; boundary=" + strings.Repeat("b", 71):    "x",
		"multipart/form-data; x=\"y\"; boundary*=utf-8''b%0d%0aX%3a1": "--b\x01\r\n",
		"multipart/form-data; boundary=\"a<b\"":                       "x",
		"multipart/form-data; boundary=" + strings.Repeat("ü", 5):     "--" + strings.Repeat("ü", 5) + "\r\n",
		"multipart/form-data; boundary=\"ends with a space \"":        "x",
		"application/x-www-form-urlencoded":                           "a=b",
		"multipart/mixed; boundary=a":                                 "--a\r\n",
		"":                                                            "--a\r\n",
		"text/plain; x=multipart/form-data":                           "--a\r\n",
	} {
		res, reply := g.do("POST", "/media", http.Header{"Content-Type": {header}}, strings.NewReader(body))
		if res.StatusCode != 400 || !strings.Contains(string(reply), "41005") {
			t.Errorf("%q: %d %s", header, res.StatusCode, reply)
		}
	}
	if n := len(w.requests()); n != 0 {
		t.Errorf("%d of them reached WeChat", n)
	}
}

// FuzzForm holds that what goes out is one well-formed header, made of what the body
// or the header says.
func FuzzForm(f *testing.F) {
	for _, header := range []string{"multipart/form-data; boundary=abc", `multipart/form-data; boundary="a b"; x=y`, "multipart/form-data"} {
		for _, head := range []string{"--abc\r\n", "--a b\n", "", "--" + strings.Repeat("x", 80), "--a\r\r\n"} {
			f.Add(header, []byte(head))
		}
	}
	f.Fuzz(func(t *testing.T, header string, head []byte) {
		out := formContentType(header, head)
		if out == "" {
			return
		}
		boundary, ok := strings.CutPrefix(out, "multipart/form-data; boundary=")
		if !ok || !validBoundary(boundary) || strings.ContainsAny(out, "\"\r\n;\x00") && strings.Count(out, ";") != 1 {
			t.Fatalf("%q", out)
		}
		if !bytes.HasPrefix(head, []byte("--"+boundary)) && !strings.Contains(header, boundary) && !strings.Contains(header, "%") {
			t.Fatalf("%q is neither in %q nor in %q", boundary, header, head)
		}
	})
}

// What is wrong with a form that WeChat refused is told to the operator, and never to
// the caller in WeChat's place.
func TestFormFaults(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL)+"\nheader >X-Form {http.wechat_media.form}")
	part := func(disposition string) string {
		return "--b\r\nContent-Disposition: " + disposition + "\r\n\r\n" + string(picture(t, 50)) + "\r\n--b--\r\n"
	}
	for body, want := range map[string]string{
		part(`form-data; name="media"; filename="blob"`):                                    "filename `blob` has no extension",
		part(`form-data; name="file"; filename="a.jpg"`):                                    "the part is named `file`, not media",
		part(`form-data; name="media"`):                                                     "the part has no filename",
		part(`form-data; name="media"; filename=a.jpg`):                                     "the part's filename is not in quotes",
		part(`form-data; name="media"; filename="a.txt"`):                                   "the extension of filename `a.txt` does not fit the type, or the content does not fit the extension",
		strings.ReplaceAll(part(`form-data; name="media"; filename="a.jpg"`), "\r\n", "\n"): "lines end in LF, not in CRLF",
		part(`form-data; name="media"; filename="a.jpg"`):                                   "",
	} {
		res, reply := g.do("POST", "/media", http.Header{"Content-Type": {"multipart/form-data; boundary=b"}}, strings.NewReader(body))
		if got := res.Header.Get("X-Form"); got != want {
			t.Errorf("%.60q: %q, want %q", body, got, want)
		}
		if want != "" && (strings.Contains(string(reply), want) || !strings.Contains(string(reply), "errcode") || !strings.Contains(loggedSoFar(), strings.ReplaceAll(want, `"`, `\"`))) {
			t.Errorf("%.60q: answered %s", body, reply)
		}
	}
}
