package caddysandbox

// The access log. What comes to the sandbox has tokens and secrets in its query, as
// calls of WeChat have, and Caddy has taken down the request before a handler sees it.
// So Caddy's line is left out, and one that is like it, without them, goes to the same
// loggers.

import (
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// serveLogged serves a request, and logs it where and if Caddy would have.
func (h *Handler) serveLogged(w http.ResponseWriter, r *http.Request) {
	skipped, _ := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool)
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	var loggers []*zap.Logger
	if !skipped {
		loggers = h.accessLoggers(r)
	}
	if len(loggers) == 0 {
		h.server.ServeHTTP(w, r)
		return
	}
	start, rec := time.Now(), caddyhttp.NewResponseRecorder(w, nil, nil)
	defer func() { // also when the sandbox cuts the connection, by a panic
		for _, logger := range loggers {
			if c := logger.Check(zapcore.InfoLevel, "handled request"); c != nil {
				c.Write(
					zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: withoutSecrets(r)}),
					zap.Duration("duration", time.Since(start)),
					zap.Int("size", rec.Size()),
					zap.Int("status", rec.Status()),
					zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: rec.Header()}),
				)
			}
		}
	}()
	h.server.ServeHTTP(rec, r)
}

// accessLoggers returns the loggers that Caddy's server writes its line to: those that
// log_name says, else the host's, else the default one. It is Caddy's own choice, which
// is not exported.
func (h *Handler) accessLoggers(r *http.Request) []*zap.Logger {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil || h.accessLog == nil {
		return nil
	}
	host := hostOf(r)
	names, mapped := namesFor(server.Logs, host)
	matches := func(pattern string) bool { return certmagic.MatchWildcard(host, pattern) }
	if !mapped && (server.Logs.SkipUnmappedHosts || slices.ContainsFunc(server.Logs.SkipHosts, matches)) {
		return nil
	}
	if own, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		names = nil
		for _, name := range own {
			if name, ok := name.(string); ok {
				names = append(names, name)
			}
		}
	}
	var loggers []*zap.Logger
	for _, name := range names {
		if name == "" {
			loggers = append(loggers, h.accessLog)
			continue
		}
		loggers = append(loggers, h.accessLog.Named(name))
	}
	return loggers
}

// namesFor returns the names of a host's loggers, and whether it has any of its own.
func namesFor(logs *caddyhttp.ServerLogConfig, host string) (names []string, mapped bool) {
	if names, ok := logs.LoggerNames[host]; ok {
		return names, true
	}
	for pattern, names := range logs.LoggerNames {
		if certmagic.MatchWildcard(host, pattern) {
			return names, true
		}
	}
	return []string{logs.DefaultLoggerName}, false
}

func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	return strings.ToLower(host)
}

// withoutSecrets returns a copy of a request for the log.
func withoutSecrets(r *http.Request) *http.Request {
	clone := r.Clone(r.Context())
	clone.RequestURI = redact(r.RequestURI)
	for _, name := range []string{"Referer", "Origin"} { // a URL may be in them
		if clone.Header.Get(name) != "" {
			clone.Header.Set(name, redacted)
		}
	}
	return clone
}

const redacted = "REDACTED"

var (
	plainPath  = regexp.MustCompile(`^[0-9A-Za-z_./-]*`)
	plainValue = regexp.MustCompile(`^[0-9A-Za-z_./-]*$`)

	// Parameters that are no secrets, and those that are and may be named.
	logged  = []string{"type", "media_id", "grant_type", "appid", "corpid", "endpoint", "duration", "bytes_per_second", "after", "times", "errcode"}
	secrets = []string{"access_token", "cloudbase_access_token", "secret", "corpsecret"}
)

// redact leaves of a URL what is known to be no secret. Parameters stand in odd places:
// behind a semicolon, in the path for want of a question mark.
func redact(uri string) string {
	path, query, ok := strings.Cut(uri, "?")
	if plain := plainPath.FindString(path); plain != path {
		path = plain + redacted
	}
	if !ok {
		return path
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		switch {
		case slices.Contains(logged, name) && plainValue.MatchString(value):
		case slices.Contains(logged, name), slices.Contains(secrets, name):
			pairs[i] = name + "=" + redacted
		default:
			pairs[i] = redacted
		}
	}
	return path + "?" + strings.Join(pairs, "&")
}
