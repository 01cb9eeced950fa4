package wechatmedia

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestFileContents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "SENTINELpath")
	for name, tc := range map[string]struct {
		source  FileTokenSource
		content string
		token   string
		life    time.Duration // ±2 s; the file was written a minute ago
		text    string
	}{
		"plain":         {FileTokenSource{}, "SENTINELtoken", "SENTINELtoken", 2 * time.Hour, ""},
		"newline":       {FileTokenSource{}, " SENTINELtoken\r\n", "SENTINELtoken", 2 * time.Hour, ""},
		"BOM":           {FileTokenSource{}, "\ufeffSENTINELtoken", "SENTINELtoken", 2 * time.Hour, ""},
		"JSON":          {FileTokenSource{}, `{"access_token":"SENTINELtoken"}`, "SENTINELtoken", 2 * time.Hour, ""},
		"JSON, life":    {FileTokenSource{}, `{"access_token":"SENTINELtoken","expires_in":600}`, "SENTINELtoken", 9 * time.Minute, ""},
		"JSON, end":     {FileTokenSource{TokenFields: TokenFields{ExpiresAtField: "exp"}}, fmt.Sprintf(`{"access_token":"SENTINELtoken","exp":%d}`, time.Now().Add(time.Hour).Unix()), "SENTINELtoken", time.Hour, ""},
		"JSON, fields":  {FileTokenSource{TokenFields: TokenFields{TokenField: "a.b", ExpiresInField: "a.c"}}, `{"a":{"b":"SENTINELtoken","c":120}}`, "SENTINELtoken", time.Minute, ""},
		"JSON, expired": {FileTokenSource{}, `{"access_token":"SENTINELtoken","expires_in":30}`, "", 0, "expired 30s ago"},
		"empty":         {FileTokenSource{}, "\n", "", 0, "no access_token"},
		"two words":     {FileTokenSource{}, "SENTINEL token", "", 0, "unexpected characters"},
		"torn":          {FileTokenSource{}, `{"access_token":"SENTIN`, "", 0, "broken off"},
		"too long":      {FileTokenSource{}, strings.Repeat("a", 70_000), "", 0, "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			written := time.Now().Add(-time.Minute)
			_ = os.Chtimes(path, written, written)
			s := tc.source
			s.Path = path
			mustProvision(t, &s)
			reply, err := s.FetchToken(t.Context(), TokenRequest{})
			if tc.text == "" {
				if err != nil || reply.AccessToken != tc.token || (reply.ExpiresIn-tc.life).Abs() > 2*time.Second || reply.RefreshIn != filePollInterval {
					t.Errorf("got %+v, %v", reply, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tc.text) || classify(err).kind != failureFile || strings.Contains(err.Error(), "SENTINEL") {
				t.Errorf("got %v, want %s", err, tc.text)
			}
		})
	}
}

// A change is picked up within 5 seconds; while the file is missing or torn, the
// token that was in it stays.
func TestFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		s := &FileTokenSource{Path: path}
		mustProvision(t, s)
		m := newTokenManager(tokenOptionsOf(s))
		defer m.Destruct()
		m.attach(&tokenBackend{fetch: func(ctx context.Context, rejected string, _ bool) (TokenReply, error) {
			return fetchToken(ctx, s, TokenRequest{Rejected: rejected})
		}})
		m.start()
		if _, err := m.token(t.Context()); err == nil {
			t.Fatal("a token without a file")
		}
		write := func(content string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(filePollInterval)
			synctest.Wait()
		}
		write("first")
		if got := mustToken(t, m).value(); got != "first" {
			t.Errorf("got %q", got)
		}
		write("")
		_ = os.Remove(path)
		time.Sleep(time.Hour)
		if got := mustToken(t, m).value(); got != "first" {
			t.Errorf("got %q", got)
		}
		write("second")
		if got := mustToken(t, m).value(); got != "second" {
			t.Errorf("got %q", got)
		}
		time.Sleep(72 * time.Hour) // it stays as long as the file does
		tok := mustToken(t, m)
		if s := m.status(); s.Failure != "" {
			t.Errorf("status is %+v", s)
		}
		if next, err := m.reject(t.Context(), tok, 40001); err != nil || next.value() != "second" {
			t.Errorf("got %v", err)
		}
		write("third")
		if got := mustToken(t, m).value(); got != "third" {
			t.Errorf("got %q", got)
		}
	})
}

func TestFileConfig(t *testing.T) {
	t.Setenv("TOKEN_FILE", "/run/token")
	s := FileTokenSource{Path: "{env.TOKEN_FILE}"}
	mustProvision(t, &s)
	if s.path != "/run/token" || s.QueryParam() != "access_token" {
		t.Errorf("got %q, %q", s.path, s.QueryParam())
	}
	for text, s := range map[string]FileTokenSource{
		"path is required":           {},
		"not the name of a query":    {Path: "p", Param: "a=b"},
		"token_field":                {Path: "p", TokenFields: TokenFields{TokenField: ".a"}},
		"path: evaluated placeholde": {Path: "{env.NOT_SET_ANYWHERE}"},
	} {
		err := s.Provision(caddy.Context{})
		if err == nil {
			err = s.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %s", err, text)
		}
	}
}

func TestFileCaddyfile(t *testing.T) {
	for input, want := range map[string]string{
		"file /run/token": `{"path":"/run/token"}`,
		"file /.tencentcloudbase/wx/cloudbase_access_token {\nparam cloudbase_access_token\n}": `{"path":"/.tencentcloudbase/wx/cloudbase_access_token","param":"cloudbase_access_token"}`,
		"file p {\ntoken_field a\nexpires_in_field b\nexpires_at_field c\n}":                   `{"path":"p","token_field":"a","expires_in_field":"b","expires_at_field":"c"}`,
		"file":                          "error: write: token file <path>",
		"file \"\"":                     "error: write: token file <path>",
		"file a b":                      "error: write: token file <path>",
		"file a {\nparam\n}":            "error: param takes one argument",
		"file a {\nparam x\nparam y\n}": "error: param is already specified",
		"file a {\nparam x {\ny\n}\n}":  "error: param takes no block",
		"file a {\nfield x\n}":          "error: unrecognized option field of token file; use param",
	} {
		var s FileTokenSource
		checkUnmarshal(t, &s, input, want)
	}
}
