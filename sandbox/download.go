package sandbox

// Downloads.

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// contentTypes are those of the replies, by extension.
var contentTypes = map[string]string{
	"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif",
	"amr": "audio/amr", "mp3": "audio/mp3", "mp4": "video/mp4",
}

// maxWithoutRange is the most that WeCom sends at once, in bytes.
// https://developer.work.weixin.qq.com/document/path/96486
const maxWithoutRange = 20 << 20

// serveDownload answers /cgi-bin/media/get and /cgi-bin/media/get/jssdk.
// https://developers.weixin.qq.com/doc/service/api/material/temporary/api_getmedia
// HEAD is what the documented `curl -I` sends, and POST is what one SDK fetches with
// (PowerWeChat); what the two get is a guess.
func (s *Server) serveDownload(c *call) {
	switch c.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		c.refuse(errRequireGet)
		return
	}
	s.mu.Lock()
	m, e := s.find(c)
	s.mu.Unlock()
	switch {
	case e != nil:
		c.refuse(e)
	case c.platform == wecom:
		s.sendRanges(c, m)
	case m.mediaType == "video":
		scheme := "http"
		if c.r.TLS != nil {
			scheme = "https"
		}
		c.reply("text/plain", map[string]string{"video_url": fmt.Sprintf("%s://%s/sandbox/video/%s", scheme, c.r.Host, m.id)})
	default:
		s.send(c, m)
	}
}

// find returns the media that a call is for. s.mu is held.
func (s *Server) find(c *call) (*storedMedia, *apiError) {
	a, e := s.checkToken(c)
	if e != nil {
		return nil, e
	}
	if e := s.spend(a.owner, c.endpoint); e != nil {
		return nil, e
	}
	ids := c.r.URL.Query()["media_id"]
	if len(ids) == 0 || ids[0] == "" {
		return nil, errMediaIDMissing
	}
	m := s.media.get(ids[0], a.owner, s.opts.Now())
	if len(ids) > 1 || m == nil || c.endpoint == MediaJSSDK && m.mediaType != "voice" {
		return nil, errMediaID
	}
	return m, nil
}

// send answers with a file, with the headers that WeChat documents. Range and
// conditional requests get the whole file: nobody has seen WeChat heed them.
func (s *Server) send(c *call, m *storedMedia) {
	contentType, extension := contentTypes[m.extension], m.extension
	if c.endpoint == MediaJSSDK {
		contentType, extension = "voice/speex", "speex"
	}
	h := s.mediaHeader(c, fmt.Sprintf(`attachment; filename="%s.%s"`, m.id, extension))
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(m.content)))
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method != http.MethodHead {
		_, _ = s.outgoing(c).Write(m.content)
	}
}

// sendRanges answers as WeCom does, which heeds Range, and names a file as it was
// uploaded: in raw bytes, and once more encoded, in this order
// (https://github.com/binarywang/WxJava/issues/3146 and /3348). What becomes of several
// ranges at once, and of one that is not in the file, is a guess.
func (s *Server) sendRanges(c *call, m *storedMedia) {
	if len(m.content) > maxWithoutRange && !narrow(c.r.Header.Get("Range"), len(m.content)) {
		c.refuse(errNeedsRange)
		return
	}
	contentType := contentTypes[m.extension]
	switch {
	case c.endpoint == MediaJSSDK:
		contentType = "voice/speex"
	case contentType == "":
		contentType = "application/octet-stream"
	}
	h := s.mediaHeader(c, fmt.Sprintf(`attachment; filename*=utf-8''%s; filename="%s"`,
		strings.ReplaceAll(url.QueryEscape(m.filename), "+", "%20"), m.filename))
	h.Set("Content-Type", contentType)
	http.ServeContent(s.outgoing(c), c.r, "", time.Time{}, bytes.NewReader(m.content))
}

// mediaHeader sets what both platforms send with a file.
func (s *Server) mediaHeader(c *call, disposition string) http.Header {
	h := c.w.Header()
	h["Content-disposition"] = []string{disposition} // in this spelling
	h.Set("Cache-Control", "no-cache, must-revalidate")
	if !s.opts.KeepAlive {
		c.closeConnection()
	}
	return h
}

var oneRange = regexp.MustCompile(`^bytes=(\d{0,12})-(\d{0,12})$`)

// narrow reports whether a Range asks for no more than may be sent at once.
func narrow(value string, size int) bool {
	m := oneRange.FindStringSubmatch(value)
	if m == nil || m[1] == "" && m[2] == "" {
		return false
	}
	first, _ := strconv.Atoi(m[1])
	last, err := strconv.Atoi(m[2])
	switch {
	case m[1] == "": // the last so many bytes
		return last <= maxWithoutRange
	case err != nil || last >= size:
		last = size - 1
	}
	return last-first < maxWithoutRange
}

// serveVideo answers a video_url, which needs no token.
func (s *Server) serveVideo(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimPrefix(r.URL.Path, "/sandbox/video/")
	s.mu.Lock()
	var m *storedMedia
	if e := s.media.byID[id]; e != nil {
		m = e.Value.(*storedMedia)
	}
	s.mu.Unlock()
	if m == nil || m.mediaType != "video" {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentTypes[m.extension])
	h.Set("Content-Length", strconv.Itoa(len(m.content)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(m.content)
	}
}
