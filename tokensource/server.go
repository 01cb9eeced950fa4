package tokensource

// The token source server: a central token server of the operator's own.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

func init() {
	caddy.RegisterModule(new(Server))
}

// defaultRefresh is how often a token server is asked at least. It may replace the
// token at any time, and the old one lives 5 minutes on.
const defaultRefresh = 4 * time.Minute

// Server gets tokens from a central token server, which keeps them for all who use
// the account, as
// [WeChat recommends](https://developers.weixin.qq.com/doc/oplatform/developers/dev/AccessToken.html).
// The server answers with status 200 and a JSON object that has the token and its
// expiry. It is reached with the transport's egress proxy, local address and TLS
// trust; redirects are not followed. It needs no AppSecret.
//
// A key for the server belongs in a placeholder such as `{env.TOKEN_SERVER_KEY}` or
// `{file./run/secrets/token_server_key}`: what is written out is in the config that
// the admin API and the autosave show, and is warned of.
type Server struct {
	// The URL to ask. Takes placeholders such as `{env.TOKEN_SERVER}`, which are
	// replaced when the config is loaded. Required.
	URL string `json:"url,omitempty"`

	// The method: `GET` or `POST`. Default: `GET`.
	Method string `json:"method,omitempty"`

	// Header fields to send, such as an API key. Values take placeholders.
	// Default: none.
	Headers map[string]string `json:"headers,omitempty"`

	// The body of a `POST`. Takes placeholders, and its Content-Type goes into
	// the headers. Default: none.
	Body string `json:"body,omitempty"`

	Fields

	// The server is asked again after this time, or before the token expires if
	// that comes first. Default: `4m`, because a token that the server replaces
	// early goes on working for 5 minutes.
	RefreshInterval caddy.Duration `json:"refresh_interval,omitempty"`

	url, body string
	headers   http.Header
	secrets   []string
}

// CaddyModule returns the Caddy module information.
func (*Server) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.wechat.token_sources.server",
		New: func() caddy.Module { return new(Server) },
	}
}

// Provision sets up s. It does not call the server.
func (s *Server) Provision(ctx caddy.Context) error {
	s.Method = cmp.Or(s.Method, http.MethodGet)
	s.RefreshInterval = cmp.Or(s.RefreshInterval, caddy.Duration(defaultRefresh))
	s.Fields.setDefaults()

	// resolved into fields that no config dump and no log shows
	var err error
	if s.url, err = resolve("url", s.URL); err != nil {
		return err
	}
	if s.body, err = resolveText("body", s.Body); err != nil {
		return err
	}
	s.headers = make(http.Header, len(s.Headers))
	for name, value := range s.Headers {
		if value, err = resolve("header "+name, value); err != nil {
			return err
		}
		s.headers.Set(name, value)
	}
	s.secrets = s.findSecrets()
	s.warn(ctx.Logger())
	return nil
}

// Validate ensures that s can work.
func (s *Server) Validate() error {
	u, err := url.Parse(s.url)
	switch {
	case s.url == "":
		return errors.New("url is required; write: token server https://<host>/<path>")
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New("url is not an absolute http or https URL")
	case s.Method != http.MethodGet && s.Method != http.MethodPost:
		return fmt.Errorf("method %s is neither GET nor POST", s.Method)
	case s.Body != "" && s.Method != http.MethodPost:
		return errors.New("a body goes with method POST only")
	case s.RefreshInterval < caddy.Duration(time.Second):
		return errors.New("refresh_interval is less than 1s")
	}
	for name, value := range s.headers {
		if strings.ContainsAny(name, " :\r\n") || strings.ContainsAny(value[0], "\r\n") {
			return fmt.Errorf("header %q is not a header field", name)
		}
	}
	return s.Fields.validate()
}

// Traits implements token.Source.
func (s *Server) Traits() token.Traits {
	return token.Traits{
		Identity: "server " + s.url,
		Hints: map[token.Kind]string{
			token.KindReply: fmt.Sprintf("the token server answers with something else than expected (token_field %s, %s); "+
				"hold url, token_field, expires_in_field and expires_at_field against what it answers", s.TokenField, s.expiryField()),
			token.KindNetwork:   "the token server cannot be reached; check url, the network, and the egress proxy and TLS trust of the transport",
			token.KindTimeout:   "the token server did not answer in time; check url, the network and the egress proxy of the transport",
			token.KindBusy:      "the token server passes on that WeChat is busy; nothing to do",
			token.KindQuota:     "the token server has used up its quota of token calls; see there who else asks for tokens of this app",
			token.KindSecret:    "the AppSecret that the token server has is wrong; correct it there",
			token.KindAppID:     "the AppID that the token server asks for is wrong; correct it there, or in url, header or body",
			token.KindIP:        "add {the token server's public IP address} to the IP whitelist in the WeChat admin",
			token.KindComponent: "a third-party platform manages this account; the token server has to get the token from there",
			token.KindConfirm:   "an administrator of the account has to confirm the token server; look for the message on WeChat",
			token.KindDenied:    "an administrator of the account refused the token server; WeChat allows another attempt after 1 or 24 hours",
			token.KindRequest:   "WeChat does not understand what the token server asks; see the token server's own log",
			token.KindSource:    "the token server failed; see the error",
		},
	}
}

func (s *Server) expiryField() string {
	if s.ExpiresAtField != "" {
		return "expires_at_field " + s.ExpiresAtField
	}
	return "expires_in_field " + s.ExpiresInField
}

// Fetch implements token.Source.
func (s *Server) Fetch(ctx context.Context, req token.Request) (token.Reply, error) {
	reply, err := s.fetch(ctx, req.Client)
	return reply, failed("token from token server", err, req, s.secrets...)
}

func (s *Server) fetch(ctx context.Context, client *http.Client) (token.Reply, error) {
	// with a Content-Length if there is a body, and without a body if there is none
	r, err := http.NewRequestWithContext(ctx, s.Method, s.url, strings.NewReader(s.body))
	if err != nil {
		return token.Reply{}, errURL // err quotes it
	}
	r.Header = s.headers.Clone()
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	a, err := call(client, r)
	if err != nil {
		return token.Reply{}, err
	}
	body, err := a.json()
	if err != nil {
		return token.Reply{}, &token.Failure{Kind: token.KindReply, Hint: s.hint(a.status), Err: err}
	}
	reply, err := s.Fields.parse(body, a.date, a.date, 0)
	if err != nil {
		return token.Reply{}, err
	}
	if interval := time.Duration(s.RefreshInterval); interval < reply.ExpiresIn {
		reply.RefreshIn = interval
	}
	return reply, nil
}

// hint says what to do about an answer that is no JSON with status 200.
func (s *Server) hint(status int) string {
	switch {
	case status == http.StatusOK:
		return "the token server answers no JSON object; it must, with the token in the field " + s.TokenField +
			" (token_field) and its expiry (expires_in_field or expires_at_field); check url and header, too"
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return "the token server does not let the gateway in; check the key in header, url or body of token server"
	case status >= 300 && status < 400:
		return "the token server redirects, which is not followed; write the URL that it redirects to as url of token server"
	case status == http.StatusNotFound:
		return "the token server has nothing at this path; check url of token server"
	case status == http.StatusMethodNotAllowed:
		return "the token server wants another method; check method of token server"
	case status >= 500:
		return "the token server is broken or overloaded; see its own log"
	}
	return "the token server does not understand the request; check url, method, header and body of token server"
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	token server <url> {
//	    method           GET|POST
//	    header           <field> <value>
//	    body             <body>
//	    token_field      <name>
//	    expires_in_field <name>
//	    expires_at_field <name>
//	    refresh_interval <duration>
//	}
//
// header can be repeated.
func (s *Server) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume source name
	if !d.AllArgs(&s.URL) || s.URL == "" {
		return d.Err("wrong arguments; write: token server <url>")
	}
	if err := block(d, "server", append([]option{
		{usage: "method GET|POST", read: text(&s.Method)},
		{usage: "header <field> <value>", read: s.readHeader, many: true},
		{usage: "body <body>", read: text(&s.Body)},
		{usage: "refresh_interval <duration>", read: duration(&s.RefreshInterval)},
	}, s.Fields.options()...)...); err != nil {
		return err
	}
	s.Method = strings.ToUpper(s.Method)
	return nil
}

// readHeader reads a header field.
func (s *Server) readHeader(d *caddyfile.Dispenser) error {
	var name, value string
	if !d.AllArgs(&name, &value) {
		return errArguments
	}
	name = http.CanonicalHeaderKey(strings.TrimSuffix(name, ":"))
	if _, ok := s.Headers[name]; ok {
		return fmt.Errorf("%s is already specified", name)
	}
	if s.Headers == nil {
		s.Headers = make(map[string]string)
	}
	s.Headers[name] = value
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Server)(nil)
	_ caddy.Validator       = (*Server)(nil)
	_ token.Source          = (*Server)(nil)
	_ caddyfile.Unmarshaler = (*Server)(nil)
)
