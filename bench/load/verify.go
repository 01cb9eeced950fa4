package load

// One exchange whose bytes are all compared, before those that are only counted.

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/caddy-wechat/caddy-wechat-media/bench/media"
)

func verify(o Options) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig(o), DisableCompression: true}}
	defer client.CloseIdleConnections()
	if o.Method == "GET" {
		return verifyDownload(client, o)
	}
	if err := Control(o.Control, "/checks?value=1"); err != nil {
		return err
	}
	err := verifyUpload(client, o)
	return errors.Join(err, Control(o.Control, "/checks?value=0"))
}

func verifyDownload(client *http.Client, o Options) error {
	body, err := read(client.Get(o.URL + target(o)))
	if err != nil {
		return err
	}
	if !bytes.Equal(body, media.Picture(o.Size)) {
		return fmt.Errorf("the picture of %d bytes is another: %d bytes, %.200q", o.Size, len(body), body)
	}
	return nil
}

func verifyUpload(client *http.Client, o Options) error {
	form := media.Form(o.Size)
	body, err := read(client.Post(o.URL+target(o), media.FormType, bytes.NewReader(form)))
	if err != nil {
		return err
	}
	var reply struct {
		MediaID string `json:"media_id"`
	}
	sum := sha256.Sum256(form)
	if json.Unmarshal(body, &reply) != nil || reply.MediaID != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the upstream got another upload: %q", body)
	}
	return nil
}

func read(res *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %.200q", res.StatusCode, body)
	}
	return body, err
}

// Control asks something of the upstream's control side.
func Control(controlURL, path string) error {
	_, err := read(http.Post(controlURL+path, "", nil))
	return err
}
