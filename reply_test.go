package wechatmedia

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

func testReply(status int, header map[string]string, body io.Reader, length int64) *http.Response {
	h := make(http.Header)
	for k, v := range header {
		h.Set(k, v)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(body), ContentLength: length}
}

func TestExamine(t *testing.T) {
	const rejected = `{"errcode":40001,"errmsg":"invalid credential rid: 1-2-3"}`
	jsonType := map[string]string{"Content-Type": "application/json; encoding=utf-8"}
	for name, tc := range map[string]struct {
		status int
		header map[string]string
		body   string
		want   verdict
	}{
		"error as JSON":          {200, jsonType, rejected, verdict{40001, "invalid credential rid: 1-2-3"}},
		"error as text":          {200, map[string]string{"Content-Type": "text/plain"}, rejected, verdict{40001, "invalid credential rid: 1-2-3"}},
		"error without a type":   {200, nil, rejected, verdict{40001, "invalid credential rid: 1-2-3"}},
		"type not well-formed":   {200, map[string]string{"Content-Type": "application/json; ;="}, rejected, verdict{40001, "invalid credential rid: 1-2-3"}},
		"errcode as a string":    {200, jsonType, `{"errcode":"42001","errmsg":"x"}`, verdict{42001, "x"}},
		"white space in front":   {200, jsonType, "\r\n " + rejected, verdict{40001, "invalid credential rid: 1-2-3"}},
		"success":                {200, jsonType, `{"type":"image","media_id":"abc","created_at":1}`, verdict{}},
		"errcode 0":              {200, jsonType, `{"errcode":0,"errmsg":"ok","media_id":"abc"}`, verdict{}},
		"video":                  {200, map[string]string{"Content-Type": "text/plain"}, `{"video_url":"https://example.com/v"}`, verdict{}},
		"media that looks so":    {200, map[string]string{"Content-Type": "image/jpeg"}, rejected, verdict{}},
		"attachment":             {200, map[string]string{"Content-Type": "text/plain", "Content-Disposition": `attachment; filename="x"`}, rejected, verdict{}},
		"another status":         {500, jsonType, rejected, verdict{}},
		"not JSON":               {200, jsonType, `errcode: 40001`, verdict{}},
		"truncated JSON":         {200, jsonType, rejected[:20], verdict{}},
		"an array":               {200, jsonType, `[{"errcode":40001}]`, verdict{}},
		"empty":                  {200, jsonType, ``, verdict{}},
		"the largest":            {200, jsonType, rejected + strings.Repeat(" ", maxExamined-len(rejected)), verdict{40001, "invalid credential rid: 1-2-3"}},
		"larger than the limit":  {200, jsonType, rejected + strings.Repeat(" ", maxExamined-len(rejected)+1), verdict{}},
		"errcode not a number":   {200, jsonType, `{"errcode":{"a":1}}`, verdict{}},
		"errmsg not a string":    {200, jsonType, `{"errcode":-1,"errmsg":[1]}`, verdict{-1, ""}},
		"busy":                   {200, jsonType, `{"errcode":-1,"errmsg":"system error"}`, verdict{-1, "system error"}},
		"attachment, other case": {200, map[string]string{"Content-Disposition": "Attachment"}, rejected, verdict{}},
	} {
		for _, length := range []int64{-1, int64(len(tc.body))} {
			res := testReply(tc.status, tc.header, iotest.OneByteReader(strings.NewReader(tc.body)), length)
			if got := examine(res, nil); got != tc.want {
				t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
			}
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != tc.body {
				t.Errorf("%s: body of %d bytes became %d bytes, error %v", name, len(tc.body), len(got), err)
			}
		}
	}
}

// A reply that is cut short must stay cut short.
func TestExamineKeepsErrors(t *testing.T) {
	for _, cut := range []int{0, 1, 20, 100} {
		body := []byte(strings.Repeat(`{"errcode":40001} `, 10))[:cut]
		broken := errors.New("connection reset")
		for _, want := range []error{broken, io.ErrUnexpectedEOF} {
			res := testReply(200, nil, io.MultiReader(bytes.NewReader(body), iotest.ErrReader(want)), -1)
			if v := examine(res, nil); v != (verdict{}) {
				t.Errorf("a verdict of %+v from a reply that was cut after %d bytes", v, cut)
			}
			if got, err := io.ReadAll(res.Body); !errors.Is(err, want) || !bytes.Equal(got, body) {
				t.Errorf("cut after %d bytes: got %d bytes and %v, want %v", cut, len(got), err, want)
			}
		}
	}
}

// FuzzExamine holds that any body comes out as it went in.
func FuzzExamine(f *testing.F) {
	f.Add([]byte(`{"errcode":40001,"errmsg":"x"}`), "application/json", int64(-1), uint(0))
	f.Add([]byte(`{"video_url":"x"}`), "text/plain", int64(17), uint(3))
	f.Add([]byte("\xff\xd8\xff\xe0"), "image/jpeg", int64(4), uint(1))
	f.Add([]byte(strings.Repeat("{", maxExamined+5)), "", int64(-1), uint(70000))
	f.Add([]byte{}, "application/json", int64(0), uint(0))
	f.Fuzz(func(t *testing.T, body []byte, contentType string, length int64, cut uint) {
		want := io.EOF
		if int(cut) < len(body) && cut > 0 {
			body, want = body[:cut], io.ErrUnexpectedEOF
		}
		src := io.MultiReader(bytes.NewReader(body), iotest.ErrReader(want))
		res := testReply(200, map[string]string{"Content-Type": contentType}, src, length)
		examine(res, nil)
		var got bytes.Buffer
		_, err := got.ReadFrom(res.Body)
		if want == io.EOF && err != nil || want != io.EOF && !errors.Is(err, want) || !bytes.Equal(got.Bytes(), body) {
			t.Fatalf("got %d bytes and %v, want %d bytes and %v", got.Len(), err, len(body), want)
		}
	})
}

func TestTranslatedStatus(t *testing.T) {
	for errcode, want := range map[int]int{
		40007: 404, 40004: 400, 40005: 400, 41005: 400, 40006: 413, 40009: 413, 45001: 413,
		45009: 429, 45011: 429, 48001: 403, -1: 503, 40001: 502, 99999: 502,
	} {
		if got := testPlatform.Meaning(errcode).Status; got != want {
			t.Errorf("%d: got %d, want %d", errcode, got, want)
		}
	}
	for errcode, want := range ownErrcodes() {
		if got := testPlatform.Meaning(errcode).Status; got != want.status {
			t.Errorf("%d: got %d, want %d", errcode, got, want.status)
		}
	}
}

// Looking into a reply costs no more memory than a few times its size, whatever JSON
// it is.
func TestExamineAllocatesLittle(t *testing.T) {
	body := []byte(`{"errcode":40007,"errmsg":` + strings.Repeat(`[{"a":1},`, 7000)[:60_000-1] + `0` + strings.Repeat("]", 1))
	for range 2 { // not well-formed, and then a very long errmsg
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10 {
			examine(&http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}},
				Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}, nil)
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / 10; each > 8*uint64(len(body)) {
			t.Errorf("%d bytes for a reply of %d", each, len(body))
		}
		body = []byte(`{"errcode":40007,"errmsg":"` + strings.Repeat("x", 60_000) + `"}`)
	}
	v := examine(&http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}, nil)
	if v.errcode != 40007 || len(v.errmsg) > 2*maxErrmsg {
		t.Errorf("errcode %d, an errmsg of %d bytes", v.errcode, len(v.errmsg))
	}
}
