package sandbox

// The store of media, and downloads from it.

import (
	"container/list"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// mediaLife is how long temporary media can be fetched.
	mediaLife = 3 * 24 * time.Hour

	// entryCost is what a stored file costs beside its bytes, about.
	entryCost = 512
)

// storedMedia is one file.
type storedMedia struct {
	id, app, mediaType, extension string
	content                       []byte
	created                       time.Time
}

func (m *storedMedia) cost() int64 { return int64(len(m.content)) + entryCost }

// mediaStore holds media within an amount of memory, which uploads under way
// share with it.
type mediaStore struct {
	limit, used int64
	stored      int64 // the part of used that can be dropped
	byID        map[string]*list.Element
	byAge       *list.List // of *storedMedia, oldest first
}

func newMediaStore(limit int64) mediaStore {
	return mediaStore{limit: limit, byID: make(map[string]*list.Element), byAge: list.New()}
}

// reserve takes memory, dropping the oldest media for it.
func (s *mediaStore) reserve(n int64) bool {
	if s.used-s.stored+n > s.limit {
		return false
	}
	for s.used+n > s.limit {
		s.drop(s.byAge.Front())
	}
	s.used += n
	return true
}

func (s *mediaStore) release(n int64) { s.used -= n }

func (s *mediaStore) drop(e *list.Element) {
	m := s.byAge.Remove(e).(*storedMedia)
	delete(s.byID, m.id)
	s.used -= m.cost()
	s.stored -= m.cost()
}

// get returns media of an app that are not too old.
func (s *mediaStore) get(id, app string, now time.Time) *storedMedia {
	for e := s.byAge.Front(); e != nil && now.Sub(e.Value.(*storedMedia).created) >= mediaLife; e = s.byAge.Front() {
		s.drop(e)
	}
	e := s.byID[id]
	if e == nil || e.Value.(*storedMedia).app != app {
		return nil
	}
	return e.Value.(*storedMedia)
}

// add keeps media whose cost has been reserved, under a new media_id.
func (s *mediaStore) add(m *storedMedia) {
	random := make([]byte, 48) // 64 characters
	_, _ = rand.Read(random)
	m.id = base64.RawURLEncoding.EncodeToString(random)
	s.byID[m.id] = s.byAge.PushBack(m)
	s.stored += m.cost()
}

// contentTypes are those of the replies, by extension.
var contentTypes = map[string]string{
	"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif",
	"amr": "audio/amr", "mp3": "audio/mp3", "mp4": "video/mp4",
}

// serveDownload answers /cgi-bin/media/get and /cgi-bin/media/get/jssdk.
// https://developers.weixin.qq.com/doc/service/api/material/temporary/api_getmedia
func (s *Server) serveDownload(endpoint Endpoint, w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
	case r.Method == http.MethodPost && endpoint == MediaGet: // one SDK fetches so
	default:
		refuse(w, r, errRequireGet)
		return
	}
	s.mu.Lock()
	m, e := s.find(endpoint, r)
	s.mu.Unlock()
	if e != nil {
		refuse(w, r, e)
		return
	}
	if m.mediaType == "video" {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		body, _ := json.Marshal(map[string]string{"video_url": fmt.Sprintf("%s://%s/sandbox/video/%s", scheme, r.Host, m.id)})
		h := w.Header()
		h.Set("Content-Type", "text/plain")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method != http.MethodHead {
			_, _ = w.Write(body)
		}
		return
	}
	contentType, extension := contentTypes[m.extension], m.extension
	if endpoint == MediaJSSDK {
		contentType, extension = "voice/speex", "speex"
	}
	s.send(w, r, m, contentType, extension)
}

func (s *Server) find(endpoint Endpoint, r *http.Request) (*storedMedia, *apiError) {
	a, e := s.checkToken(r)
	if e != nil {
		return nil, e
	}
	if e := s.spend(a, endpoint); e != nil {
		return nil, e
	}
	ids := r.URL.Query()["media_id"]
	if len(ids) == 0 || ids[0] == "" {
		return nil, errMediaIDMissing
	}
	m := s.media.get(ids[0], a.id, s.opts.Now())
	if len(ids) > 1 || m == nil || endpoint == MediaJSSDK && m.mediaType != "voice" {
		return nil, errMediaID
	}
	return m, nil
}

// send answers with a file, with the headers that WeChat documents. Range and
// conditional requests get the whole file: nobody has seen WeChat heed them.
func (s *Server) send(w http.ResponseWriter, r *http.Request, m *storedMedia, contentType, extension string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	// WeChat's own spelling
	h["Content-disposition"] = []string{fmt.Sprintf(`attachment; filename="%s.%s"`, m.id, extension)}
	h.Set("Cache-Control", "no-cache, must-revalidate")
	h.Set("Content-Length", strconv.Itoa(len(m.content)))
	if !s.opts.KeepAlive && r.ProtoMajor == 1 {
		h.Set("Connection", "close")
	}
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		s.sendBody(MediaGet, w, m.content)
	}
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
