package sandbox

// The store of media.

import (
	"container/list"
	"crypto/rand"
	"encoding/base64"
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
	id        string
	owner     *owner
	mediaType string
	filename  string // as it was sent
	extension string // in lower case, without the dot
	content   []byte
	created   time.Time
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

// get returns media of an owner that are not too old.
func (s *mediaStore) get(id string, o *owner, now time.Time) *storedMedia {
	for e := s.byAge.Front(); e != nil && now.Sub(e.Value.(*storedMedia).created) >= mediaLife; e = s.byAge.Front() {
		s.drop(e)
	}
	e := s.byID[id]
	if e == nil || e.Value.(*storedMedia).owner != o {
		return nil
	}
	return e.Value.(*storedMedia)
}

// add keeps media whose cost has been reserved, under a new media_id.
func (s *mediaStore) add(m *storedMedia) {
	random := make([]byte, 48) // 64 characters
	_, _ = rand.Read(random)
	m.id = m.owner.platform.mediaPrefix + base64.RawURLEncoding.EncodeToString(random)
	s.byID[m.id] = s.byAge.PushBack(m)
	s.stored += m.cost()
}
