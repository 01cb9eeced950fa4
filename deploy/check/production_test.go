package check

// A gateway set up by the documents: the README's configuration with its check, and
// a secret that is changed as docs/operations.md says.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	readme     = "../../README.md"
	operations = "../../docs/operations.md"
	gatewayKey = "sentinel-key-of-the-callers"
)

// block is the one block of a document that has all the words in it.
func block(t *testing.T, document, language string, words ...string) string {
	t.Helper()
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(read(t, document)), -1) {
		all := true
		for _, word := range words {
			all = all && strings.Contains(m[1], word)
		}
		if all {
			found = append(found, m[1])
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks with %q", document, len(found), words)
	}
	return found[0]
}

// replaced replaces what a configuration of the documents has, and fails if it has not.
func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("there is no %q in:\n%s", pairs[i], text)
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// document is a gateway that a document describes, and the sandbox in WeChat's place.
type document struct {
	dir, gateway, admin, sandbox string
}

func newDocument(t *testing.T) *document {
	t.Helper()
	d := &document{dir: t.TempDir(), gateway: freePort(t), admin: freePort(t), sandbox: freePort(t)}
	runCaddy(t, "http://"+d.sandbox, "{\n\tadmin off\n\tpersist_config off\n}\nhttp://"+d.sandbox+
		" {\n\tbind 127.0.0.1\n\twechat_sandbox {\n\t\tapp "+appBusy+" {env.SECRET}\n\t}\n}\n")
	if err := os.Symlink(caddyBinary, filepath.Join(d.dir, "caddy")); err != nil {
		t.Fatal(err)
	}
	d.write(t, "gateway.env", "WECHAT_APP_ID="+appBusy+"\nWECHAT_APP_SECRET="+secret+"\nGATEWAY_KEY="+gatewayKey+"\n")
	d.write(t, "photo.jpg", "\xff\xd8\xff\xe0"+strings.Repeat("picture", 1000))
	return d
}

func (d *document) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// here moves a configuration to this machine.
func (d *document) here(t *testing.T, caddyfile string) string {
	return replaced(t, caddyfile, "media.example.com {", "http://"+d.gateway+" {\n\tbind 127.0.0.1",
		"wechat_media /media* {", "wechat_media /media* http://"+d.sandbox+" {")
}

// command is a command of the documents, with what they say is in the environment.
func (d *document) command(line string, env ...string) *exec.Cmd {
	cmd := exec.Command("bash", "-ec", line)
	cmd.Dir = d.dir
	cmd.Env = append(append(os.Environ(), "CADDY_ADMIN="+d.admin, "XDG_DATA_HOME="+d.dir, "XDG_CONFIG_HOME="+d.dir,
		"PATH="+d.dir+":"+os.Getenv("PATH")), env...)
	return cmd
}

func (d *document) run(t *testing.T, line string, env ...string) string {
	t.Helper()
	out, err := d.command(line, env...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// status asks the gateway for something, with the key or without.
func (d *document) status(path, key string) int {
	status, _ := d.ask(path, key)
	return status
}

func (d *document) ask(path, key string) (status int, err error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+d.gateway+path, nil)
	if err != nil {
		return 0, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	res.Body.Close()
	return res.StatusCode, nil
}

// The commands of the README's "In production", in its order.
func TestProduction(t *testing.T) {
	d := newDocument(t)
	caddyfile := block(t, readme, "caddyfile", "wechat_media /media*", "@stranger")
	validate, start, _ := strings.Cut(strings.TrimSpace(block(t, readme, "sh", "./caddy validate")), "\n")
	upload := strings.TrimSpace(block(t, readme, "sh", "Authorization"))

	d.write(t, "Caddyfile", caddyfile)
	d.run(t, validate)
	d.write(t, "Caddyfile", d.here(t, caddyfile))
	runCommand(t, "http://"+d.gateway, d.command("exec "+start))
	var reply struct {
		MediaID string `json:"media_id"`
	}
	out := d.run(t, replaced(t, upload, "https://media.example.com", "http://"+d.gateway, "curl ", "curl -s "), "GATEWAY_KEY="+gatewayKey)
	if err := json.Unmarshal([]byte(out), &reply); err != nil || reply.MediaID == "" {
		t.Fatalf("%s: %s", upload, out)
	}
	for key, want := range map[string]int{gatewayKey: 200, "": 401, "another": 401} {
		if got := d.status("/media/"+reply.MediaID, key); got != want {
			t.Errorf("with the key %q the status is %d", key, got)
		}
	}
}

// A mistyped secret is an alarm and no outage, and is mended by the commands of
// docs/operations.md.
func TestChangedSecret(t *testing.T) {
	d := newDocument(t)
	file := filepath.Join(d.dir, "app_secret")
	caddyfile := replaced(t, d.here(t, block(t, operations, "caddyfile", "wechat_token")), "/etc/caddy-wechat-media/app_secret", file)
	d.write(t, "app_secret", secret+"\n")
	d.write(t, "Caddyfile", caddyfile)
	reload := replaced(t, strings.TrimSpace(block(t, operations, "sh", "caddy reload")), "/etc/caddy/Caddyfile", "Caddyfile")
	show := replaced(t, strings.TrimSpace(block(t, operations, "sh", "/wechat/tokens\n")), "localhost:2019", d.admin, "curl ", "curl -sf ")
	refresh := replaced(t, strings.TrimSpace(block(t, operations, "sh", "/refresh")), "localhost:2019", d.admin, "curl ", "curl -s ")
	env := []string{"WECHAT_APP_ID=" + appBusy, "GATEWAY_KEY=" + gatewayKey}
	runCommand(t, "http://"+d.gateway, d.command("exec ./caddy run --config Caddyfile", env...))
	eventually(t, "the gateway is ready", func() bool { return d.status("/readyz", "") == 200 })

	var failures sync.Map      // what requests got in place of 404
	stop := always(t, func() { // an unknown media_id needs a token to be unknown
		path := "/media/" + strings.Repeat("x", 64)
		status, err := d.ask(path, gatewayKey)
		if err != nil { // a reload closes Caddy's old socket, with what waits to be accepted
			status, err = d.ask(path, gatewayKey)
		}
		if status != 404 {
			failures.Store(fmt.Sprint(status, err), true)
		}
	})

	failure := func() string {
		var tokens []struct {
			Failure  string `json:"failure"`
			HasToken bool   `json:"has_token"`
		}
		if err := json.Unmarshal([]byte(d.run(t, show, env...)), &tokens); err != nil || len(tokens) != 1 || !tokens[0].HasToken {
			return "unknown"
		}
		return tokens[0].Failure
	}
	d.write(t, "app_secret", strings.Repeat("0", 32)+"\n")
	d.run(t, strings.TrimSuffix(reload, " --force"), env...)
	time.Sleep(time.Second) // nothing may come of it
	if got := failure(); got != "" {
		t.Errorf("without --force the secret was loaded: %s", got)
	}
	d.run(t, reload, env...)
	eventually(t, "the mistyped secret is reported", func() bool { return failure() == "wrong_secret" })
	d.write(t, "app_secret", secret+"\n")
	d.run(t, reload, env...)
	eventually(t, "the right secret is in use", func() bool { return failure() == "" })
	eventually(t, "it is not too early to try now", func() bool { return strings.Contains(d.run(t, refresh, env...), `"has_token":true`) })
	stop()
	failures.Range(func(what, _ any) bool {
		t.Errorf("requests failed meanwhile: %s", what)
		return true
	})
}

// always does something again and again, until it is stopped or the test ends.
func always(t *testing.T, f func()) (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	stop = sync.OnceFunc(func() { close(done); <-stopped })
	t.Cleanup(stop)
	pace := time.NewTicker(10 * time.Millisecond)
	go func() {
		defer close(stopped)
		defer pace.Stop()
		for {
			select {
			case <-done:
				return
			case <-pace.C:
				f()
			}
		}
	}()
	return stop
}
