package wechatmedia

// Multipart forms: the one Content-Type that WeChat gets whatever came in, and what
// seems to be wrong with a form that it refused.

import (
	"bytes"
	"mime"
	"net/textproto"
	"path"
	"strings"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
)

const (
	formType = "multipart/form-data"

	// maxBoundary is the longest boundary that RFC 2046 allows, in bytes.
	maxBoundary = 70

	// formHead is how much of a form is looked at to find its boundary, in bytes:
	// its first line.
	formHead = len("--") + maxBoundary + len("\r\n")

	// formPart is how much of a refused form is looked at for what is wrong, in bytes.
	formPart = 2 << 10
)

// isForm reports whether a Content-Type is that of a form. Parameters are not looked
// at: whatever is wrong with them, the body tells better.
func isForm(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), formType)
}

// formContentType is what goes to WeChat, which takes all that follows `boundary=`
// for the boundary: no quotes, no charset, no second value. head is the beginning of
// the body. It returns nothing if there is no boundary.
func formContentType(contentType string, head []byte) string {
	boundary := firstLineBoundary(head)
	if boundary == "" { // something stands in front of the first part
		boundary = announcedBoundary(contentType)
	}
	if !validBoundary(boundary) {
		return ""
	}
	return formType + "; boundary=" + boundary
}

// announcedBoundary is the boundary as the header has it, well-formed or not.
func announcedBoundary(contentType string) string {
	if _, params, err := mime.ParseMediaType(contentType); err == nil && params["boundary"] != "" {
		return params["boundary"]
	}
	for param := range strings.SplitSeq(contentType, ";") {
		name, value, _ := strings.Cut(param, "=")
		if strings.EqualFold(strings.TrimSpace(name), "boundary") {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}

// firstLineBoundary is the boundary that a body begins with.
func firstLineBoundary(head []byte) string {
	line, ok := bytes.CutPrefix(head, []byte("--"))
	if !ok {
		return ""
	}
	end := bytes.IndexByte(line, '\n')
	if end < 0 {
		return ""
	}
	b := strings.TrimRight(string(line[:end]), " \t\r") // transport padding is allowed behind it
	if !validBoundary(b) {
		return ""
	}
	return b
}

// validBoundary holds b against RFC 2046, 5.1.1.
func validBoundary(b string) bool {
	if b == "" || len(b) > maxBoundary || b[len(b)-1] == ' ' {
		return false
	}
	for i := range len(b) {
		c := b[i]
		if !isAlphanumeric(c) && !strings.ContainsRune("'()+_,-./:=? ", rune(c)) {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// formFault says what is wrong with a form that WeChat refused with code, as far as
// its first part shows; nothing if that is not known.
func formFault(code int, head []byte) string {
	if code != errcode.FileType && code != errcode.NoMedia {
		return ""
	}
	_, rest, ok := bytes.Cut(head, []byte("\n"))
	if !ok {
		return "the body has no line end in its beginning, where a boundary should be"
	}
	if !bytes.HasSuffix(head[:len(head)-len(rest)], []byte("\r\n")) {
		return "lines end in LF, not in CRLF"
	}
	header, _, ok := bytes.Cut(rest, []byte("\r\n\r\n"))
	if !ok {
		return ""
	}
	for line := range bytes.SplitSeq(header, []byte("\r\n")) {
		name, value, _ := strings.Cut(string(line), ":")
		if textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)) == "Content-Disposition" {
			return partFault(code, value)
		}
	}
	return "the first part has no Content-Disposition"
}

// partFault says what is wrong with a part's Content-Disposition.
func partFault(code int, disposition string) string {
	_, params, err := mime.ParseMediaType(disposition)
	switch {
	case err != nil:
		return "the part's Content-Disposition is not well-formed"
	case params["name"] != "media":
		return "the part is named " + cleanName(params["name"]) + ", not media"
	case !strings.Contains(strings.ToLower(disposition), "filename"):
		return "the part has no filename"
	case !strings.Contains(disposition, `filename="`):
		return "the part's filename is not in quotes"
	case code == errcode.NoMedia:
		return ""
	case path.Ext(params["filename"]) == "" || strings.HasSuffix(params["filename"], "."):
		return "filename " + cleanName(params["filename"]) + " has no extension"
	}
	return "the extension of filename " + cleanName(params["filename"]) + " does not fit the type, or the content does not fit the extension"
}

// cleanName makes a caller's name fit for a log.
func cleanName(name string) string {
	const most = 64
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '`' {
			return '?'
		}
		return r
	}, name)
	if runes := []rune(name); len(runes) > most {
		name = string(runes[:most]) + "…"
	}
	return "`" + name + "`"
}
