package tokensource

// The keys that a token server wants: which of the settings have one, so that no error
// quotes it, and whether one is written out in the config.

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
)

// findSecrets returns all that the server is sent and that it must not quote in an error.
func (s *Server) findSecrets() []string {
	secrets := append(textSecrets(s.body), s.body)
	for _, values := range s.headers {
		for _, value := range values {
			secrets = append(secrets, value)
			if _, credentials, ok := strings.Cut(value, " "); ok { // behind a scheme such as Bearer
				secrets = append(secrets, basicSecrets(credentials)...)
			}
		}
	}
	u, err := url.Parse(s.url)
	if err != nil {
		return append(secrets, s.url) // Validate refuses it
	}
	secrets = append(secrets, u.RawQuery)
	secrets = append(secrets, textSecrets(u.RawQuery)...)
	if password, ok := u.User.Password(); ok {
		secrets = append(secrets, password, u.User.String(),
			base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	} else if u.User != nil {
		secrets = append(secrets, u.User.Username())
	}
	for part := range strings.SplitSeq(u.Path, "/") {
		if isKey(part) {
			secrets = append(secrets, part)
		}
	}
	return secrets
}

// basicSecrets returns credentials and, if they are those of Basic, the password.
func basicSecrets(credentials string) []string {
	secrets := []string{credentials}
	if plain, err := base64.StdEncoding.DecodeString(credentials); err == nil {
		if _, password, ok := strings.Cut(string(plain), ":"); ok {
			secrets = append(secrets, string(plain), password)
		}
	}
	return secrets
}

// textSecrets returns the values in text: in JSON its strings, otherwise what a form
// or a query has.
func textSecrets(text string) []string {
	var doc any
	if json.Unmarshal([]byte(text), &doc) == nil {
		return stringsIn(doc)
	}
	var secrets []string
	for pair := range strings.SplitSeq(text, "&") {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			value = name // nothing but a key
		}
		secrets = append(secrets, value)
		if plain, err := url.QueryUnescape(value); err == nil {
			secrets = append(secrets, plain)
		}
	}
	return secrets
}

func stringsIn(doc any) (found []string) {
	switch doc := doc.(type) {
	case string:
		found = append(found, doc)
	case []any:
		for _, v := range doc {
			found = append(found, stringsIn(v)...)
		}
	case map[string]any:
		for _, v := range doc {
			found = append(found, stringsIn(v)...)
		}
	}
	return found
}

// warn tells the operator of keys that are written out.
func (s *Server) warn(logger *zap.Logger) {
	for _, setting := range s.writtenOut() {
		logger.Warn("what looks like a key is written out in the config, where the admin API and the autosave show it; "+
			"put {env.NAME} or {file.PATH} in its place",
			zap.String("token_source", "server"), zap.String("setting", setting))
	}
}

// keyHeader is what the header fields are called that have keys.
var keyHeader = regexp.MustCompile(`(?i)auth|key|token|secret|cookie|password|signature`)

// writtenOut names the settings that have a key in them without a placeholder.
func (s *Server) writtenOut() []string {
	literal := func(value string) string { return placeholder.ReplaceAllString(value, "") }
	var settings []string
	for name, value := range s.Headers {
		if keyHeader.MatchString(name) && slices.ContainsFunc(words(literal(value)), isLong) {
			settings = append(settings, "header "+name)
		}
	}
	slices.Sort(settings)
	if u, err := url.Parse(literal(s.URL)); err == nil {
		password, _ := u.User.Password()
		values := textSecrets(u.RawQuery)
		if password != "" || isKey(u.User.Username()) || slices.ContainsFunc(values, isKey) {
			settings = append(settings, "url")
		}
	}
	if isKey(literal(s.Body)) {
		settings = append(settings, "body")
	}
	return settings
}

// shortestKey is the least that a key has in characters, as far as can be guessed.
const shortestKey = 16

// isKey guesses whether text has a key in it: a long word with a digit, other than
// an AppID or a corp's id.
func isKey(text string) bool {
	return slices.ContainsFunc(words(text), func(word string) bool {
		isID := len(word) == 18 && slices.ContainsFunc(platform.All, func(p *platform.Platform) bool { return p.IsID(word) })
		return isLong(word) && strings.ContainsAny(word, "0123456789") && !isID
	})
}

func isLong(word string) bool { return len(word) >= shortestKey }

func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return !isTokenRune(r) })
}
