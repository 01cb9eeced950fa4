package token

// What may be said of an error without giving a secret away.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

var (
	errTimedOut = errors.New("timed out")
	errBroke    = errors.New("the connection broke or carried no proper HTTP")
)

// Scrub turns what an http.Client returned, or the reading of a body, into a
// *[Failure] of kind [KindNetwork] or [KindTimeout], which can be returned from
// [Source].Fetch and logged. It has nothing in it that may carry a secret: the URL, which
// has the AppSecret in its query for /cgi-bin/token, and bytes of a malformed answer,
// which net/http quotes.
func Scrub(err error) error {
	if err == nil {
		return nil
	}
	for urlErr := (*url.Error)(nil); errors.As(err, &urlErr); urlErr = nil {
		err = urlErr.Err
	}
	var op *net.OpError
	var dns *net.DNSError
	var known *Failure
	harmless := errBroke
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, context.Canceled):
		harmless = context.Canceled
	case isTimeout(err):
		return &Failure{Kind: KindTimeout, Err: errTimedOut}
	case errors.As(err, &dns):
		harmless = dns
	case errors.As(err, &op):
		harmless = op
	case isTLS(err):
		harmless = errors.New(err.Error())
	}
	return &Failure{Kind: KindNetwork, Err: harmless}
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
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

const (
	// mostMessage is how long a message of somebody else's may be in a log, in bytes.
	mostMessage = 300

	// secretLength is what makes a word look like a secret: AppSecrets have 32
	// characters, and tokens more.
	secretLength = 32

	// shortestSecret keeps a header field such as `1` from being cut out of messages.
	shortestSecret = 4
)

// Redact makes a message of somebody else's fit for a log: one line, of bounded
// length, and without any word as long as an AppSecret or a token.
func Redact(msg string) string {
	var out strings.Builder
	start := 0
	flush := func(end int) {
		if end-start >= secretLength {
			out.WriteString("[redacted]")
		} else {
			out.WriteString(msg[start:end])
		}
	}
	for i, r := range msg {
		if isTokenRune(r) {
			continue
		}
		flush(i)
		start = i + len(string(r))
		if r < ' ' || r == 0x7f {
			r = ' '
		}
		if out.WriteRune(r); out.Len() > mostMessage {
			return out.String() + "…"
		}
	}
	flush(len(msg))
	return out.String()
}

func isTokenRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// WithoutSecrets returns err, or, if its text quotes one of secrets, an error that
// is classified as err is and does not. A secret is found as it is, and percent-encoded
// any number of times. Those of fewer than 4 bytes are not looked for.
func WithoutSecrets(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	msg := err.Error()
	if code := (*ErrcodeError)(nil); errors.As(err, &code) { // its text is cut short, and secrets with it
		hidden := ErrcodeError{code.Errcode, hide(code.Errmsg, secrets)}
		msg = strings.ReplaceAll(msg, code.Error(), hidden.Error())
	}
	if msg = hide(msg, secrets); msg == err.Error() {
		return err
	}
	f := kindOf(err)
	f.Err = errors.New(msg)
	return f
}

// hide cuts secrets out of msg.
func hide(msg string, secrets []string) string {
	// one may be part of another, whose rest would stay
	secrets = slices.SortedFunc(slices.Values(secrets), func(a, b string) int { return len(b) - len(a) })
	for _, s := range secrets {
		if len(s) >= shortestSecret && msg != "" {
			msg = spellings(s).ReplaceAllLiteralString(msg, "[redacted]")
		}
	}
	return msg
}

// spellings matches a secret of which any characters are percent-encoded, and their
// percent signs once more, and so on.
func spellings(secret string) *regexp.Regexp {
	var out strings.Builder
	for _, r := range secret {
		fmt.Fprintf(&out, `(?:%s|`, regexp.QuoteMeta(string(r)))
		for _, b := range []byte(string(r)) {
			fmt.Fprintf(&out, `%%(?:25)*(?i:%02x)`, b)
		}
		if r == ' ' {
			out.WriteString(`|\+|%(?:25)*(?i:2b)`)
		}
		out.WriteByte(')')
	}
	return regexp.MustCompile(out.String())
}
