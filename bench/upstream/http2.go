package upstream

// HTTP/2, by net/http, for clients that choose it.

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
)

// ServeHTTP implements http.Handler.
func (w *wechat) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	res := w.answer(r)
	for _, h := range res.header {
		rw.Header().Set(h[0], h[1])
	}
	rw.WriteHeader(res.status)
	_, _ = rw.Write(res.body)
}

func (w *wechat) answer(r *http.Request) *reply {
	query := r.URL.Query()
	switch {
	case r.Method == "GET" && r.URL.Path == "/cgi-bin/media/get":
		return w.download(query.Get("access_token"), query.Get("media_id"))
	case r.Method == "POST" && r.ContentLength < 0:
		return noLength
	case r.Method == "POST" && r.URL.Path == "/cgi-bin/media/upload":
		var checksum string
		if w.checks.Load() {
			sum := sha256.New()
			_, _ = io.Copy(sum, r.Body)
			checksum = hex.EncodeToString(sum.Sum(nil))
		} else {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		return w.upload(query.Get("access_token"), query.Get("type"), checksum)
	case r.Method == "POST" && r.URL.Path == "/cgi-bin/stable_token":
		var body bytes.Buffer
		_, _ = io.Copy(&body, io.LimitReader(r.Body, maxHead))
		return w.stableToken(body.Bytes())
	}
	return notFound
}
