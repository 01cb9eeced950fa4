package sandbox_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// A backend that fetches from WeChat is tried against the sandbox: it gets the server's
// URL where https://api.weixin.qq.com would stand. Media of users are put there, and
// what WeChat does on bad days can be asked for.
func Example() {
	wechat := sandbox.New(sandbox.Options{Apps: map[string]string{"wx0123456789abcdef": "app-secret"}})
	server := httptest.NewServer(wechat)
	defer server.Close()

	mediaID, err := wechat.AddMedia("wx0123456789abcdef", "image", "photo.jpg", []byte("\xff\xd8\xff\xe0 and so on"))
	if err != nil {
		panic(err)
	}
	b := &backend{baseURL: server.URL, appID: "wx0123456789abcdef", appSecret: "app-secret"}
	fmt.Println(b.download(mediaID))

	wechat.RevokeTokens("wx0123456789abcdef") // as somebody else's call does
	fmt.Println(b.download(mediaID))

	wechat.Refuse(sandbox.MediaGet, 45009, 1)
	fmt.Println(b.download(mediaID))
	fmt.Println(wechat.Calls(sandbox.StableToken), "tokens were asked for")

	// Output:
	// 14 bytes
	// errcode 40001
	// errcode 45009
	// 1 tokens were asked for
}

// backend is what is tried; this one asks for a token once, which is not enough.
type backend struct{ baseURL, appID, appSecret, token string }

func (b *backend) download(mediaID string) string {
	if b.token == "" {
		b.token = b.fetchToken()
	}
	query := url.Values{"access_token": {b.token}, "media_id": {mediaID}}
	res, err := http.Get(b.baseURL + "/cgi-bin/media/get?" + query.Encode())
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	var failure struct{ Errcode int }
	if json.Unmarshal(body, &failure) == nil && failure.Errcode != 0 {
		return fmt.Sprintf("errcode %d", failure.Errcode)
	}
	return fmt.Sprintf("%d bytes", len(body))
}

func (b *backend) fetchToken() string {
	request := fmt.Sprintf(`{"grant_type":"client_credential","appid":%q,"secret":%q}`, b.appID, b.appSecret)
	res, err := http.Post(b.baseURL+"/cgi-bin/stable_token", "application/json", strings.NewReader(request))
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	var reply struct {
		AccessToken string `json:"access_token"`
	}
	_ = json.NewDecoder(res.Body).Decode(&reply)
	return reply.AccessToken
}
