package tokensource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

const (
	sentinelSecret = "SENTINEL+secret/1 2"
	sentinelToken  = "SENTINELtoken"
	goodReply      = `{"access_token":"SENTINELtoken","expires_in":7200}`
)

// ask lets source talk to h, as the app that is given.
func ask(t *testing.T, source token.Source, req token.Request, h http.HandlerFunc) (token.Reply, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	req.BaseURL = srv.URL
	return fetch(t, source, req)
}

// fetch asks source as the manager does, and looks through its error for secrets.
func fetch(t *testing.T, source token.Source, req token.Request) (token.Reply, error) {
	t.Helper()
	req.AppSecret = sentinelSecret
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	req.Client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	reply, err := source.Fetch(ctx, req)
	checkNoSecret(t, err)
	if err != nil && reply != (token.Reply{}) {
		t.Error("an error and a token")
	}
	return reply, err
}

// checkNoSecret looks for sentinels in an error, in all that it wraps, and in what the
// operator is told to do.
func checkNoSecret(t *testing.T, err error) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		msg := fmt.Sprintf("%v %+v", e, e)
		var failure *token.Failure
		if errors.As(e, &failure) {
			msg += failure.Hint
		}
		var refused *token.ErrcodeError
		if errors.As(e, &refused) {
			msg += refused.Errmsg
		}
		if strings.Contains(msg, "SENTINEL") || strings.Contains(msg, "secret/1") || strings.Contains(msg, "1 2") {
			t.Errorf("an error carries a secret: %s", msg)
		}
	}
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func provision(s interface {
	caddy.Provisioner
	caddy.Validator
}) error {
	return errors.Join(s.Provision(caddy.Context{}), s.Validate())
}

func mustProvision(t *testing.T, s interface {
	caddy.Provisioner
	caddy.Validator
}) {
	t.Helper()
	if err := provision(s); err != nil {
		t.Fatalf("provisioning: %v", err)
	}
}

// checkUnmarshal holds what a source becomes against JSON, or an error.
func checkUnmarshal(t *testing.T, newSource func() caddyfile.Unmarshaler, wants map[string]string) {
	t.Helper()
	for input, want := range wants {
		s := newSource()
		err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
		if text, isErr := strings.CutPrefix(want, "error: "); isErr {
			if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: got %v, want %s", input, err, text)
			}
		} else if got := string(caddyconfig.JSON(s, nil)); err != nil || got != want {
			t.Errorf("%q: got %s, %v; want %s", input, got, err, want)
		}
	}
}

// Every source is a module of the namespace that apps load theirs from.
func TestModules(t *testing.T) {
	for _, name := range []string{"stable", "classic", "server", "file", "wecom"} {
		info, err := caddy.GetModule("http.wechat.token_sources." + name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		source, ok := info.New().(token.Source)
		if !ok || !strings.HasPrefix(source.Traits().Identity, name) {
			t.Errorf("%s is not a token source of that name", name)
		}
		if _, ok := info.New().(caddyfile.Unmarshaler); !ok {
			t.Errorf("%s cannot be written in a Caddyfile", name)
		}
	}
}
