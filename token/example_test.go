package token_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// vault is a source of one's own: it reads the token, as plain text, from a server
// that something else keeps supplied.
type vault struct{ url string }

func (v vault) Traits() token.Traits {
	return token.Traits{
		Identity: "vault " + v.url,
		Hints: map[token.Kind]string{
			token.KindReply: "what answered at " + v.url + " is not the vault; check the url",
		},
	}
}

func (v vault) Fetch(ctx context.Context, req token.Request) (token.Reply, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url+"/"+req.AppID, nil)
	if err != nil {
		return token.Reply{}, err
	}
	res, err := req.Client.Do(r)
	if err != nil {
		return token.Reply{}, token.Scrub(err) // net/http quotes URLs
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return token.Reply{}, token.BadReply("status %d instead of 200", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return token.Reply{}, token.Scrub(err)
	}
	return token.Reply{AccessToken: strings.TrimSpace(string(body)), ExpiresIn: 10 * time.Minute}, nil
}

// A source says where tokens come from. When it is called, how often, and what
// becomes of its failures is the manager's business.
func ExampleSource() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "token-of"+strings.ReplaceAll(r.URL.Path, "/", "-"))
	}))
	defer server.Close()

	source := vault{server.URL}
	m := token.NewManager(token.Identity{AppID: "wxapp", Issuer: server.URL, Source: source.Traits().Identity}, source.Traits())
	defer m.Close()
	binding := m.Attach(token.Binding{
		Source:  source,
		Request: token.Request{AppID: "wxapp", Client: server.Client()},
	})
	defer binding.Detach()
	binding.Start()

	tok, err := m.Token(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(tok, "has", len(tok.Secret()), "characters")
	// Output: [access token] has 14 characters
}
