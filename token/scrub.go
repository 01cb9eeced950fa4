package token

// What may be said of an error without giving a secret away.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"strings"
)

// WireError is a failure between here and a token endpoint, without what may carry
// a secret: the URL, which has the AppSecret in its query for /cgi-bin/token, and
// bytes of a malformed answer, which net/http quotes.
type WireError struct {
	what  string
	cause error // only for Is and As of errors that are known to be harmless
}

// Error implements error.
func (e *WireError) Error() string { return e.what }

// Unwrap returns the cause, if it is known to be harmless.
func (e *WireError) Unwrap() error { return e.cause }

// Scrub turns what an http.Client returned, or the reading of a body, into a
// *[WireError], which can be returned from [Source].Fetch and logged.
func Scrub(err error) error {
	if err == nil {
		return nil
	}
	for urlErr := (*url.Error)(nil); errors.As(err, &urlErr); urlErr = nil {
		err = urlErr.Err
	}
	var timeout interface{ Timeout() bool }
	var op *net.OpError
	var dns *net.DNSError
	var known *WireError
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, context.Canceled):
		return &WireError{"canceled", context.Canceled}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &WireError{"timed out", context.DeadlineExceeded}
	case errors.As(err, &dns):
		return &WireError{dns.Error(), dns}
	case errors.As(err, &op):
		return &WireError{op.Error(), op}
	case isTLS(err):
		return &WireError{err.Error(), nil}
	}
	return &WireError{"the connection broke or carried no proper HTTP", nil}
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
// is classified as err is and does not. Secrets of fewer than 4 bytes are not looked
// for.
func WithoutSecrets(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	msg := err.Error()
	for _, s := range secrets {
		if len(s) >= shortestSecret {
			msg = strings.ReplaceAll(msg, s, "[redacted]")
		}
	}
	if msg == err.Error() {
		return err
	}
	f := kindOf(err)
	f.Err = errors.New(msg)
	return f
}
