package tokensource

// Secrets: how they get in through placeholders, and how they are kept out of errors.

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// placeholder is {env.NAME}, {file./path} and the like, which can be told from the
// braces of JSON.
var placeholder = regexp.MustCompile(`\{[a-z_]+\.[^{}"]+\}`)

// resolve replaces the placeholders of a setting. Its error names the setting, and
// not what that was about to become.
func resolve(setting, value string) (string, error) {
	out, err := caddy.NewReplacer().ReplaceOrErr(value, true, true)
	if err == nil {
		return strings.TrimRight(out, "\r\n"), nil // files end in a newline
	}
	// what stands beside a placeholder may be part of a secret
	if placeholder.FindString(value) == value {
		return "", fmt.Errorf("%s: %s is not set or empty", setting, value)
	}
	return "", fmt.Errorf("%s: a placeholder in it is not set or empty", setting)
}

// resolveText is resolve for text that may have braces of its own.
func resolveText(setting, value string) (string, error) {
	var errs []error
	out := placeholder.ReplaceAllStringFunc(value, func(p string) string {
		v, err := resolve(setting, p)
		errs = append(errs, err)
		return v
	})
	return out, errors.Join(errs...)
}

// withoutSecrets says what err is about, and sees to it that neither secrets nor what
// somebody else makes of them is in it.
func withoutSecrets(about string, err error, secrets ...string) error {
	var refused *token.ErrcodeError
	if errors.As(err, &refused) { // the one place with words of others in it
		refused.Errmsg = hide(refused.Errmsg, secrets)
	}
	return token.WithoutSecrets(fmt.Errorf("%s: %w", about, err), secrets...)
}

// shortestSecret keeps a header field such as `1` from being cut out of messages.
const shortestSecret = 4

// hide cuts secrets out of msg, also where their characters are percent-encoded.
func hide(msg string, secrets []string) string {
	// one may be part of another, whose rest would stay
	secrets = slices.SortedFunc(slices.Values(secrets), func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	var out strings.Builder
next:
	for len(msg) > 0 {
		for _, s := range secrets {
			if n := quoted(msg, s); n > 0 && len(s) >= shortestSecret {
				out.WriteString("[redacted]")
				msg = msg[n:]
				continue next
			}
		}
		out.WriteByte(msg[0])
		msg = msg[1:]
	}
	return out.String()
}

// quoted returns how many bytes of msg, at its beginning, say secret; 0: none do.
func quoted(msg, secret string) int {
	n := 0
	for _, b := range []byte(secret) {
		rest := msg[n:]
		switch {
		case len(rest) >= 3 && rest[0] == '%' && unhex(rest[1:3]) == int(b):
			n += 3
		case rest != "" && (rest[0] == b || rest[0] == '+' && b == ' '):
			n++
		default:
			return 0
		}
	}
	return n
}

func unhex(digits string) int {
	n, err := strconv.ParseUint(digits, 16, 8)
	if err != nil {
		return -1
	}
	return int(n)
}
