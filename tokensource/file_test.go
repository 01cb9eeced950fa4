package tokensource

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

func TestFileContents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "SENTINELpath")
	nested := Fields{TokenField: "a.b", ExpiresInField: "a.c"}
	atExp := Fields{ExpiresAtField: "exp"}
	inAnHour := time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC).Unix() // by the clock of synctest
	for name, tc := range map[string]struct {
		fields  Fields
		content string
		age     time.Duration // of the file
		life    time.Duration // 0: an error
		text    string
	}{
		"plain":             {Fields{}, "SENTINELtoken", time.Minute, 2 * time.Hour, ""},
		"newline":           {Fields{}, " SENTINELtoken\r\n", time.Minute, 2 * time.Hour, ""},
		"BOM":               {Fields{}, "\ufeffSENTINELtoken\n", time.Minute, 2 * time.Hour, ""},
		"JSON":              {Fields{}, `{"access_token":"SENTINELtoken"}`, time.Minute, 2 * time.Hour, ""},
		"JSON, BOM":         {Fields{}, "\ufeff" + ` {"access_token":"SENTINELtoken\n"}`, time.Minute, 2 * time.Hour, ""},
		"JSON, null":        {Fields{}, `{"access_token":"SENTINELtoken","expires_in":null}`, time.Minute, 2 * time.Hour, ""},
		"JSON, life":        {Fields{}, `{"access_token":"SENTINELtoken","expires_in":600}`, time.Minute, 9 * time.Minute, ""},
		"JSON, long life":   {Fields{}, `{"access_token":"SENTINELtoken","expires_in":172800}`, 30 * time.Hour, 18 * time.Hour, ""},
		"JSON, from future": {Fields{}, `{"access_token":"SENTINELtoken","expires_in":600}`, -3 * time.Hour, 10 * time.Minute, ""},
		"JSON, end":         {atExp, fmt.Sprintf(`{"access_token":"SENTINELtoken","exp":%d}`, inAnHour), time.Minute, time.Hour, ""},
		"JSON, fields":      {nested, `{"a":{"b":"SENTINELtoken","c":120}}`, time.Minute, time.Minute, ""},
		"JSON, expired":     {Fields{}, `{"access_token":"SENTINELtoken","expires_in":30}`, time.Minute, 0, "expired 30s ago"},
		"JSON, long gone":   {atExp, `{"access_token":"SENTINELtoken","exp":-1e30}`, time.Minute, 0, "expired 24h0m0s ago"},
		"refusal":           {Fields{}, `{"errcode":40013,"errmsg":"invalid appid"}`, time.Minute, 0, "errcode 40013"},
		"empty":             {Fields{}, "\n", time.Minute, 0, "no access_token"},
		"two words":         {Fields{}, "SENTINEL token", time.Minute, 0, "unexpected characters"},
		"two lines":         {Fields{}, "SENTINEL\ntoken", time.Minute, 0, "unexpected characters"},
		"JSON, two lines":   {Fields{}, `{"access_token":"SENTINEL\ntoken"}`, time.Minute, 0, "unexpected characters"},
		"torn":              {Fields{}, `{"access_token":"SENTIN`, time.Minute, 0, "broken off"},
		"too long":          {Fields{}, strings.Repeat("a", 70_000), time.Minute, 0, "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
					t.Fatal(err)
				}
				written := time.Now().Add(-tc.age)
				if err := os.Chtimes(path, written, written); err != nil {
					t.Fatal(err)
				}
				f := File{Path: path, Fields: tc.fields}
				mustProvision(t, &f)
				reply, err := f.Fetch(t.Context(), token.Request{})
				if tc.life > 0 {
					if err != nil || reply != (token.Reply{AccessToken: sentinelToken, ExpiresIn: tc.life, RefreshIn: pollInterval}) {
						t.Errorf("got %+v, %v", reply, err)
					}
					return
				}
				checkNoSecret(t, err)
				if kind, _ := kindOf(err); err == nil || !strings.Contains(err.Error(), tc.text) || kind != token.KindFile || reply != (token.Reply{}) {
					t.Errorf("got %+v, %v, want %s", reply, err, tc.text)
				}
			})
		})
	}
}

// What is in the file now counts, whatever was there before.
func TestFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	f := File{Path: path}
	mustProvision(t, &f) // does not read it
	for _, content := range []string{"", "first", "", "second"} {
		_ = os.Remove(path)
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		reply, err := f.Fetch(t.Context(), token.Request{Rejected: "first"})
		if reply.AccessToken != content || (err == nil) != (content != "") {
			t.Errorf("%q: got %v, %v", content, reply, err)
		}
	}
}

func TestFileConfig(t *testing.T) {
	t.Setenv("TOKEN_FILE", "/run/token")
	f := File{Path: "{env.TOKEN_FILE}", Param: "cloudbase_access_token"}
	mustProvision(t, &f)
	traits := f.Traits()
	if traits.Identity != "file /run/token" || traits.Param != "cloudbase_access_token" || !traits.Polls ||
		!strings.Contains(traits.NotShared, "give all gateways the file") || traits.NeedsSecret || traits.AsksUpstream {
		t.Errorf("traits are %+v", traits)
	}
	f = File{Path: "p"}
	mustProvision(t, &f)
	if got := f.Traits().Param; got != "access_token" {
		t.Errorf("the parameter is %q", got)
	}
	for text, f := range map[string]File{
		"path is required":               {},
		"not the name of a query":        {Path: "p", Param: "a=b"},
		"token_field":                    {Path: "p", Fields: Fields{TokenField: ".a"}},
		"path: {env.NOT_SET} is not set": {Path: "{env.NOT_SET}"},
		"path: a placeholder in it":      {Path: "SENTINEL{env.NOT_SET}"},
	} {
		err := provision(&f)
		checkNoSecret(t, err)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %s", err, text)
		}
	}
}

func TestFileCaddyfile(t *testing.T) {
	checkUnmarshal(t, func() caddyfile.Unmarshaler { return new(File) }, map[string]string{
		"file /run/token": `{"path":"/run/token"}`,
		"file /.tencentcloudbase/wx/cloudbase_access_token {\nparam cloudbase_access_token\n}": `{"path":"/.tencentcloudbase/wx/cloudbase_access_token","param":"cloudbase_access_token"}`,
		"file p {\ntoken_field a\nexpires_in_field b\nexpires_at_field c\n}":                   `{"path":"p","token_field":"a","expires_in_field":"b","expires_at_field":"c"}`,
		"file":                          "error: write: token file <path>",
		"file \"\"":                     "error: write: token file <path>",
		"file a b":                      "error: write: token file <path>",
		"file a {\nparam\n}":            "error: param: wrong arguments; write: param <name>",
		"file a {\nparam x y\n}":        "error: param: wrong arguments; write: param <name>",
		"file a {\nparam \"\"\n}":       "error: param: wrong arguments; write: param <name>",
		"file a {\nparam x\nparam y\n}": "error: param is already specified",
		"file a {\nparam x {\ny\n}\n}":  "error: param takes no block",
		"file a {\nfield x\n}":          "error: unrecognized option field of token file; use param, token_field, expires_in_field or expires_at_field",
	})
}
