package tokensource

// What the token endpoints of WeChat and WeCom answer, and what is believed of it.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// maxLife is the longest that a token of WeChat's is used without asking again. It
// documents "a value within 7200"; should it say more, asking after two hours costs
// nothing.
const maxLife = 2 * time.Hour

// failed says what was asked for in vain, and no secrets.
func failed(what string, err error, req token.Request, secrets ...string) error {
	if err == nil {
		return nil
	}
	return token.WithoutSecrets(fmt.Errorf("requesting %s: %w", what, err), append([]string{req.AppSecret, req.Rejected}, secrets...)...)
}

// request asks a token endpoint, which takes everything in its query, or in JSON that is
// posted to it.
func request(ctx context.Context, req token.Request, target string, payload []byte) (token.Reply, error) {
	method := http.MethodGet
	if payload != nil {
		method = http.MethodPost
	}
	// bytes.Reader gives it a Content-Length: WeChat answers 412 to a chunked one
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(req.BaseURL, "/")+target, bytes.NewReader(payload))
	if err != nil {
		return token.Reply{}, errURL // err quotes it
	}
	if payload != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	a, err := call(req.Client, r)
	if err != nil {
		return token.Reply{}, err
	}
	return parseReply(a)
}

// parseReply reads {"access_token":…,"expires_in":…} or {"errcode":…,"errmsg":…}.
func parseReply(a answer) (token.Reply, error) {
	body, err := a.json()
	if err != nil {
		return token.Reply{}, err
	}
	var reply struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   number `json:"expires_in"`
		Errcode     number `json:"errcode"`
		Errmsg      string `json:"errmsg"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return token.Reply{}, token.BadReply("JSON that is broken off or of another shape")
	}
	if code, ok := reply.Errcode.int(); ok && code != 0 {
		return token.Reply{}, &token.ErrcodeError{Errcode: code, Errmsg: reply.Errmsg}
	}
	if err := checkToken(reply.AccessToken); err != nil {
		return token.Reply{}, err
	}
	life, err := reply.ExpiresIn.life("expires_in", maxLife)
	if err != nil {
		return token.Reply{}, err
	}
	return token.Reply{AccessToken: reply.AccessToken, ExpiresIn: life}, nil
}

// checkToken holds what WeChat issued against what it is known to issue. Anything
// else is an answer from something else.
func checkToken(t string) error {
	if strings.ContainsFunc(t, func(r rune) bool { return !isTokenRune(r) && r != '.' && r != '~' }) {
		return token.BadReply("an access_token with unexpected characters")
	}
	return token.CheckToken(t)
}

func isTokenRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// number is a number as servers write them: 7200, 7200.0, "7200".
type number string

// UnmarshalJSON takes anything; what is no number is found out later.
func (n *number) UnmarshalJSON(b []byte) error {
	*n = number(strings.TrimSpace(strings.Trim(string(b), `"`)))
	return nil
}

func (n number) missing() bool { return n == "" || n == "null" }

func (n number) float() (float64, bool) {
	f, err := strconv.ParseFloat(string(n), 64)
	return f, (err == nil || errors.Is(err, strconv.ErrRange)) && f == f // not NaN
}

func (n number) int() (int, bool) {
	i, err := strconv.ParseInt(string(n), 10, 32)
	return int(i), err == nil
}

// life reads a lifetime in seconds from the named field; a longer one than most is
// taken for most.
func (n number) life(field string, most time.Duration) (time.Duration, error) {
	seconds, ok := n.float()
	switch {
	case n.missing():
		return 0, token.BadReply("no field %s", field)
	case !ok:
		return 0, token.BadReply("no number in the field %s", field)
	case seconds <= 0:
		return 0, token.BadReply("a life of %v s in the field %s", seconds, field)
	}
	return time.Duration(min(seconds, most.Seconds()) * float64(time.Second)), nil
}

// Interface guards
var _ json.Unmarshaler = (*number)(nil)
