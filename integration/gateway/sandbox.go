package gateway

// A gateway before the sandbox, both in one process, as an SDK meets it.

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
)

// WeCom's account in the sandbox, beside WeChat's, and its line for Site.App.
const (
	Corp    = "ww0123456789abcdef/1000002"
	CorpApp = "app " + Corp + " {env." + SecretVariable + "} {\n\t\t\ttoken wecom\n\t\t}"
)

// Stranger is an operator's access check, for Site.Other: callers need a header.
const Stranger = "wechat_linger\n\t@stranger not header Authorization \"Bearer key\"\n\trespond @stranger 401"

// Site is one, and says what is in its Caddyfile.
type Site struct {
	App     string // the line of the app, and its block; default: WeChat's
	Options string // further subdirectives of wechat_media
	Other   string // further directives of the site
	NoToken bool   // the gateway gets none, and is ready without

	HTTP, HTTPS string // where it is, without a slash at the end
	Sandbox     string // where the sandbox is
	Cert        string // the file of the certificate, for whoever trusts it
	*Process
}

// Start runs the site until the test ends.
func (s Site) Start(t testing.TB) *Site {
	t.Helper()
	wechat := loopback.FreeAddr(t)
	s.HTTP, s.HTTPS, s.Sandbox = "http://"+loopback.FreeAddr(t), "https://"+loopback.FreeAddr(t), "http://"+wechat
	cert, key := loopback.MakeCert(t, t.TempDir())
	s.Cert = cert
	if s.App == "" {
		s.App = "app " + AppID + " {env." + SecretVariable + "}"
	}
	c := Config{URL: s.HTTP, Caddyfile: fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
}
(site) {
	bind 127.0.0.1
	%[1]s
	wechat_media %[2]s {
		%[3]s
		%[4]s
	}
}
%[5]s {
	import site
}
%[6]s {
	import site
	tls %[7]s %[8]s
}
%[2]s {
	bind 127.0.0.1
	wechat_sandbox {
		app %[9]s {env.%[11]s}
		corp %[10]s {env.%[11]s}
	}
}
`, s.Other, s.Sandbox, s.App, s.Options, s.HTTP, s.HTTPS, cert, key, AppID, Corp, SecretVariable)}
	if !s.NoToken {
		c.Ready = HasToken
	}
	s.Process = Start(t, c)
	return &s
}

// HasToken reports whether the log says so.
func HasToken(p *Process) bool { return strings.Contains(p.Log(), "fetched access token") }

// Picture is what the sandbox takes for a JPEG of that many bytes, and that no other
// call gets.
func Picture(size int) []byte {
	b := make([]byte, max(size, 3))
	_, _ = rand.Read(b)
	copy(b, "\xff\xd8\xff")
	return b
}
