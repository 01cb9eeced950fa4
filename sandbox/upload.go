package sandbox

// Uploads.

import (
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
)

// serveUpload answers POST /cgi-bin/media/upload.
func (s *Server) serveUpload(c *call) {
	switch {
	case c.r.Method != http.MethodPost:
		c.refuse(errRequirePost)
		return
	case c.r.ContentLength < 0:
		c.refuseUnknownLength()
		return
	}
	if s.opts.CheckTokenFirst {
		s.mu.Lock()
		_, e := s.checkToken(c)
		s.mu.Unlock()
		if e != nil {
			c.refuseEarly(e)
			return
		}
	}
	if c.r.ContentLength > c.platform.maxForm {
		c.refuseEarly(errMediaTooLarge)
		return
	}
	m, e, err := s.receive(c)
	switch {
	case err != nil: // the caller left
	case e != nil:
		c.refuse(e)
	default:
		c.replyUploaded(m)
	}
}

// receive reads an upload and keeps its media.
func (s *Server) receive(c *call) (m *storedMedia, e *apiError, err error) {
	size := c.r.ContentLength
	s.mu.Lock()
	reserved := s.media.reserve(size)
	s.mu.Unlock()
	if !reserved {
		return nil, errBusy, nil
	}
	release := func() {
		s.media.release(size)
		size = 0
	}
	defer func() { // also when the connection is cut, by a panic
		s.mu.Lock()
		defer s.mu.Unlock()
		release()
	}()
	body, err := s.readBody(c)
	if err != nil {
		return nil, nil, err
	}
	f := parseForm(c.r.Header.Get("Content-Type"), body)
	s.mu.Lock()
	release()
	m, e = s.store(c, f)
	hook := s.hooks.stored
	s.mu.Unlock()
	if e == nil && hook != nil {
		hook(m.id, m.content)
	}
	return m, e, nil
}

// store checks an upload and keeps its media. s.mu is held.
func (s *Server) store(c *call, f form) (*storedMedia, *apiError) {
	a, e := s.checkToken(c)
	if e != nil {
		return nil, e
	}
	if e := s.spend(a.owner, MediaUpload); e != nil {
		return nil, e
	}
	types := c.r.URL.Query()["type"]
	if len(types) != 1 {
		return nil, errMediaType
	}
	if e := a.platform.check(types[0], f); e != nil {
		return nil, e
	}
	return s.keep(&storedMedia{owner: a.owner, mediaType: types[0], filename: f.filename, extension: extensionOf(f.filename), content: f.content})
}

// check returns what is wrong with an upload of a type.
func (p *platform) check(mediaType string, f form) *apiError {
	kind, ok := p.mediaTypes[mediaType]
	if !ok {
		return errMediaType
	}
	if f.err != nil {
		return f.err
	}
	extension := extensionOf(f.filename)
	switch {
	case kind.extensions != nil && !slices.Contains(kind.extensions, extension):
		return errFileType
	case len(f.content) == 0:
		return errEmptyMedia
	case len(f.content) < p.smallest:
		return errMediaSize
	case len(f.content) > kind.limit:
		return kind.tooLarge
	case kind.extensions != nil && !looksLike(extension, f.content):
		// "suffix and type differ" is seen to get 40005; that it is told by the first
		// bytes, and that it comes for each of the types, is a guess.
		// https://developers.weixin.qq.com/community/develop/doc/0000ea2300cb2855d3fb32f815a400
		return errFileType
	}
	return nil
}

// keep takes media into the store. s.mu is held.
func (s *Server) keep(m *storedMedia) (*storedMedia, *apiError) {
	if !s.media.reserve(m.cost()) {
		return nil, errBusy
	}
	m.created = s.opts.Now()
	s.media.add(m)
	return m, nil
}

func extensionOf(filename string) string {
	return strings.ToLower(strings.TrimPrefix(path.Ext(filename), "."))
}

// AddMedia makes media known that were not uploaded, as those are that users send, and
// returns their media_id. id is an account's as it is in Options, and mediaType one of
// its platform's types. Neither the filename nor the content is checked, nor the size.
func (s *Server) AddMedia(id, mediaType, filename string, content []byte) (mediaID string, err error) {
	a := s.account(id)
	if a == nil {
		return "", fmt.Errorf("there is no account %s", id)
	}
	if _, ok := a.platform.mediaTypes[mediaType]; !ok {
		return "", fmt.Errorf("there is no media type %s", mediaType)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, e := s.keep(&storedMedia{owner: a.owner, mediaType: mediaType, filename: filename,
		extension: extensionOf(filename), content: slices.Clone(content)})
	if e != nil {
		return "", errors.New("there is not enough memory; see Options.MaxMemory")
	}
	return m.id, nil
}

// replyUploaded answers as documented: WeChat without an errcode, WeCom with one and
// with the time as a string.
func (c *call) replyUploaded(m *storedMedia) {
	if c.platform == wecom {
		c.reply(c.platform.uploadType, struct {
			Errcode   int    `json:"errcode"`
			Errmsg    string `json:"errmsg"`
			Type      string `json:"type"`
			MediaID   string `json:"media_id"`
			CreatedAt string `json:"created_at"`
		}{0, "ok", m.mediaType, m.id, strconv.FormatInt(m.created.Unix(), 10)})
		return
	}
	reply := struct {
		Type         string `json:"type"`
		MediaID      string `json:"media_id,omitempty"`
		ThumbMediaID string `json:"thumb_media_id,omitempty"` // an SDK reads it: silenceper/wechat
		CreatedAt    int64  `json:"created_at"`
	}{Type: m.mediaType, MediaID: m.id, CreatedAt: m.created.Unix()}
	if m.mediaType == "thumb" {
		reply.MediaID, reply.ThumbMediaID = "", m.id
	}
	c.reply(c.platform.uploadType, reply)
}
