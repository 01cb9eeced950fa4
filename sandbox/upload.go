package sandbox

// Uploads: all that WeChat finds wrong with a multipart body.

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"path"
	"slices"
	"strings"
)

// maxUpload is the largest body that is looked at, in bytes.
const maxUpload = 12 << 20

// mediaTypes are the types that can be uploaded, with the extensions and the
// sizes, in bytes, that WeChat documents.
// https://developers.weixin.qq.com/doc/service/api/material/temporary/api_uploadtempmedia
var mediaTypes = map[string]struct {
	extensions []string
	limit      int
	tooLarge   *apiError
}{
	"image": {[]string{"png", "jpeg", "jpg", "gif"}, 10 << 20, errImageSize},
	"voice": {[]string{"amr", "mp3"}, 2 << 20, errVoiceSize},
	"video": {[]string{"mp4"}, 10 << 20, errVideoSize},
	"thumb": {[]string{"jpg"}, 64 << 10, errThumbSize},
}

// serveUpload answers POST /cgi-bin/media/upload.
func (s *Server) serveUpload(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodPost:
		refuse(w, r, errRequirePost)
		return
	case r.ContentLength < 0:
		refuseUnknownLength(w, r)
		return
	}
	if s.opts.CheckTokenFirst {
		s.mu.Lock()
		_, e := s.checkToken(r)
		s.mu.Unlock()
		if e != nil {
			if r.ProtoMajor == 1 {
				w.Header().Set("Connection", "close")
			}
			refuse(w, r, e)
			return
		}
	}
	if r.ContentLength > maxUpload {
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close")
		}
		refuse(w, r, errMediaTooLarge)
		return
	}

	s.mu.Lock()
	reserved := s.media.reserve(r.ContentLength)
	s.mu.Unlock()
	if !reserved {
		refuse(w, r, errBusy)
		return
	}
	body, err := s.readBody(MediaUpload, w, r)
	s.mu.Lock()
	s.media.release(r.ContentLength)
	var m *storedMedia
	var e *apiError
	if err == nil {
		m, e = s.store(r, body)
	}
	hook := s.hooks.stored
	s.mu.Unlock()
	switch {
	case err != nil: // the caller left
		return
	case e != nil:
		refuse(w, r, e)
		return
	}
	if hook != nil {
		hook(m.id, m.content)
	}
	writeUploaded(w, r, m)
}

func writeUploaded(w http.ResponseWriter, r *http.Request, m *storedMedia) {
	reply := struct {
		Type         string `json:"type"`
		MediaID      string `json:"media_id,omitempty"`
		ThumbMediaID string `json:"thumb_media_id,omitempty"`
		CreatedAt    int64  `json:"created_at"`
	}{Type: m.mediaType, MediaID: m.id, CreatedAt: m.created.Unix()}
	if m.mediaType == "thumb" {
		reply.MediaID, reply.ThumbMediaID = "", m.id
	}
	body, _ := json.Marshal(reply)
	writeJSON(w, r, body)
}

// store checks an upload and keeps its media. s.mu is held.
func (s *Server) store(r *http.Request, body []byte) (*storedMedia, *apiError) {
	a, e := s.checkToken(r)
	if e != nil {
		return nil, e
	}
	if e := s.spend(a, MediaUpload); e != nil {
		return nil, e
	}
	types := r.URL.Query()["type"]
	if len(types) != 1 {
		return nil, errMediaType
	}
	kind, ok := mediaTypes[types[0]]
	if !ok {
		return nil, errMediaType
	}
	filename, content, e := findMedia(r.Header.Get("Content-Type"), body)
	if e != nil {
		return nil, e
	}
	extension := strings.ToLower(strings.TrimPrefix(path.Ext(filename), "."))
	switch {
	case !slices.Contains(kind.extensions, extension):
		return nil, errFileType
	case len(content) == 0:
		return nil, errEmptyMedia
	case len(content) > kind.limit:
		return nil, kind.tooLarge
	}
	m := &storedMedia{app: a.id, mediaType: types[0], extension: extension, content: bytes.Clone(content), created: s.opts.Now()}
	if !s.media.reserve(m.cost()) {
		return nil, errBusy
	}
	s.media.add(m)
	return m, nil
}

// findMedia looks for the part named media. WeChat does not find it when the
// boundary is quoted, lines do not end in CRLF, or the part has no quoted
// filename: https://github.com/daixinkai/feign.net/pull/13
func findMedia(contentType string, body []byte) (filename string, content []byte, e *apiError) {
	if len(body) == 0 {
		return "", nil, errEmptyPost
	}
	mediaType, params, err := mime.ParseMediaType(contentType)
	boundary := params["boundary"]
	if err != nil || mediaType != "multipart/form-data" || boundary == "" || strings.Contains(contentType, `"`) {
		return "", nil, errMediaMissing
	}
	if !bytes.HasPrefix(body, []byte("--"+boundary+"\r\n")) && !bytes.Contains(body, []byte("\r\n--"+boundary+"\r\n")) {
		return "", nil, errMediaMissing
	}
	for reader := multipart.NewReader(bytes.NewReader(body), boundary); ; {
		part, err := reader.NextRawPart()
		if err != nil {
			return "", nil, errMediaMissing // io.EOF, or not well-formed
		}
		if part.FormName() != "media" || !strings.Contains(part.Header.Get("Content-Disposition"), `filename="`) {
			continue
		}
		if filename = part.FileName(); filename == "" {
			continue
		}
		if content, err = io.ReadAll(part); err != nil {
			return "", nil, errMediaMissing
		}
		return filename, content, nil
	}
}
