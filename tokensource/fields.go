package tokensource

// Tokens in JSON of any shape: which fields have the token and its expiry.

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

const (
	// maxForeignLife is the longest that a token is used without asking again, if
	// somebody else than WeChat says how long it lives.
	maxForeignLife = 24 * time.Hour

	// longestLife is what is read as a life; the age of a file goes off it.
	longestLife = 10 * 365 * 24 * time.Hour

	// milliseconds tells Unix times in milliseconds from ones in seconds: it is
	// the year 2001 in one and 33658 in the other.
	milliseconds = 1e12
)

// Fields says where in a JSON object a token and its expiry are.
type Fields struct {
	// The field with the token; dots lead into nested objects, as in
	// `data.access_token`. Default: `access_token`.
	TokenField string `json:"token_field,omitempty"`

	// The field with the token's life in seconds, counted from the server's answer,
	// or from when the file was written. Default: `expires_in`.
	ExpiresInField string `json:"expires_in_field,omitempty"`

	// The field with the moment the token expires, as Unix time in seconds (or
	// milliseconds), in place of its life. A server's own clock, from its Date
	// header, is what it is held against. Default: none.
	ExpiresAtField string `json:"expires_at_field,omitempty"`
}

func (f *Fields) setDefaults() {
	f.TokenField = cmp.Or(f.TokenField, "access_token")
	f.ExpiresInField = cmp.Or(f.ExpiresInField, "expires_in")
}

func (f *Fields) validate() error {
	return errors.Join(checkField("token_field", f.TokenField), checkField("expires_in_field", f.ExpiresInField),
		checkField("expires_at_field", f.ExpiresAtField))
}

// checkField finds what cannot be the name of a field.
func checkField(setting, name string) error {
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return fmt.Errorf("%s: %q is not the name of a field; write for example data.access_token", setting, name)
	}
	return nil
}

// options are the ones that a source's block has for the fields.
func (f *Fields) options() []option {
	return []option{
		{usage: "token_field <name>", read: text(&f.TokenField)},
		{usage: "expires_in_field <name>", read: text(&f.ExpiresInField)},
		{usage: "expires_at_field <name>", read: text(&f.ExpiresAtField)},
	}
}

// parse reads a token and its expiry from JSON that was written at the given time by
// the clock that its absolute times go by. unknown is taken for the life if the JSON
// has none; 0 makes that an error.
func (f *Fields) parse(body []byte, written, now time.Time, unknown time.Duration) (token.Reply, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(body, &doc); err != nil {
		return token.Reply{}, token.BadReply("JSON that is broken off or of another shape")
	}
	if err := refusalIn(doc); err != nil {
		return token.Reply{}, err
	}
	var reply token.Reply
	raw, ok := field(doc, f.TokenField)
	if !ok || json.Unmarshal(raw, &reply.AccessToken) != nil {
		return token.Reply{}, token.BadReply("no string in the field %s", f.TokenField)
	}
	reply.AccessToken = strings.TrimSpace(reply.AccessToken)
	if err := token.CheckToken(reply.AccessToken); err != nil {
		return token.Reply{}, err
	}
	life, err := f.life(doc, written, now, unknown)
	if err != nil {
		return token.Reply{}, err
	}
	reply.ExpiresIn = min(life, maxForeignLife)
	return reply, nil
}

// life is how long the token lives from now on.
func (f *Fields) life(doc map[string]json.RawMessage, written, now time.Time, unknown time.Duration) (time.Duration, error) {
	var life time.Duration
	in := numberIn(doc, f.ExpiresInField)
	switch {
	case f.ExpiresAtField != "":
		at, ok := numberIn(doc, f.ExpiresAtField).float()
		if !ok {
			return 0, token.BadReply("no number in the field %s", f.ExpiresAtField)
		}
		if at >= milliseconds {
			at /= 1000
		}
		at -= float64(now.UnixNano()) / 1e9
		life = time.Duration(max(-maxForeignLife.Seconds(), min(at, maxForeignLife.Seconds())) * float64(time.Second))
	case in.missing() && unknown > 0:
		life = unknown
	default:
		var err error
		if life, err = in.life(f.ExpiresInField, longestLife); err != nil {
			return 0, err
		}
		life -= max(0, now.Sub(written)) // a time to come makes no life longer
	}
	if life <= 0 {
		return 0, token.BadReply("a token that has expired %v ago", (-life).Round(time.Second))
	}
	return life, nil
}

// field follows the dots of name into doc.
func field(doc map[string]json.RawMessage, name string) (json.RawMessage, bool) {
	head, rest, nested := strings.Cut(name, ".")
	raw, ok := doc[head]
	if !nested || !ok {
		return raw, ok
	}
	var inner map[string]json.RawMessage
	if json.Unmarshal(raw, &inner) != nil {
		return nil, false
	}
	return field(inner, rest)
}

// numberIn returns what stands in a field, which may be missing or no number.
func numberIn(doc map[string]json.RawMessage, name string) (n number) {
	if raw, ok := field(doc, name); ok {
		_ = n.UnmarshalJSON(raw)
	}
	return n
}

// refusalIn returns WeChat's refusal, which whoever is asked may pass on.
func refusalIn(doc map[string]json.RawMessage) error {
	code, ok := numberIn(doc, "errcode").int()
	if !ok || code == 0 {
		return nil
	}
	refused := &token.ErrcodeError{Errcode: code}
	_ = json.Unmarshal(doc["errmsg"], &refused.Errmsg)
	return refused
}
