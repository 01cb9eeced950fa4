package wechatmedia

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// adapt returns the JSON of a Caddyfile.
func adapt(t testing.TB, input string) ([]byte, error) {
	t.Helper()
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	out, warnings, err := adapter.Adapt([]byte(input), map[string]any{"filename": "Caddyfile"})
	for _, w := range warnings {
		if !strings.Contains(w.Message, "not formatted") {
			t.Errorf("warning: %s", w)
		}
	}
	return out, err
}

// adaptBlock adapts a wechat_media directive and returns the handler's JSON.
func adaptBlock(t testing.TB, directive string) (string, error) {
	t.Helper()
	out, err := adapt(t, ":8080 {\n"+directive+"\n}\n")
	if err != nil {
		return "", err
	}
	var config struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct {
						Handle []json.RawMessage `json:"handle"`
					} `json:"routes"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(out, &config); err != nil {
		t.Fatal(err)
	}
	return string(config.Apps.HTTP.Servers["srv0"].Routes[0].Handle[0]), nil
}

func TestCaddyfileAdaptsToJSON(t *testing.T) {
	for name, tc := range map[string]struct{ directive, want string }{
		"the least": {
			directive: `wechat_media {
				app wx1 {env.SECRET}
			}`,
			want: `{"handler":"wechat_media","reverse_proxy":{"transport":{
				"apps":[{"app_id":"wx1","app_secret":"{env.SECRET}"}],"protocol":"wechat"}}}`,
		},
		"every option": {
			directive: `wechat_media https://sh.api.weixin.qq.com https://api.weixin.qq.com {
				app wx1 {env.SECRET} {
					token stable
					share_token
				}
				app {env.OTHER} {file./run/secrets/other} {
					share_token off
				}
				app_selector {header.X-Wechat-Appid}
				types image voice
				max_upload_size 5MiB
				max_upload_size voice 1MiB
				replay_buffer 128MiB
				sdk_tokens
				translate_status
				cache_control "private, max-age=86400"
				errors caddy
				lb_policy round_robin
				lb_retries 2
				header_up X-Trace {http.request.uuid}
				transport wechat {
					dial_timeout 5s
					versions 1.1 2
				}
			}`,
			want: `{"handler":"wechat_media",
				"types":["image","voice"],
				"max_upload_size":{"*":5242880,"voice":1048576},
				"sdk_tokens":true,"translate_status":true,
				"cache_control":"private, max-age=86400","errors":"caddy",
				"reverse_proxy":{
					"headers":{"request":{"set":{"X-Trace":["{http.request.uuid}"]}}},
					"load_balancing":{"retries":2,"selection_policy":{"policy":"round_robin"}},
					"transport":{
						"app_selector":"{http.request.header.X-Wechat-Appid}",
						"apps":[
							{"app_id":"wx1","app_secret":"{env.SECRET}","share_token":true,"token":{"source":"stable"}},
							{"app_id":"{env.OTHER}","app_secret":"{file./run/secrets/other}","share_token":false}],
						"dial_timeout":5000000000,"protocol":"wechat","replay_buffer":134217728,
						"tls":{},"versions":["1.1","2"]},
					"upstreams":[{"dial":"sh.api.weixin.qq.com:443"},{"dial":"api.weixin.qq.com:443"}]}}`,
		},
		"options of transport http": {
			directive: `wechat_media http://127.0.0.1:9000 {
				transport http {
					response_header_timeout 10s
				}
				app wx1 {env.SECRET}
			}`,
			want: `{"handler":"wechat_media","reverse_proxy":{
				"transport":{"apps":[{"app_id":"wx1","app_secret":"{env.SECRET}"}],
					"protocol":"wechat","response_header_timeout":10000000000},
				"upstreams":[{"dial":"127.0.0.1:9000"}]}}`,
		},
		"handle_response": {
			directive: `wechat_media {
				@gone status 404
				handle_response @gone {
					respond "gone" 410
				}
				app wx1 {env.SECRET}
			}`,
			want: `{"handler":"wechat_media","reverse_proxy":{
				"handle_response":[{"match":{"status_code":[404]},"routes":[{"handle":[{"body":"gone","handler":"static_response","status_code":410}]}]}],
				"transport":{"apps":[{"app_id":"wx1","app_secret":"{env.SECRET}"}],"protocol":"wechat"}}}`,
		},
		"the transport alone": {
			directive: `reverse_proxy https://api.weixin.qq.com {
				transport wechat {
					app wx1 {env.SECRET}
					replay_buffer 1MiB
					dial_timeout 1s
				}
			}`,
			want: `{"handler":"reverse_proxy",
				"transport":{"apps":[{"app_id":"wx1","app_secret":"{env.SECRET}"}],"dial_timeout":1000000000,
					"protocol":"wechat","replay_buffer":1048576,"tls":{}},
				"upstreams":[{"dial":"api.weixin.qq.com:443"}]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := adaptBlock(t, tc.directive)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := compactJSON(t, got), compactJSON(t, tc.want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func compactJSON(t testing.TB, s string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDirectiveStandsBeforeReverseProxy(t *testing.T) {
	got, err := adaptBlock(t, "reverse_proxy 127.0.0.1:1\nwechat_media {\napp wx1 {env.SECRET}\n}")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got, `"handler":"wechat_media"`) {
		t.Errorf("first handler: %s", got)
	}
}

func TestBadCaddyfiles(t *testing.T) {
	for name, tc := range map[string]struct{ block, want string }{
		"no app":                  {"types image", "no app is configured; write: app <app_id> {env.WECHAT_APP_SECRET}"},
		"a selector without apps": {"app_selector {header.X-App}", "no app is configured"},
		"an app twice":            {"app wx1 {env.S}\napp wx1 {env.T}", "app wx1 is configured twice"},
		"app without an id":       {"app", "write: app <app_id> [<app_secret>]"},
		"app with too much":       {"app wx1 s more", "write: app <app_id> [<app_secret>]"},
		"unknown source":          {"app wx1 {env.S} {\ntoken magic\n}", "unknown token source magic; use "},
		"two sources":             {"app wx1 {env.S} {\ntoken stable\ntoken stable\n}", "token is already specified"},
		"source with an argument": {"app wx1 {env.S} {\ntoken stable x\n}", "at Caddyfile:4"},
		"unknown word in app":     {"app wx1 {env.S} {\nsecret x\n}", "unrecognized subdirective secret of app"},
		"bad share_token":         {"app wx1 {env.S} {\nshare_token maybe\n}", "write: share_token [on|off]"},
		"unknown subdirective":    {"app wx1 {env.S}\nappsecret x", "unrecognized subdirective appsecret"},
		"extra argument":          {"app wx1 {env.S}\nsdk_tokens on", "wrong argument count or unexpected line ending after 'on'"},
		"extra argument, 2":       {"app wx1 {env.S}\nerrors caddy x", "wrong argument count"},
		"unknown type":            {"app wx1 {env.S}\ntypes image gif", `"gif" is not a media type; use image, voice, video, thumb`},
		"no type":                 {"app wx1 {env.S}\ntypes", "wrong argument count"},
		"types twice":             {"app wx1 {env.S}\ntypes image\ntypes voice", "types is already specified"},
		"negative size":           {"app wx1 {env.S}\nmax_upload_size -5MiB", "max_upload_size -5MiB is not a size; write for example 8MiB"},
		"size of nothing":         {"app wx1 {env.S}\nmax_upload_size 0", "max_upload_size 0 is not a size"},
		"absurd size":             {"app wx1 {env.S}\nmax_upload_size 5TB", "is not from 1 to 1073741824 (1GiB); WeChat takes 10MiB at the most"},
		"size beyond counting":    {"app wx1 {env.S}\nreplay_buffer 15EiB", "replay_buffer 15EiB is too large"},
		"no room for a caller":    {"app wx1 {env.S}\ntransport wechat {\ncaller_buffer 4KiB\n}", "caller_buffer is 4096 bytes; 8192 (8KiB) is the least"},
		"no connections":          {"app wx1 {env.S}\ntransport wechat {\nmax_conns 0\n}", "max_conns 0 is not a number of connections from 1 on"},
		"connections twice":       {"app wx1 {env.S}\ntransport wechat {\nmax_conns 1\nmax_conns 2\n}", "max_conns is already specified"},
		"no spares in words":      {"app wx1 {env.S}\ntransport wechat {\nspare_connections none\n}", "spare_connections none is not a number of connections from 0 on"},
		"connections outside":     {"app wx1 {env.S}\nmax_conns 5", "transport wechat"},
		"not a size":              {"app wx1 {env.S}\nreplay_buffer lots", "replay_buffer lots is not a size"},
		"size twice":              {"app wx1 {env.S}\nmax_upload_size 1MiB\nmax_upload_size 2MiB", "max_upload_size of * is already specified"},
		"size of unknown type":    {"app wx1 {env.S}\nmax_upload_size gif 1MiB", `"gif" is not a media type`},
		"unknown errors":          {"app wx1 {env.S}\nerrors json", `errors "json" is neither wechat nor caddy`},
		"selector not one":        {"app wx1 {env.S}\napp_selector wx1", `has no placeholder; write for example {header.X-Wechat-Appid}`},
		"a block for nothing":     {"app wx1 {env.S}\ntypes image {\nx\n}", "types takes no block"},
		"share_token misplaced":   {"app wx1 {env.S}\nshare_token", "share_token goes into the block of an app"},
		"timeout misplaced":       {"app wx1 {env.S}\ndial_timeout 1s", "dial_timeout goes into a block: transport wechat { ... }"},
		"transport with a word":   {"app wx1 {env.S}\ntransport wechat https", "wrong argument count"},
		"another transport":       {"app wx1 {env.S}\ntransport fastcgi", "transport fastcgi cannot reach WeChat; write: transport wechat"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := adaptBlock(t, "wechat_media {\n"+tc.block+"\n}")
			if err == nil {
				t.Fatal("accepted")
			}
			if msg := err.Error(); !strings.Contains(msg, tc.want) || strings.Contains(msg, "\n") || !strings.Contains(msg, "Caddyfile:") {
				t.Errorf("got %q, want one line with a place and %q", msg, tc.want)
			}
		})
	}
}

// An empty block is as good as none, wherever it stands.
func TestEmptyBlocks(t *testing.T) {
	want, err := adaptBlock(t, "wechat_media {\napp wx1 {env.S}\napp wx2 {env.S}\n}")
	if err != nil {
		t.Fatal(err)
	}
	got, err := adaptBlock(t, "wechat_media {\napp wx1 {env.S} {\n}\napp wx2 {env.S} {\n}\ntransport wechat {\n}\n}")
	if err != nil || string(got) != string(want) {
		t.Errorf("%v\n%s\n%s", err, got, want)
	}
}

// validate provisions and validates a config, as `caddy validate` does.
func validate(t testing.TB, input string) error {
	t.Helper()
	out, err := adapt(t, input)
	if err != nil {
		return err
	}
	return validateJSON(t, out)
}

func validateJSON(t testing.TB, config []byte) error {
	t.Helper()
	var c caddy.Config
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&c)
}

func TestBadConfigsAreFoundByValidate(t *testing.T) {
	t.Setenv("EMPTY", "")
	t.Setenv("SECRET", "s3cret-value")
	t.Setenv("SAME", "wx1")
	for name, tc := range map[string]struct{ block, want string }{
		"unset secret":        {"app wx1 {env.NO_SUCH_VARIABLE}", "app wx1: app_secret: {env.NO_SUCH_VARIABLE} is not set or empty"},
		"empty secret":        {"app wx1 {env.EMPTY}", "app wx1: app_secret: {env.EMPTY} is not set or empty"},
		"unset id":            {"app {env.NO_SUCH_VARIABLE} {env.SECRET}", "app_id: {env.NO_SUCH_VARIABLE} is not set or empty"},
		"no such file":        {"app wx1 {file./no/such/file}", "app wx1: app_secret: {file./no/such/file} is not set or empty"},
		"no secret":           {"app wx1", "app wx1: an app_secret is needed; write: app wx1 {env.WECHAT_APP_SECRET}"},
		"one app, two ways":   {"app wx1 {env.SECRET}\napp {env.SAME} {env.SECRET}", "app wx1 is configured twice"},
		"the other way round": {"app {env.SECRET} wx1", "an app_id of WeChat begins with wx; write: app <app_id> [<app_secret>]"},
		"brace left":          {"app wx1 {env.SECRET", "app wx1: app_secret: has a brace or a $ left in it; write placeholders as {env.NAME}"},
		"a shell's variable":  {"app wx1 $SECRET", "app wx1: app_secret: has a brace or a $ left in it"},
		"server's key":        {"app wx1 {\ntoken server https://h {\nheader X-Key {env.NO_SUCH_VARIABLE}\n}\n}", "header X-Key: {env.NO_SUCH_VARIABLE} is not set or empty"},
		"secret in the words": {"app wx1 prefix-{env.NO_SUCH_VARIABLE}", "app wx1: app_secret: a placeholder in it is not set or empty"},
	} {
		t.Run(name, func(t *testing.T) {
			err := validate(t, ":8080 {\nwechat_media {\n"+tc.block+"\n}\n}\n")
			if err == nil {
				t.Fatal("accepted")
			}
			if msg := err.Error(); !strings.Contains(msg, tc.want) || strings.Contains(msg, "\n") || strings.Contains(msg, "s3cret-value") {
				t.Errorf("got %q, want one line with %q", msg, tc.want)
			}
		})
	}
}
