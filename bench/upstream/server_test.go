package upstream

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/bench/media"
)

// A contender that leaves something away must not look faster: over both
// protocols, the upstream takes only what WeChat would take.
func TestAnswers(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			s, err := Start()
			if err != nil {
				t.Fatal(err)
			}
			client := newClient(s, proto)
			live := fetchToken(t, client, s)
			form := media.Form(339_721)
			for name, tc := range map[string]struct {
				method, query string
				body          io.Reader
				status        int
				want          string
			}{
				"download":            {"GET", "get?access_token=" + s.Token + "&media_id=" + media.ID(339_721), nil, 200, string(media.Picture(339_721))},
				"with a live token":   {"GET", "get?access_token=" + live + "&media_id=" + media.ID(100), nil, 200, string(media.Picture(100))},
				"without a token":     {"GET", "get?media_id=" + media.ID(100), nil, 200, `"errcode":40001`},
				"with another token":  {"GET", "get?access_token=x&media_id=" + media.ID(100), nil, 200, `"errcode":40001`},
				"of nothing":          {"GET", "get?access_token=" + live + "&media_id=" + media.ID(101), nil, 200, `"errcode":40007`},
				"upload":              {"POST", "upload?type=image&access_token=" + live, bytes.NewReader(form), 200, `{"type":"image","media_id":"`},
				"upload, wrong type":  {"POST", "upload?type=voice&access_token=" + live, bytes.NewReader(form), 200, `"errcode":40004`},
				"upload, wrong token": {"POST", "upload?type=image&access_token=x", bytes.NewReader(form), 200, `"errcode":40001`},
				"upload, no length":   {"POST", "upload?type=image&access_token=" + live, io.MultiReader(bytes.NewReader(form)), 412, ""},
			} {
				status, body, got := send(t, client, tc.method, "https://"+s.Addr+"/cgi-bin/media/"+tc.query, tc.body)
				if status != tc.status || !strings.Contains(body, tc.want) || got != proto {
					t.Errorf("%s: status %d, %s, %.100q", name, status, got, body)
				}
			}
		})
	}
}

func TestRevocation(t *testing.T) {
	s, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(s, "HTTP/1.1")
	download := func(token string) string {
		_, body, _ := send(t, client, "GET", "https://"+s.Addr+"/cgi-bin/media/get?access_token="+token+"&media_id="+media.ID(100), nil)
		return body
	}
	first, second := fetchToken(t, client, s), fetchToken(t, client, s)
	if first == second || download(first) != string(media.Picture(100)) {
		t.Error("a new token ended the one before it")
	}
	if status, _, _ := send(t, client, "POST", s.Control+"/revoke", nil); status != http.StatusOK {
		t.Fatalf("revoking: status %d", status)
	}
	for _, token := range []string{first, second} {
		if !strings.Contains(download(token), `"errcode":40001`) {
			t.Error("a revoked token works")
		}
	}
	if third := fetchToken(t, client, s); download(third) != string(media.Picture(100)) || download(s.Token) != string(media.Picture(100)) {
		t.Error("a token that is not revoked does not work")
	}
	_, body, _ := send(t, client, "GET", s.Control+"/status", nil)
	var status Status
	if err := json.Unmarshal([]byte(body), &status); err != nil || status.Fetches != 3 || status.Rejected != 2 {
		t.Errorf("the upstream counted %+v", status)
	}
}

func newClient(s *Server, proto string) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(s.CA))
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: ServerName},
		ForceAttemptHTTP2: proto == "HTTP/2.0",
	}
	return &http.Client{Transport: transport}
}

func fetchToken(t *testing.T, client *http.Client, s *Server) string {
	t.Helper()
	ask := fmt.Sprintf(`{"grant_type":"client_credential","appid":%q,"secret":%q}`, AppID, AppSecret)
	_, body, _ := send(t, client, "POST", "https://"+s.Addr+"/cgi-bin/stable_token", strings.NewReader(ask))
	var reply struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &reply); err != nil || reply.AccessToken == "" {
		t.Fatalf("no token: %q", body)
	}
	return reply.AccessToken
}

func send(t *testing.T, client *http.Client, method, url string, body io.Reader) (status int, text, proto string) {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Proto
}
