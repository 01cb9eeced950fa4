package wechatmedia

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
)

// commandFlags parses arguments as the command does.
func commandFlags(t *testing.T, args ...string) caddycmd.Flags {
	t.Helper()
	cmd := &cobra.Command{Use: "wechat-media"}
	for _, c := range caddycmd.Commands() {
		if c.Name == "wechat-media" {
			c.CobraFunc(cmd)
		}
	}
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return caddycmd.Flags{FlagSet: cmd.Flags()}
}

func TestCommand(t *testing.T) {
	const secret = "sentinel-secret-of-the-command"
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		env  map[string]string
		args []string
		want string // in the error
	}{
		"environment":      {env: map[string]string{"WECHAT_APP_ID": "wx1", "WECHAT_APP_SECRET": secret}},
		"flags":            {args: []string{"--app-id", "wx1", "--app-secret-file", file, "--types", "image,voice", "--debug", "--access-log"}},
		"sandbox":          {args: []string{"--sandbox", "--listen", "127.0.0.1:0"}},
		"no app":           {want: "write --app-id or set WECHAT_APP_ID, or use --sandbox"},
		"no secret":        {args: []string{"--app-id", "wx1"}, want: "write --app-secret-file or set WECHAT_APP_SECRET"},
		"no such file":     {args: []string{"--app-id", "wx1", "--app-secret-file", file + "x"}, want: "is not set or empty"},
		"bad address":      {args: []string{"--sandbox", "--listen", "8080"}, want: "listen 8080: write host:port or :port"},
		"bad type":         {args: []string{"--sandbox", "--types", "gif"}, want: `"gif" is not a media type`},
		"WeCom":            {env: map[string]string{"WECHAT_APP_ID": testAgent, "WECHAT_APP_SECRET": secret}, args: []string{"--wecom", "--types", "image,file"}},
		"WeCom's sandbox":  {args: []string{"--wecom", "--sandbox", "--listen", "127.0.0.1:0"}},
		"not of WeCom":     {args: []string{"--wecom", "--sandbox", "--types", "thumb"}, want: `"thumb" is not a media type of WeCom`},
		"not of WeChat":    {args: []string{"--sandbox", "--types", "file"}, want: `"file" is not a media type of WeChat`},
		"account, sandbox": {args: []string{"--sandbox", "--app-id", "wx1"}, want: "leave --app-id and --app-secret-file away"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("WECHAT_APP_ID", tc.env["WECHAT_APP_ID"])
			t.Setenv("WECHAT_APP_SECRET", tc.env["WECHAT_APP_SECRET"])
			config, err := commandConfig(commandFlags(t, tc.args...))
			if err == nil {
				var out []byte
				if out, err = json.Marshal(config); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(out), secret) {
					t.Error("the secret is in the config")
				}
				err = caddy.Validate(config)
			}
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// A gateway on this machine is for its programs: no page of another site, and no name
// that was made to point here, reaches it through somebody's browser.
func TestCommandKeepsWebPagesOut(t *testing.T) {
	address := "127.0.0.1:" + freePort(t)
	args := []string{"--sandbox", "--listen", address}
	if testPlatform == platform.WeCom {
		args = append(args, "--wecom")
	}
	config, err := commandConfig(commandFlags(t, args...))
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Run(config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	for name, tc := range map[string]struct {
		host, header, value string
		out                 bool
	}{
		"a program":         {address, "", "", false},
		"localhost":         {"localhost:" + address[len("127.0.0.1:"):], "", "", false},
		"another site":      {address, "Sec-Fetch-Site", "cross-site", true},
		"another subdomain": {address, "Sec-Fetch-Site", "same-site", true},
		"a page of its own": {address, "Sec-Fetch-Site", "same-origin", false},
		"typed in":          {address, "Sec-Fetch-Site", "none", false},
		"a foreign Origin":  {address, "Origin", "https://evil.example", true},
		"one that looks so": {address, "Origin", "http://localhost.evil.example", true},
		"its own Origin":    {address, "Origin", "http://" + address, false},
		"rebinding":         {"evil.example", "", "", true},
	} {
		for _, method := range []string{"GET", "POST"} {
			req, _ := http.NewRequest(method, "http://"+address+"/cgi-bin/media/get?media_id=abc", nil)
			req.Host = tc.host
			if tc.header != "" {
				req.Header.Set(tc.header, tc.value)
			}
			res, err := noRedirects.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if (res.StatusCode == http.StatusForbidden) != tc.out {
				t.Errorf("%s, %s: %d", name, method, res.StatusCode)
			}
		}
	}
	if keepPagesOut("0.0.0.0:8080") != nil || keepPagesOut("localhost:8080") == nil {
		t.Error("who is kept out does not depend on who can call")
	}
}
