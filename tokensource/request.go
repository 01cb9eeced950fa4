package tokensource

// One call for a token over HTTP: what is sent, what is read of the answer, and that
// no error says what was in either.

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// maxReply is the most that is read of an answer, in bytes. WeChat's have a few
// hundred.
const maxReply = 64 << 10

// answer is what came back.
type answer struct {
	status int
	date   time.Time // when, by the clock of whoever answered
	body   []byte    // at most one byte longer than maxReply
}

// call sends r. What net/http says of a failure is scrubbed, for it quotes the URL,
// which may have a secret in its query.
func call(client *http.Client, r *http.Request) (answer, error) {
	if r.Header.Get("Accept") == "" {
		r.Header.Set("Accept", "application/json")
	}
	res, err := client.Do(r)
	if err != nil {
		return answer{}, token.Scrub(err)
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, date: time.Now()}
	if theirs, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		a.date = theirs
	}
	if a.body, err = io.ReadAll(io.LimitReader(res.Body, maxReply+1)); err != nil {
		return answer{}, token.Scrub(err)
	}
	return a, nil
}

// json returns the JSON object that the answer is.
func (a answer) json() ([]byte, error) {
	body := trimText(a.body)
	switch {
	case a.status != http.StatusOK:
		return nil, token.BadReply("status %d instead of 200", a.status)
	case len(a.body) > maxReply:
		return nil, token.BadReply("more than %d bytes", maxReply)
	case len(body) == 0:
		return nil, token.BadReply("no JSON but nothing with status 200")
	case !isObject(body):
		// what it looks like, not what it says it is: that may be anything
		mediaType, _, _ := mime.ParseMediaType(http.DetectContentType(body))
		return nil, token.BadReply("no JSON but %s with status 200", mediaType)
	}
	return body, nil
}

// errURL stands for an error that would quote a URL.
var errURL = errors.New("the URL to ask is invalid")

// isObject reports whether text is meant to be a JSON object.
func isObject(text []byte) bool { return len(text) > 0 && text[0] == '{' }

// trimText takes off a byte order mark, and white space on both sides.
func trimText(text []byte) []byte {
	return bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(text), []byte("\ufeff")))
}
