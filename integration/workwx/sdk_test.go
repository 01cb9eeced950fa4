// Package workwx has an SDK for WeCom that knows nothing of the gateway work with it:
// only the SDK's host is changed.
package workwx

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/xen0n/go-workwx"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
)

func TestMain(m *testing.M) { gateway.Main(m) }

// sdk is the SDK with an account that nobody has heard of.
func sdk(base string, options ...workwx.CtorOption) *workwx.WorkwxApp {
	return workwx.New("made-up", append(options, workwx.WithQYAPIHost(base))...).WithApp("made-up", 1)
}

func media(t *testing.T, name string, content []byte) *workwx.Media {
	t.Helper()
	m, err := workwx.NewMediaFromBuffer(name, content)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const types = "sdk_tokens\n\t\ttypes image file"

// What goes up comes back. The SDK itself cannot download, so the media_id is for
// whoever else has the gateway's address.
func TestUploadAndDownload(t *testing.T) {
	g := gateway.Site{App: gateway.CorpApp, Options: types}.Start(t)
	app := sdk(g.HTTP)
	for _, size := range []int{6, 300_000, 5 << 20} {
		picture := gateway.Picture(size)
		image, err := app.UploadTempImageMedia(media(t, "photo.jpg", picture))
		if err != nil {
			t.Fatalf("uploading %d bytes as a picture: %v", size, err)
		}
		file, err := app.UploadTempFileMedia(media(t, "报告.pdf", picture))
		if err != nil {
			t.Fatalf("uploading %d bytes as a file: %v", size, err)
		}
		for _, id := range []string{image.MediaID, file.MediaID} {
			res, err := http.Get(g.HTTP + "/cgi-bin/media/get?media_id=" + id)
			if err != nil {
				t.Fatal(err)
			}
			back, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(back, picture) {
				t.Errorf("status %d, %d of %d bytes came back, %v", res.StatusCode, len(back), size, err)
			}
		}
	}
}

func TestErrorsReachTheSDK(t *testing.T) {
	app := sdk(gateway.Site{App: gateway.CorpApp, Options: types}.Start(t).HTTP)
	for name, code := range map[string]string{"photo.txt": "40005", "text.jpg": "40005"} {
		if _, err := app.UploadTempImageMedia(media(t, name, []byte("a text, and no picture"))); err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := app.UploadTempVideoMedia(media(t, "film.mp4", []byte("a film"))); err == nil {
		t.Error("a media type that is not allowed was uploaded")
	}
}

// Without sdk_tokens the SDK gets no token.
func TestTokensAreRefusedUnlessAskedFor(t *testing.T) {
	app := sdk(gateway.Site{App: gateway.CorpApp}.Start(t).HTTP)
	if _, err := app.UploadTempImageMedia(media(t, "photo.jpg", gateway.Picture(100))); err == nil {
		t.Error("the SDK could upload")
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
	g := gateway.Site{App: gateway.CorpApp, Options: types, Other: gateway.Stranger}.Start(t)
	if _, err := sdk(g.HTTP).UploadTempImageMedia(media(t, "photo.jpg", gateway.Picture(100))); err == nil {
		t.Error("the SDK needed no key")
	}
	app := sdk(g.HTTP, workwx.WithHTTPClient(&http.Client{Transport: keyed{}}))
	if _, err := app.UploadTempImageMedia(media(t, "photo.jpg", gateway.Picture(100))); err != nil {
		t.Error(err)
	}
}
