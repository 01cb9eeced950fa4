package sandbox

// What WeChat makes of a multipart form.

import (
	"bytes"
	"mime/multipart"
	"regexp"
	"strings"
)

// form is what there is in one: media with a filename, or what is wrong with it.
type form struct {
	filename string // as it was sent
	content  []byte
	err      *apiError
}

// parseForm looks for the part named media, which must have a quoted filename. Its
// lines end in CRLF: https://github.com/daixinkai/feign.net/pull/13. The filename comes
// back as it was sent, percent signs and all, and a filename* is nothing to WeChat:
// https://github.com/fudiwei/DotNetCore.SKIT.FlurlHttpClient.Wechat/issues/40
func parseForm(contentType string, body []byte) form {
	if len(body) == 0 {
		return form{err: errEmptyPost}
	}
	boundary := boundaryOf(contentType, body)
	first := []byte("--" + boundary + "\r\n")
	if boundary == "" || !bytes.HasPrefix(body, first) && !bytes.Contains(body, append([]byte("\r\n"), first...)) {
		return form{err: errMediaMissing}
	}
	for reader := multipart.NewReader(bytes.NewReader(body), boundary); ; {
		part, err := reader.NextRawPart()
		if err != nil {
			return form{err: errMediaMissing} // io.EOF, or not well-formed
		}
		quoted := quotedFilename.FindStringSubmatch(part.Header.Get("Content-Disposition"))
		if part.FormName() != "media" || quoted == nil {
			continue
		}
		buf := bytes.NewBuffer(make([]byte, 0, len(body)+bytes.MinRead))
		if _, err = buf.ReadFrom(part); err != nil {
			return form{err: errMediaMissing}
		}
		return form{filename: quoted[1], content: buf.Bytes()}
	}
}

var quotedFilename = regexp.MustCompile(`;\s*filename="((?:[^"\\]|\\.)+)"`)

// boundaryOf returns what WeChat takes for a form's boundary: all that follows
// `boundary=`, so that one in quotes, or with a charset behind it, is in no body
// (https://github.com/elant/weixin_java, a capture of 2016). Without that parameter it is
// reported to go by the body's first line: https://github.com/binarywang/WxJava/issues/3273.
// How it takes other spellings of these words is a guess, as it is that WeCom does the same.
func boundaryOf(contentType string, body []byte) string {
	if mediaType, _, _ := strings.Cut(contentType, ";"); !strings.EqualFold(strings.TrimSpace(mediaType), "multipart/form-data") {
		return ""
	}
	if _, boundary, ok := strings.Cut(contentType, "boundary="); ok {
		return boundary
	}
	line, _, ok := bytes.Cut(body, []byte("\r\n"))
	if !ok || !bytes.HasPrefix(line, []byte("--")) {
		return ""
	}
	return string(line[2:])
}

// looksLike reports whether content begins as files with an extension do; what begins
// as none of these is not looked at.
func looksLike(extension string, content []byte) bool {
	begins := func(with string) bool { return bytes.HasPrefix(content, []byte(with)) }
	switch extension {
	case "jpg", "jpeg":
		return begins("\xff\xd8\xff")
	case "png":
		return begins("\x89PNG\r\n\x1a\n")
	case "gif":
		return begins("GIF87a") || begins("GIF89a")
	case "amr":
		return begins("#!AMR")
	case "mp3":
		return begins("ID3") || len(content) > 1 && content[0] == 0xff && content[1]&0xe0 == 0xe0
	case "mp4":
		return len(content) >= 8 && string(content[4:8]) == "ftyp"
	}
	return true
}
