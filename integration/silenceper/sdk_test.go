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
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
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

// startGateway runs the gateway against the sandbox in a process of its own.
func startGateway(t *testing.T, options string) string {
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
`, gateway, wechat, options)
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

// otherBase is all that is changed of the SDK, whose base URL is a constant.
type otherBase struct{ base *url.URL }

func (o otherBase) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == "api.weixin.qq.com" {
		req = req.Clone(req.Context())
		req.URL.Scheme, req.URL.Host, req.Host = o.base.Scheme, o.base.Host, ""
	}
	return http.DefaultTransport.RoundTrip(req)
}

func sdk(t *testing.T, base string) *material.Material {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	before := util.DefaultHTTPClient
	util.DefaultHTTPClient = &http.Client{Transport: otherBase{u}, Timeout: 30 * time.Second}
	t.Cleanup(func() { util.DefaultHTTPClient = before })
	return officialaccount.NewOfficialAccount(&config.Config{
		AppID: "made-up", AppSecret: "made-up", Cache: cache.NewMemory(),
	}).GetMaterial()
}

func TestUploadAndDownload(t *testing.T) {
	m := sdk(t, startGateway(t, "sdk_tokens"))
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
	m := sdk(t, startGateway(t, "sdk_tokens"))
	_, err := m.MediaUploadFromReader(material.MediaTypeImage, "picture.txt", strings.NewReader("text"))
	if err == nil || !strings.Contains(err.Error(), "40005") {
		t.Errorf("a text file as a picture: %v", err)
	}
	_, err = m.MediaUploadFromReader(material.MediaTypeVideo, "film.mp4", strings.NewReader("film"))
	if err == nil {
		t.Error("a media type that is not allowed was uploaded")
	}
}

func TestTokensAreRefusedUnlessAskedFor(t *testing.T) {
	base := startGateway(t, "")
	if _, err := sdk(t, base).GetMediaURL("abc"); err == nil {
		t.Error("the SDK got a token")
	}
	res, err := http.Get(base + "/cgi-bin/token?grant_type=client_credential&appid=x&secret=" + secret)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "40066") {
		t.Errorf("status %d: %s", res.StatusCode, body)
	}
}
