package wechatmedia

// The token source server: a central token server of the operator's own.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(new(ServerTokenSource))
}

// defaultServerRefresh is how often a token server is asked at least. It may
// replace the token at any time, and the old one lives 5 minutes on.
const defaultServerRefresh = 4 * time.Minute

// ServerTokenSource gets tokens from a central token server, which keeps them for
// all who use the account, as
// [WeChat recommends](https://developers.weixin.qq.com/doc/oplatform/developers/dev/AccessToken.html).
// The server answers with a JSON object that has the token and its expiry. It is
// reached as WeChat is, with the transport's egress proxy, local address and TLS
// trust.
type ServerTokenSource struct {
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

	TokenFields

	// The server is asked again after this time, or before the token expires if
	// that comes first. Default: `4m`, because a token that the server replaces
	// early goes on working for 5 minutes.
	RefreshInterval caddy.Duration `json:"refresh_interval,omitempty"`

	url, body string
	headers   http.Header
}

// CaddyModule returns the Caddy module information.
func (*ServerTokenSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.wechat.token_sources.server",
		New: func() caddy.Module { return new(ServerTokenSource) },
	}
}

// Provision sets up s.
func (s *ServerTokenSource) Provision(caddy.Context) error {
	if s.Method == "" {
		s.Method = http.MethodGet
	}
	if s.RefreshInterval == 0 {
		s.RefreshInterval = caddy.Duration(defaultServerRefresh)
	}
	s.TokenFields.setDefaults()

	// resolved into fields that no config dump and no log shows
	repl := caddy.NewReplacer()
	var err error
	if s.url, err = replaceSecret(repl, "url", s.URL); err != nil {
		return err
	}
	if s.body, err = replaceSecret(repl, "body", s.Body); err != nil {
		return err
	}
	s.headers = make(http.Header, len(s.Headers))
	for name, value := range s.Headers {
		if value, err = replaceSecret(repl, "header "+name, value); err != nil {
			return err
		}
		s.headers.Set(name, value)
	}
	return nil
}

// replaceSecret resolves the placeholders of a setting. Its error names the
// setting and not what it was about to become.
func replaceSecret(repl *caddy.Replacer, setting, value string) (string, error) {
	out, err := repl.ReplaceOrErr(value, true, true)
	if err != nil {
		return "", unsetError(setting, value)
	}
	return strings.TrimRight(out, "\r\n"), nil // files end in a newline
}

// Validate ensures that s can work.
func (s *ServerTokenSource) Validate() error {
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
	return s.TokenFields.validate()
}

// FetchToken implements TokenSource.
func (s *ServerTokenSource) FetchToken(ctx context.Context, req TokenRequest) (TokenReply, error) {
	reply, err := s.fetch(ctx, req.Client)
	if err != nil {
		secrets := []string{req.AppSecret, req.Rejected, s.body}
		for _, values := range s.headers {
			secrets = append(secrets, values...)
		}
		return TokenReply{}, withoutSecrets(fmt.Errorf("requesting token from token server: %w", err), secrets...)
	}
	return reply, nil
}

func (s *ServerTokenSource) fetch(ctx context.Context, client *http.Client) (TokenReply, error) {
	var date time.Time
	body, err := doTokenRequest(ctx, watchDate(client, &date), []string{s.url}, func(ctx context.Context, _ string) (*http.Request, error) {
		r, err := http.NewRequestWithContext(ctx, s.Method, s.url, bytes.NewReader([]byte(s.body)))
		if err != nil {
			return nil, err
		}
		if s.body == "" {
			r.Body = http.NoBody
		}
		r.Header = s.headers.Clone()
		if r.Header.Get("Accept") == "" {
			r.Header.Set("Accept", "application/json")
		}
		if host := r.Header.Get("Host"); host != "" {
			r.Host = host
		}
		return r, nil
	})
	if err != nil {
		return TokenReply{}, err
	}
	reply, err := s.TokenFields.parse(body, date, date, 0)
	if err != nil {
		return TokenReply{}, err
	}
	if interval := time.Duration(s.RefreshInterval); interval < reply.ExpiresIn/2 {
		reply.RefreshIn = interval
	}
	return reply, nil
}

// watchDate returns a client that notes what time it is on the server.
func watchDate(client *http.Client, date *time.Time) *http.Client {
	watching := *client
	next := client.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	watching.Transport = roundTripperFunc(func(r *http.Request) (*http.Response, error) {
		res, err := next.RoundTrip(r)
		if *date = time.Now(); err == nil {
			if theirs, err := http.ParseTime(res.Header.Get("Date")); err == nil {
				*date = theirs
			}
		}
		return res, err
	})
	return &watching
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

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
func (s *ServerTokenSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume source name
	if !d.AllArgs(&s.URL) {
		return d.Err("wrong arguments; write: token server <url>")
	}
	for d.NextBlock(0) {
		var err error
		option := d.Val()
		switch option {
		case "method":
			if err = oneArg(d, &s.Method); err == nil {
				s.Method = strings.ToUpper(s.Method)
			}
		case "header":
			err = s.unmarshalHeader(d)
		case "body":
			err = oneArg(d, &s.Body)
		case "refresh_interval":
			var text string
			if s.RefreshInterval != 0 {
				return d.Errf("%s is already specified", option)
			}
			if err = oneArg(d, &text); err == nil {
				var interval time.Duration
				if interval, err = caddy.ParseDuration(text); err != nil || interval <= 0 {
					return d.Errf("%s %s is not a duration; write for example 4m", option, text)
				}
				s.RefreshInterval = caddy.Duration(interval)
			}
		default:
			var known bool
			if known, err = s.TokenFields.unmarshalOption(d); !known {
				return d.Errf("unrecognized option %s of token server; use method, header, body, refresh_interval, "+
					tokenFieldOptions, option)
			}
		}
		if err == nil {
			err = noSourceBlock(d, option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *ServerTokenSource) unmarshalHeader(d *caddyfile.Dispenser) error {
	var name, value string
	if !d.AllArgs(&name, &value) {
		return d.Err("wrong arguments; write: header <field> <value>")
	}
	name = http.CanonicalHeaderKey(strings.TrimSuffix(name, ":"))
	if _, ok := s.Headers[name]; ok {
		return d.Errf("header %s is already specified", name)
	}
	if s.Headers == nil {
		s.Headers = make(map[string]string)
	}
	s.Headers[name] = value
	return nil
}

// oneArg reads the one argument of an option that may stand once.
func oneArg(d *caddyfile.Dispenser, into *string) error {
	option := d.Val()
	if *into != "" {
		return d.Errf("%s is already specified", option)
	}
	if !d.AllArgs(into) || *into == "" {
		return d.Errf("%s takes one argument", option)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*ServerTokenSource)(nil)
	_ caddy.Validator       = (*ServerTokenSource)(nil)
	_ TokenSource           = (*ServerTokenSource)(nil)
	_ caddyfile.Unmarshaler = (*ServerTokenSource)(nil)
)
