// Package silenceper has a WeChat SDK that knows nothing of the gateway work with
// it: only the SDK's base URL is changed. It is a module of its own so that the
// plugin does not require the SDK.
package silenceper

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/silenceper/wechat/v2/cache"
	"github.com/silenceper/wechat/v2/officialaccount"
	"github.com/silenceper/wechat/v2/officialaccount/config"
	"github.com/silenceper/wechat/v2/officialaccount/material"
	"github.com/silenceper/wechat/v2/util"
)

const secret = "real-secret-of-the-app"

var caddyBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "silenceper")
	if err != nil {
		panic(err)
	}
	caddyBinary = filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-C", "../..", "-o", caddyBinary, "./cmd/caddy")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// startGateway runs the gateway against the sandbox in a process of its own, with
// further options of wechat_media and of the site.
func startGateway(t *testing.T, options, site string) string {
	t.Helper()
	gateway, wechat := freePort(t), freePort(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	caddyfile := fmt.Sprintf(`{
	admin off
	persist_config off
}
http://127.0.0.1:%[1]s {
	bind 127.0.0.1
	%[4]s
	wechat_media http://127.0.0.1:%[2]s {
		app wx0123456789abcdef {env.REAL_SECRET}
		%[3]s
	}
}
http://127.0.0.1:%[2]s {
	bind 127.0.0.1
	wechat_sandbox {
		app wx0123456789abcdef {env.REAL_SECRET}
	}
}
`, gateway, wechat, options, site)
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(caddyBinary, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "REAL_SECRET="+secret, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
		if strings.Contains(log.String(), secret) {
			t.Error("the log has the secret in it")
		}
	})
	for range 100 {
		if conn, err := net.Dial("tcp", "127.0.0.1:"+gateway); err == nil {
			conn.Close()
			return "http://127.0.0.1:" + gateway
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the gateway does not listen")
	return ""
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// sdk is the SDK with its base URL changed, by the SDK's own means, and with an
// app that nobody has heard of.
func sdk(t *testing.T, base string, stable bool) *material.Material {
	t.Helper()
	util.SetURIModifier(func(uri string) string {
		return strings.Replace(uri, "https://api.weixin.qq.com", base, 1)
	})
	t.Cleanup(func() { util.SetURIModifier(nil) })
	return officialaccount.NewOfficialAccount(&config.Config{
		AppID: "made-up", AppSecret: "made-up", UseStableAK: stable, Cache: cache.NewMemory(),
	}).GetMaterial()
}

// The SDK may ask for its token in the old way or the new.
func TestUploadAndDownload(t *testing.T) {
	base := startGateway(t, "sdk_tokens", "")
	for name, stable := range map[string]bool{"token": false, "stable_token": true} {
		t.Run(name, func(t *testing.T) { thereAndBack(t, sdk(t, base, stable)) })
	}
}

func thereAndBack(t *testing.T, m *material.Material) {
	for _, size := range []int{1, 300_000, 5 << 20} {
		picture := make([]byte, size)
		if _, err := rand.Read(picture); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "picture.jpg")
		if err := os.WriteFile(file, picture, 0o600); err != nil {
			t.Fatal(err)
		}
		fromFile, err := m.MediaUpload(material.MediaTypeImage, file)
		if err != nil {
			t.Fatalf("uploading %d bytes: %v", size, err)
		}
		fromReader, err := m.MediaUploadFromReader(material.MediaTypeImage, "picture.jpg", bytes.NewReader(picture))
		if err != nil {
			t.Fatalf("uploading %d bytes from a reader: %v", size, err)
		}
		for _, media := range []material.Media{fromFile, fromReader} {
			mediaURL, err := m.GetMediaURL(media.MediaID)
			if err != nil {
				t.Fatal(err)
			}
			back, err := util.HTTPGet(mediaURL)
			if err != nil || !bytes.Equal(back, picture) {
				t.Fatalf("downloading: %d of %d bytes, %v", len(back), size, err)
			}
		}
	}
}

func TestErrorsReachTheSDK(t *testing.T) {
	m := sdk(t, startGateway(t, "sdk_tokens", ""), false)
	_, err := m.MediaUploadFromReader(material.MediaTypeImage, "picture.txt", strings.NewReader("text"))
	if err == nil || !strings.Contains(err.Error(), "40005") {
		t.Errorf("a text file as a picture: %v", err)
	}
	_, err = m.MediaUploadFromReader(material.MediaTypeVideo, "film.mp4", strings.NewReader("film"))
	if err == nil {
		t.Error("a media type that is not allowed was uploaded")
	}
}

// Without sdk_tokens the SDK gets no token, not even with the app's real secret,
// and so no media.
func TestTokensAreRefusedUnlessAskedFor(t *testing.T) {
	base := startGateway(t, "", "")
	for _, stable := range []bool{false, true} {
		m := sdk(t, base, stable)
		if token, err := m.GetAccessToken(); err == nil {
			t.Errorf("the SDK got the token %s", token)
		}
		if _, err := m.MediaUploadFromReader(material.MediaTypeImage, "picture.jpg", strings.NewReader("picture")); err == nil {
			t.Error("the SDK could upload")
		}
	}
	question := fmt.Sprintf(`{"grant_type":"client_credential","appid":"wx0123456789abcdef","secret":%q}`, secret)
	for name, ask := range map[string]func() (*http.Response, error){
		"token": func() (*http.Response, error) {
			return http.Get(base + "/cgi-bin/token?grant_type=client_credential&appid=wx0123456789abcdef&secret=" + secret)
		},
		"stable_token": func() (*http.Response, error) {
			return http.Post(base+"/cgi-bin/stable_token", "application/json", strings.NewReader(question))
		},
	} {
		res, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "40066") {
			t.Errorf("%s: status %d: %s", name, res.StatusCode, body)
		}
	}
}

// keyed adds the key that a gateway of the operator's asks for.
type keyed struct{}

func (keyed) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer key")
	return http.DefaultTransport.RoundTrip(req)
}

func TestSDKCanSendAKey(t *testing.T) {
	m := sdk(t, startGateway(t, "sdk_tokens", "@stranger not header Authorization \"Bearer key\"\n\trespond @stranger 401"), false)
	if _, err := m.GetAccessToken(); err == nil {
		t.Error("the SDK needed no key")
	}
	before := util.DefaultHTTPClient
	util.DefaultHTTPClient = &http.Client{Transport: keyed{}}
	t.Cleanup(func() { util.DefaultHTTPClient = before })
	thereAndBack(t, m)
}

// The documents' code for the SDK brings a picture back. README names another file
// than the project's own.
func TestREADME(t *testing.T) {
	readme := os.Getenv("README")
	if readme == "" {
		readme = "../../docs/sdks.md"
	}
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 1 || !strings.Contains(blocks[0][1], "http://localhost:8080") {
		t.Fatalf("%s has %d blocks of Go", readme, len(blocks))
	}
	program := `package main

import (
	"os"
	"strings"

	"github.com/silenceper/wechat/v2/cache"
	"github.com/silenceper/wechat/v2/officialaccount"
	"github.com/silenceper/wechat/v2/officialaccount/config"
	"github.com/silenceper/wechat/v2/officialaccount/material"
	"github.com/silenceper/wechat/v2/util"
)

func main() {
	` + strings.ReplaceAll(blocks[0][1], "http://localhost:8080", startGateway(t, "sdk_tokens", "")) + `
	if err == nil {
		err = os.WriteFile("back.jpg", picture, 0o600)
	}
	if err != nil {
		panic(err)
	}
}
`
	dir := t.TempDir()
	picture := make([]byte, 300_000)
	if _, err := rand.Read(picture); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"main.go": []byte(program), "photo.jpg": picture} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "recipe")
	if out, err := exec.Command("go", "build", "-o", binary, filepath.Join(dir, "main.go")).CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	recipe := exec.Command(binary)
	recipe.Dir = dir
	if out, err := recipe.CombinedOutput(); err != nil {
		t.Fatalf("running: %v\n%s", err, out)
	}
	back, err := os.ReadFile(filepath.Join(dir, "back.jpg"))
	if err != nil || !bytes.Equal(back, picture) {
		t.Errorf("%d of %d bytes came back, %v", len(back), len(picture), err)
	}
}
