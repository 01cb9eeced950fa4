package wechatmedia

// What token endpoints answer, and what is believed of it.

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// maxTokenReply is the most that is read of an answer, in bytes. WeChat's have
	// a few hundred.
	maxTokenReply = 64 << 10

	// maxTokenLength is the longest token that is believed, in bytes. WeChat asks
	// for room for 512.
	maxTokenLength = 2 << 10

	// maxWechatLifetime is the longest that a token of WeChat's is used without
	// asking again. It documents "a value within 7200"; should it say more, asking
	// after two hours costs nothing.
	maxWechatLifetime = 2 * time.Hour
)

// doTokenRequest sends a request and returns the body of an answer with status
// 200. build makes the request for one of baseURLs; the next one is tried only
// when the one before could not be reached, for then it has decided nothing.
func doTokenRequest(ctx context.Context, client *http.Client, baseURLs []string,
	build func(ctx context.Context, baseURL string) (*http.Request, error)) ([]byte, error) {
	if len(baseURLs) == 0 {
		return nil, errors.New("there is no host to ask")
	}
	var err error
	for i, baseURL := range baseURLs {
		var body []byte
		body, err = tryTokenRequest(ctx, client, strings.TrimSuffix(baseURL, "/"), len(baseURLs)-i, build)
		var wire *wireError
		if err == nil || !errors.As(err, &wire) || ctx.Err() != nil {
			return body, err
		}
	}
	return nil, err
}

// tryTokenRequest asks one host. It leaves time for the hosts behind it.
func tryTokenRequest(ctx context.Context, client *http.Client, baseURL string, hostsLeft int,
	build func(ctx context.Context, baseURL string) (*http.Request, error)) ([]byte, error) {
	if deadline, ok := ctx.Deadline(); ok && hostsLeft > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(hostsLeft))
		defer cancel()
	}
	req, err := build(ctx, baseURL)
	if err != nil {
		return nil, errors.New("the URL of the token endpoint is invalid") // err quotes it
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, scrub(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxTokenReply+1))
	switch {
	case err != nil:
		return nil, scrub(err)
	case res.StatusCode != http.StatusOK:
		return nil, badReply("status %d instead of 200", res.StatusCode)
	case len(body) > maxTokenReply:
		return nil, badReply("more than %d bytes", maxTokenReply)
	case !looksLikeJSON(body):
		mediaType, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
		return nil, badReply("no JSON but %q with status 200", redact(mediaType))
	}
	return body, nil
}

func looksLikeJSON(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n\ufeff")
	return len(body) > 0 && body[0] == '{'
}

// parseWechatReply reads {"access_token":…,"expires_in":…} or {"errcode":…,"errmsg":…}.
func parseWechatReply(body []byte) (TokenReply, error) {
	var reply struct {
		AccessToken string     `json:"access_token"`
		ExpiresIn   jsonNumber `json:"expires_in"`
		Errcode     jsonNumber `json:"errcode"`
		Errmsg      string     `json:"errmsg"`
	}
	if err := json.Unmarshal(bytes.TrimLeft(body, "\ufeff"), &reply); err != nil {
		return TokenReply{}, badReply("JSON that is broken off or of another shape")
	}
	if code, ok := reply.Errcode.int(); ok && code != 0 {
		return TokenReply{}, &ErrcodeError{Errcode: int(code), Errmsg: reply.Errmsg}
	}
	if err := checkWechatToken(reply.AccessToken); err != nil {
		return TokenReply{}, err
	}
	expiresIn, err := reply.ExpiresIn.seconds(maxWechatLifetime)
	if err != nil {
		return TokenReply{}, err
	}
	return TokenReply{AccessToken: reply.AccessToken, ExpiresIn: expiresIn}, nil
}

// jsonNumber is a number as servers write them: 7200, 7200.0, "7200".
type jsonNumber string

// UnmarshalJSON takes anything; what is no number is found out later.
func (n *jsonNumber) UnmarshalJSON(b []byte) error {
	*n = jsonNumber(strings.TrimSpace(strings.Trim(string(b), `"`)))
	return nil
}

func (n jsonNumber) float() (float64, bool) {
	f, err := strconv.ParseFloat(string(n), 64)
	return f, err == nil || errors.Is(err, strconv.ErrRange)
}

func (n jsonNumber) int() (int64, bool) {
	i, err := strconv.ParseInt(string(n), 10, 32)
	return i, err == nil
}

// seconds reads a lifetime; a longer one than most is taken for most.
func (n jsonNumber) seconds(most time.Duration) (time.Duration, error) {
	if n == "" || n == "null" {
		return 0, badReply("no expires_in")
	}
	f, ok := n.float()
	switch {
	case !ok || f != f: // NaN
		return 0, badReply("an expires_in that is no number")
	case f <= 0:
		return 0, badReply("an expires_in of %v", f)
	case f >= most.Seconds():
		return most, nil
	}
	return time.Duration(f * float64(time.Second)), nil
}

// checkWechatToken holds what WeChat issued against what it is known to issue.
// Anything else is an answer from something else.
func checkWechatToken(t string) error {
	for _, r := range t {
		if !isTokenRune(r) && r != '.' && r != '~' {
			return badReply("an access_token with unexpected characters")
		}
	}
	return checkToken(t)
}

// checkToken makes sure that t can be a token at all, whoever issued it.
func checkToken(t string) error {
	switch {
	case t == "":
		return badReply("no access_token")
	case len(t) > maxTokenLength:
		return badReply("an access_token of %d bytes", len(t))
	}
	for _, r := range t {
		if r <= ' ' || r > '~' {
			return badReply("an access_token with unexpected characters")
		}
	}
	return nil
}

// isTLS reports whether err is one of TLS, whose texts are known to be harmless.
func isTLS(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		header       tls.RecordHeaderError
		alert        tls.AlertError
		authority    x509.UnknownAuthorityError
		hostname     x509.HostnameError
		invalid      x509.CertificateInvalidError
	)
	return errors.As(err, &verification) || errors.As(err, &header) || errors.As(err, &alert) ||
		errors.As(err, &authority) || errors.As(err, &hostname) || errors.As(err, &invalid)
}
