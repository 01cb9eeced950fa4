package tokensource

// Secrets: how they get in through placeholders.

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
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
