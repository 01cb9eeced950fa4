package wechatmedia

// Tokens in JSON of any shape: which fields have the token and its expiry.

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

const (
	// maxForeignLifetime is the longest that a token is used without asking again,
	// if somebody else than WeChat says how long it lives.
	maxForeignLifetime = 24 * time.Hour

	// milliseconds tells Unix times in milliseconds from ones in seconds: it is
	// the year 2001 in one and 33658 in the other.
	milliseconds = 1e12
)

// TokenFields says where in a JSON object a token and its expiry are.
type TokenFields struct {
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

func (f *TokenFields) setDefaults() {
	if f.TokenField == "" {
		f.TokenField = "access_token"
	}
	if f.ExpiresInField == "" {
		f.ExpiresInField = "expires_in"
	}
}

func (f *TokenFields) validate() error {
	return errors.Join(checkFieldName("token_field", f.TokenField), checkFieldName("expires_in_field", f.ExpiresInField),
		checkFieldName("expires_at_field", f.ExpiresAtField))
}

// tokenFieldOptions are the options that unmarshalOption reads.
const tokenFieldOptions = "token_field, expires_in_field or expires_at_field"

// unmarshalOption reads an option of a source's block, if it is one of these.
func (f *TokenFields) unmarshalOption(d *caddyfile.Dispenser) (known bool, err error) {
	into := map[string]*string{
		"token_field": &f.TokenField, "expires_in_field": &f.ExpiresInField, "expires_at_field": &f.ExpiresAtField,
	}[d.Val()]
	if into == nil {
		return false, nil
	}
	return true, oneArg(d, into)
}

// parse reads a token and its expiry from JSON that was written at the given time
// by the clock that its absolute times go by. unknown is taken for the lifetime
// if the JSON has none; 0 makes that an error.
func (f *TokenFields) parse(body []byte, written, now time.Time, unknown time.Duration) (TokenReply, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(body, &doc); err != nil {
		return TokenReply{}, badReply("JSON that is broken off or of another shape")
	}
	if err := errcodeIn(doc); err != nil {
		return TokenReply{}, err
	}
	var reply TokenReply
	raw, ok := field(doc, f.TokenField)
	if !ok || json.Unmarshal(raw, &reply.AccessToken) != nil {
		return TokenReply{}, badReply("no string in the field %s", f.TokenField)
	}
	if err := checkToken(reply.AccessToken); err != nil {
		return TokenReply{}, err
	}
	life, err := f.life(doc, written, now, unknown)
	if err != nil {
		return TokenReply{}, err
	}
	reply.ExpiresIn = min(life, maxForeignLifetime)
	return reply, nil
}

// life is how long the token lives from now on.
func (f *TokenFields) life(doc map[string]json.RawMessage, written, now time.Time, unknown time.Duration) (time.Duration, error) {
	number := func(name string) (n jsonNumber, ok bool) {
		raw, ok := field(doc, name)
		if ok {
			_ = n.UnmarshalJSON(raw)
		}
		return n, ok && n != "null"
	}
	var life time.Duration
	if at, ok := number(f.ExpiresAtField); f.ExpiresAtField != "" {
		seconds, isNumber := at.float()
		if !ok || !isNumber {
			return 0, badReply("no number in the field %s", f.ExpiresAtField)
		}
		if seconds >= milliseconds {
			seconds /= 1000
		}
		seconds -= float64(now.UnixNano()) / 1e9
		life = time.Duration(min(seconds, maxForeignLifetime.Seconds()) * float64(time.Second))
	} else if in, ok := number(f.ExpiresInField); ok {
		var err error
		if life, err = in.seconds(maxForeignLifetime); err != nil {
			return 0, err
		}
		life -= now.Sub(written)
	} else if unknown > 0 {
		life = unknown
	} else {
		return 0, badReply("no field %s", f.ExpiresInField)
	}
	if life <= 0 {
		return 0, badReply("a token that has expired %v ago", (-life).Round(time.Second))
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

// errcodeIn returns WeChat's refusal, which whoever is asked may pass on.
func errcodeIn(doc map[string]json.RawMessage) error {
	var errcode jsonNumber
	if raw, ok := doc["errcode"]; ok {
		_ = errcode.UnmarshalJSON(raw)
	}
	code, ok := errcode.int()
	if !ok || code == 0 {
		return nil
	}
	refused := &ErrcodeError{Errcode: int(code)}
	_ = json.Unmarshal(doc["errmsg"], &refused.Errmsg)
	return refused
}

// checkFieldName finds what cannot be the name of a field.
func checkFieldName(setting, name string) error {
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return fmt.Errorf("%s: %q is not the name of a field; write for example data.access_token", setting, name)
	}
	return nil
}
