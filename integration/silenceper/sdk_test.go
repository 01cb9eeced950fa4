// Package silenceper has a WeChat SDK that knows nothing of the gateway work with
// it: only the SDK's base URL is changed.
package silenceper

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/silenceper/wechat/v2/cache"
	"github.com/silenceper/wechat/v2/officialaccount"
	"github.com/silenceper/wechat/v2/officialaccount/config"
	"github.com/silenceper/wechat/v2/officialaccount/material"
	"github.com/silenceper/wechat/v2/util"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
)

func TestMain(m *testing.M) { gateway.Main(m) }

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
	base := gateway.Site{Options: "sdk_tokens"}.Start(t).HTTP
	for name, stable := range map[string]bool{"token": false, "stable_token": true} {
		t.Run(name, func(t *testing.T) { thereAndBack(t, sdk(t, base, stable)) })
	}
}

func thereAndBack(t *testing.T, m *material.Material) {
	for _, size := range []int{3, 300_000, 5 << 20} {
		picture := gateway.Picture(size)
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
	m := sdk(t, gateway.Site{Options: "sdk_tokens"}.Start(t).HTTP, false)
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
	base := gateway.Site{}.Start(t).HTTP
	for _, stable := range []bool{false, true} {
		m := sdk(t, base, stable)
		if token, err := m.GetAccessToken(); err == nil {
			t.Errorf("the SDK got the token %s", token)
		}
		if _, err := m.MediaUploadFromReader(material.MediaTypeImage, "picture.jpg", strings.NewReader("picture")); err == nil {
			t.Error("the SDK could upload")
		}
	}
	question := fmt.Sprintf(`{"grant_type":"client_credential","appid":%q,"secret":%q}`, gateway.AppID, gateway.Secret)
	for name, ask := range map[string]func() (*http.Response, error){
		"token": func() (*http.Response, error) {
			return http.Get(base + "/cgi-bin/token?grant_type=client_credential&appid=" + gateway.AppID + "&secret=" + gateway.Secret)
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
	m := sdk(t, gateway.Site{Options: "sdk_tokens", Other: gateway.Stranger}.Start(t).HTTP, false)
	if _, err := m.GetAccessToken(); err == nil {
		t.Error("the SDK needed no key")
	}
	before := util.DefaultHTTPClient
	util.DefaultHTTPClient = &http.Client{Transport: keyed{}}
	t.Cleanup(func() { util.DefaultHTTPClient = before })
	thereAndBack(t, m)
}

// The documents' code for the SDK brings a picture back.
func TestDocuments(t *testing.T) {
	const documented = "http://localhost:8080"
	block := gateway.Block(t, "go", "util.SetURIModifier", documented)
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
	` + strings.ReplaceAll(block, documented, gateway.Site{Options: "sdk_tokens"}.Start(t).HTTP) + `
	if err == nil {
		err = os.WriteFile("back.jpg", picture, 0o600)
	}
	if err != nil {
		panic(err)
	}
}
`
	dir := t.TempDir()
	picture := gateway.Picture(300_000)
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
