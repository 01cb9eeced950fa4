package check

// The image without Docker: the steps of its builder in a clean directory. What they
// build has a storage module for Redis, and runs as the two gateways of compose.yaml. It
// also has the token source of docs/token-source.md, built as that page says.

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// the stand-in for the storage module that compose.yaml names
const storageModule = "github.com/caddy-wechat/caddy-wechat-media/deploy/check/storage@v0.0.0=./deploy/check/storage"

// steps are the RUN instructions of a Dockerfile's first stage.
func steps(t *testing.T, dockerfile string) (all []string) {
	t.Helper()
	stage, _, _ := strings.Cut(strings.ReplaceAll(dockerfile, "\\\n", ""), "\nFROM caddy:")
	for line := range strings.Lines(stage) {
		if step, ok := strings.CutPrefix(line, "RUN "); ok {
			all = append(all, strings.TrimSpace(step))
		}
	}
	return all
}

// buildImage does what the builder does with what git knows of, and returns the
// binary.
func buildImage(t *testing.T) (binary string) {
	t.Helper()
	dir, bin := t.TempDir(), t.TempDir()
	if out, err := exec.Command("bash", "-ec", `cd ../.. && git ls-files -z --cached --others --exclude-standard |
		xargs -0 ls -d 2>/dev/null | tar -c -T - | tar -x -C "$0"`, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	modules := storageModule + " " + ownSource(t, dir)
	run := 0
	for _, step := range steps(t, string(read(t, "../Dockerfile"))) {
		if strings.HasPrefix(step, "apk add") {
			continue // of Alpine's; git is here
		}
		run++
		cmd := exec.Command("sh", "-ec", strings.NewReplacer("/usr/local/bin/", bin+"/", "/usr/bin/", bin+"/").Replace(step))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "MODULES="+modules, "TARGETOS=", "TARGETARCH=", "PATH="+bin+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", step, err, out)
		}
	}
	if run != 2 {
		t.Fatalf("the Dockerfile has %d steps", run)
	}
	return filepath.Join(bin, "caddy")
}

func TestImageAndCompose(t *testing.T) {
	caddy := buildImage(t)
	modules, err := exec.Command(caddy, "list-modules").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"http.handlers.wechat_media", "http.reverse_proxy.transport.wechat", "caddy.storage.redis",
		"http.wechat.token_sources.command"} {
		if !strings.Contains(string(modules), "\n"+module+"\n") {
			t.Errorf("the image has no %s", module)
		}
	}

	redis := freePort(t)
	_, redisPort, _ := net.SplitHostPort(redis)
	run(t, "http://"+redis, "redis-server", "--port", redisPort, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	wechat := freePort(t)
	runCaddy(t, "http://"+wechat, "{\n\tadmin off\n\tpersist_config off\n}\nhttp://"+wechat+
		" {\n\tbind 127.0.0.1\n\twechat_sandbox {\n\t\tapp "+appBusy+" {env.SECRET}\n\t}\n}\n")
	var gateways []string
	for range 2 {
		gateways = append(gateways, composeGateway(t, caddy, wechat, redisPort))
		ready := gateways[len(gateways)-1] + "/readyz"
		eventually(t, "a gateway is ready", func() bool {
			res, err := http.Get(ready)
			if err != nil {
				return false
			}
			res.Body.Close()
			return res.StatusCode == http.StatusOK
		})
	}

	// what one gateway was given, the other fetches, with the token that both share
	id := composeUpload(t, gateways[0])
	req, _ := http.NewRequest(http.MethodGet, gateways[1]+"/media/"+id, nil)
	req.Header.Set("Authorization", "Bearer "+gatewayKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", res, err)
	}
	res.Body.Close()
	if n := tokenCalls(t, wechat); n != 1 {
		t.Errorf("two gateways asked WeChat for a token %d times", n)
	}
	checkOwnSource(t, caddy, wechat)
}

// ownSource puts the source of docs/token-source.md into a clone, as that page says,
// and returns the module that it has xcaddy build.
func ownSource(t *testing.T, clone string) (module string) {
	t.Helper()
	const page = "../../docs/token-source.md"
	folder := filepath.Join(clone, "command")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "command.go"), []byte(block(t, page, "go", "package command")), 0o600); err != nil {
		t.Fatal(err)
	}
	makeModule, build, _ := strings.Cut(block(t, page, "sh", "go mod init"), "\n")
	cmd := exec.Command("sh", "-ec", makeModule)
	cmd.Dir = clone
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", makeModule, err, out)
	}
	withs := strings.Split(strings.TrimSpace(build), " --with ")
	return withs[len(withs)-1]
}

// checkOwnSource has the source fetch a token by a program that asks WeChat for one.
func checkOwnSource(t *testing.T, caddy, wechat string) {
	t.Helper()
	dir, gateway := t.TempDir(), freePort(t)
	program := filepath.Join(dir, "wechat-token")
	script := fmt.Sprintf("#!/bin/sh\ncurl -sf \"http://%s/cgi-bin/token?grant_type=client_credential&appid=$1&secret=%s\"\n", wechat, secret)
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "Caddyfile")
	caddyfile := fmt.Sprintf("{\n\tadmin off\n\tpersist_config off\n}\nhttp://%s {\n\tbind 127.0.0.1\n\twechat_media http://%s {\n\t\tapp %s {\n\t\t\ttoken command %s\n\t\t}\n\t}\n}\n",
		gateway, wechat, appBusy, program)
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	runCommand(t, "http://"+gateway, exec.Command(caddy, "run", "--config", file))
	composeUpload(t, "http://"+gateway)
}

// composeGateway runs compose's configuration on this machine.
func composeGateway(t *testing.T, caddy, wechat, redisPort string) (url string) {
	t.Helper()
	dir, gateway, metrics := t.TempDir(), freePort(t), freePort(t)
	caddyfile := replaced(t, string(read(t, "../compose/gateway.caddyfile")),
		"/run/secrets", secretsIn(t),
		"host redis", "host 127.0.0.1\n\t\tport "+redisPort,
		"http://:8080 {", "http://"+gateway+" {\n\tbind 127.0.0.1",
		"http://:9180 {", "http://"+metrics+" {\n\tbind 127.0.0.1",
		"wechat_media /media* {", "wechat_media /media* http://"+wechat+" {")
	file := filepath.Join(dir, "gateway.caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	service := readCompose(t).Services["gateway-1"]
	args := append([]string{}, service.Command[1:]...)
	for i, arg := range args {
		if arg == "/etc/caddy/gateway.caddyfile" {
			args[i] = file
		}
	}
	cmd := exec.Command(caddy, args...)
	cmd.Env = append(os.Environ(), "CADDY_ADMIN="+freePort(t), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	for name, value := range service.Environment {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%s", name, *value))
	}
	runCommand(t, "http://"+gateway, cmd)
	return "http://" + gateway
}

func composeUpload(t *testing.T, gateway string) (mediaID string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "photo.jpg")
	if err := os.WriteFile(file, []byte("\xff\xd8\xff\xe0"+strings.Repeat("picture", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("curl", "-sS", "-H", "Authorization: Bearer "+gatewayKey, "-F", "media=@"+file, gateway+"/media").CombinedOutput()
	var reply struct {
		MediaID string `json:"media_id"`
	}
	if err != nil || json.Unmarshal(out, &reply) != nil || reply.MediaID == "" {
		t.Fatalf("uploading: %v %s", err, out)
	}
	return reply.MediaID
}

// tokenCalls is how often the sandbox was asked for a token.
func tokenCalls(t *testing.T, wechat string) (n int64) {
	t.Helper()
	res, err := http.Get("http://" + wechat + "/sandbox/status")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var status struct {
		Calls map[string]int64 `json:"calls"`
	}
	if err := json.NewDecoder(res.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	return status.Calls["stable_token"] + status.Calls["token"]
}
