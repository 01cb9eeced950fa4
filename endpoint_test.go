package wechatmedia

import (
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
)

const testMediaID = "bUQq8F1Gq8vS0fXxYwN2nJ4r6p-Lk_tz0123456789abcdefghijklmnopqrstuv"

type parseCase struct {
	method, target string
	mounts         string
	want           call
	status         int // of the refusal; 0 for none
	errcode        int
	allow          string
}

// facadeCases are requests of SDKs that ask for a token.
func facadeCases() []parseCase {
	if testPlatform == platform.WeCom {
		return []parseCase{
			{method: "GET", target: "/cgi-bin/gettoken?corpid=a&corpsecret=b", want: call{endpoint: endpointToken, method: "GET"}},
			{method: "POST", target: "/cgi-bin/gettoken", status: 405, errcode: 43001, allow: "GET"},
			{method: "GET", target: "/cgi-bin/token?appid=a&secret=b", status: 404, errcode: 40066},
			{method: "POST", target: "/cgi-bin/stable_token", status: 404, errcode: 40066},
		}
	}
	return []parseCase{
		{method: "GET", target: "/cgi-bin/token?appid=a&secret=b", want: call{endpoint: endpointToken, method: "GET"}},
		{method: "POST", target: "/cgi-bin/token", status: 405, errcode: 43001, allow: "GET"},
		{method: "POST", target: "/cgi-bin/stable_token", want: call{endpoint: endpointStableToken, method: "POST"}},
		{method: "GET", target: "/cgi-bin/stable_token", status: 405, errcode: 43002, allow: "POST"},
		{method: "GET", target: "/cgi-bin/gettoken?corpid=a&corpsecret=b", status: 404, errcode: 40066},
	}
}

func TestParseCall(t *testing.T) {
	for _, tc := range append(facadeCases(), []parseCase{
		// downloads
		{method: "GET", target: "/media/" + testMediaID, want: call{endpointGet, "GET", testMediaID, ""}},
		{method: "HEAD", target: "/media/" + testMediaID, want: call{endpointGet, "HEAD", testMediaID, ""}},
		{method: "GET", target: "/" + testMediaID, want: call{endpointGet, "GET", testMediaID, ""}},
		{method: "GET", target: "//a//" + testMediaID, want: call{endpointGet, "GET", testMediaID, ""}},
		{method: "GET", target: "/media/%41bc", want: call{endpointGet, "GET", "Abc", ""}},
		{method: "GET", target: "/media/abc?media_id=other&access_token=x", want: call{endpointGet, "GET", "abc", ""}},
		{method: "GET", target: "/media/", status: 400, errcode: 40007},
		{method: "GET", target: "/", status: 400, errcode: 40007},
		{method: "GET", target: "/media/a.jpg", status: 400, errcode: 40007},
		{method: "GET", target: "/media/a%20b", status: 400, errcode: 40007},
		{method: "GET", target: "/media/a;b", status: 400, errcode: 40007},
		{method: "GET", target: "/media/" + strings.Repeat("a", 129), status: 400, errcode: 40007},
		{method: "GET", target: "/media/" + strings.Repeat("a", 128), want: call{endpointGet, "GET", strings.Repeat("a", 128), ""}},
		{method: "GET", target: "/media/..", status: 404, errcode: 40066},
		{method: "GET", target: "/media/%2e%2e/" + testMediaID, status: 404, errcode: 40066},
		{method: "GET", target: "/media/a%2fb", status: 404, errcode: 40066},
		{method: "GET", target: "/media/a%5cb", status: 404, errcode: 40066},
		{method: "GET", target: "/media/a%00", status: 404, errcode: 40066},

		// downloads at WeChat's own paths
		{method: "GET", target: "/cgi-bin/media/get?media_id=abc", want: call{endpointGet, "GET", "abc", ""}},
		{method: "GET", target: "/wx/cgi-bin/media/get?access_token=t&media_id=abc", want: call{endpointGet, "GET", "abc", ""}},
		{method: "POST", target: "/cgi-bin/media/get?media_id=abc", want: call{endpointGet, "GET", "abc", ""}},
		{method: "HEAD", target: "/cgi-bin/media/get?media_id=abc", want: call{endpointGet, "HEAD", "abc", ""}},
		{method: "GET", target: "/cgi-bin/media/get/jssdk?media_id=abc", want: call{endpointJSSDK, "GET", "abc", ""}},
		{method: "GET", target: "/cgi-bin/media/get?%6dedia_id=abc", want: call{endpointGet, "GET", "abc", ""}},
		{method: "GET", target: "/cgi-bin/media/get", status: 400, errcode: 40007},
		{method: "GET", target: "/cgi-bin/media/get?Media_ID=abc", status: 400, errcode: 40007},
		{method: "GET", target: "/cgi-bin/media/get?media_id=abc&media_id=abd", status: 400, errcode: 40007},
		{method: "GET", target: "/cgi-bin/media/get?media_id=abc&media_id=abc", want: call{endpointGet, "GET", "abc", ""}},
		{method: "GET", target: "/cgi-bin/media/get?media_id=abc&media%5fid=def", status: 400, errcode: 40007},
		{method: "GET", target: "/cgi-bin/media/get?media_id=abc;media_id=def", status: 400, errcode: 40007},
		{method: "GET", target: "/cgi-bin/media/get?media_id=abc%26access_token=x", status: 400, errcode: 40007},
		{method: "GET", target: "/cgi-bin/media/get?media_id=%zz", status: 400, errcode: 40007},
		{method: "PUT", target: "/cgi-bin/media/get?media_id=abc", status: 405, errcode: 43001, allow: "GET, HEAD, POST"},
		{method: "POST", target: "/cgi-bin/media/get/jssdk?media_id=abc", want: call{endpointJSSDK, "GET", "abc", ""}},

		// uploads
		{method: "POST", target: "/media", want: call{endpointUpload, "POST", "", "image"}},
		{method: "POST", target: "/", want: call{endpointUpload, "POST", "", "image"}},
		{method: "POST", target: "/media/anything?type=voice&appid=x", want: call{endpointUpload, "POST", "", "voice"}},
		{method: "POST", target: "/cgi-bin/media/upload?type=video&access_token=x", want: call{endpointUpload, "POST", "", "video"}},
		{method: "POST", target: "/cgi-bin/media/upload", want: call{endpointUpload, "POST", "", "image"}},
		{method: "POST", target: "/media?type=image&type=voice", status: 400, errcode: 40004},
		{method: "POST", target: "/media?type=%zz", status: 400, errcode: 40004},
		{method: "GET", target: "/cgi-bin/media/upload?type=image", status: 405, errcode: 43002, allow: "POST"},
		{method: "PUT", target: "/media", status: 405, errcode: 43002, allow: "GET, HEAD, POST"},
		{method: "DELETE", target: "/media/abc", status: 405, errcode: 43001, allow: "GET, HEAD, POST"},

		// what means something else
		{method: "GET", target: "/media", status: 400, errcode: 40007},
		{method: "GET", target: "/wx/media", mounts: "/wx/media", status: 400, errcode: 40007},
		{method: "GET", target: "/wx/media/", mounts: "/wx/media", status: 400, errcode: 40007},
		{method: "GET", target: "/wx/media/abc", mounts: "/wx/media", want: call{endpointGet, "GET", "abc", ""}},
		{method: "POST", target: "/cgi-bin/media/upload?amp;type=voice", status: 400, errcode: 40004},
		{method: "POST", target: "/cgi-bin/media/upload?access_token=x&amp;type=voice", status: 400, errcode: 40004},
		{method: "POST", target: "/cgi-bin/media/upload?TYPE=voice", status: 400, errcode: 40004},
		{method: "POST", target: "/cgi-bin/media/upload?%20type=voice", status: 400, errcode: 40004},
		{method: "POST", target: "/cgi-bin/media/upload?TYPE=voice&type=image", want: call{endpointUpload, "POST", "", "image"}},
		{method: "POST", target: "/media?type=image&type=image", want: call{endpointUpload, "POST", "", "image"}},
		{method: "OPTIONS", target: "/media/abc", status: 405, errcode: 43001, allow: "GET, HEAD, POST"},
		{method: "post", target: "/media", status: 405, errcode: 43001, allow: "GET, HEAD, POST"},
		{method: "OPTIONS", target: "/cgi-bin/media/upload", status: 405, errcode: 43002, allow: "POST"},
		{method: "OPTIONS", target: "/cgi-bin/media/get?media_id=abc", status: 405, errcode: 43001, allow: "GET, HEAD, POST"},

		// everything else of WeChat's
		{method: "GET", target: "/cgi-bin/user/info?openid=x", status: 404, errcode: 40066},
		{method: "POST", target: "/cgi-bin/message/custom/send", status: 404, errcode: 40066},
		{method: "POST", target: "/cgi-bin/clear_quota", status: 404, errcode: 40066},
		{method: "GET", target: "/cgi-bin", status: 404, errcode: 40066},
		{method: "GET", target: "/cgi-bin/", status: 404, errcode: 40066},
		{method: "GET", target: "/CGI-BIN/media/get?media_id=abc", status: 404, errcode: 40066},
		{method: "GET", target: "/cgi-bin/media/get/?media_id=abc", status: 404, errcode: 40066},
		{method: "GET", target: "/cgi-bin//media/get?media_id=abc", status: 404, errcode: 40066},
		{method: "GET", target: "/cgi-bin/media/../user/get", status: 404, errcode: 40066},
		{method: "GET", target: "/cgi-bin/media/%2e%2e/user/get", status: 404, errcode: 40066},
		{method: "GET", target: "/cgi-bin%2fuser%2fget", status: 404, errcode: 40066},
		{method: "GET", target: "/%63gi-bin/user/get", status: 404, errcode: 40066},
		{method: "GET", target: "/cgi-bin;x/user/get", status: 404, errcode: 40066},
		{method: "GET", target: "/cgi-bin/user/cgi-bin/media/get?media_id=abc", status: 404, errcode: 40066},
	}...) {
		u, err := url.ParseRequestURI(tc.target)
		if err != nil {
			t.Fatalf("%s: %v", tc.target, err)
		}
		got, refused := parseCall(testPlatform, strings.Fields(tc.mounts), tc.method, u)
		switch {
		case tc.status == 0 && refused != nil:
			t.Errorf("%s %s: refused: %v", tc.method, tc.target, refused)
		case tc.status == 0 && got != tc.want:
			t.Errorf("%s %s: got %+v, want %+v", tc.method, tc.target, got, tc.want)
		case tc.status != 0 && refused == nil:
			t.Errorf("%s %s: passed as %+v, want %d", tc.method, tc.target, got, tc.status)
		case tc.status != 0 && (refused.status != tc.status || refused.errcode != tc.errcode || refused.allow != tc.allow):
			t.Errorf("%s %s: refused with %d, errcode %d, allow %q; want %d, %d, %q", tc.method, tc.target,
				refused.status, refused.errcode, refused.allow, tc.status, tc.errcode, tc.allow)
		}
	}
}

// hostileTargets are request targets that try to get elsewhere.
var hostileTargets = []string{
	"/media/" + testMediaID,
	"/cgi-bin/media/get?media_id=abc",
	"/cgi-bin/media/upload?type=image",
	"/cgi-bin/media/get/jssdk?media_id=abc",
	"/media/%2e%2e/cgi-bin/user/info",
	"/media/%2e%2e%2fcgi-bin%2fuser%2finfo",
	"/media/..%2f..%2fcgi-bin/user/get",
	"/media/../../cgi-bin/user/get",
	"//cgi-bin//user//info",
	"/cgi-bin%2fuser%2finfo",
	"/cgi-bin%252fuser",
	"/%63%67%69-bin/user/info",
	"/CGI-BIN/USER/INFO",
	"/cgi-bin/media/get/../../user/info",
	"/cgi-bin/media/get;/../user/info?media_id=abc",
	"/cgi-bin/media/get?media_id=abc;access_token=evil",
	"/cgi-bin/media/get?media_id=abc&access_token=evil&ACCESS_TOKEN=evil&Access_Token=evil",
	"/cgi-bin/media/get?media_id=abc%26access_token%3Devil",
	"/cgi-bin/media/get?media_id=abc%23",
	"/cgi-bin/media/get?media_id=a&media_id=b&Media_Id=c",
	"/cgi-bin/media/get?media_id=abc%00",
	"/cgi-bin/media/get%00?media_id=abc",
	"/media/%00",
	"/media/" + strings.Repeat("a", 4096),
	"/cgi-bin/media/get?media_id=" + strings.Repeat("b", 4096),
	"/media?type=image%26access_token=evil",
	"/media?type=image&type=voice&TYPE=video",
	"/media?type=image;appid=x",
	"/cgi-bin/media/upload?type=image#/cgi-bin/user",
	"/cgi-bin/message/custom/send?access_token=evil",
	"/cgi-bin/clear_quota/v2",
	"/media/\\..\\cgi-bin\\user",
	"http://api.weixin.qq.com/cgi-bin/user/info",
	"/?media_id=abc",
	"/wxa/getwxacodeunlimit",
	"/media/%c0%ae%c0%ae/cgi-bin",
	"/media/a%0d%0aHost:%20evil",
}

// FuzzParseCall holds that whatever a caller sends, what goes to WeChat is one of
// its three media endpoints with the one parameter that belongs there.
func FuzzParseCall(f *testing.F) {
	for _, target := range hostileTargets {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "get", "CONNECT"} {
			f.Add(method, target)
		}
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return // net/http refuses it
		}
		for _, p := range []*platform.Platform{platform.WeChat, platform.WeCom} {
			c, refused := parseCall(p, nil, method, u)
			if refused != nil {
				if refused.status < 400 || refused.status > 499 {
					t.Fatalf("refused with status %d", refused.status)
				}
				continue
			}
			if c.endpoint == endpointToken || c.endpoint == endpointStableToken {
				continue // answered here
			}
			checkUpstreamTarget(t, c.method, c.uri(), nil)
			if c.endpoint != endpointUpload && !validMediaID(c.mediaID) {
				t.Fatalf("media_id %q", c.mediaID)
			}
		}
	})
}

// checkUpstreamTarget fails unless target, as it was received, is one of the
// media endpoints with nothing but the parameters in extra and its own.
func checkUpstreamTarget(t *testing.T, method, target string, extra map[string]string) {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatalf("%q: %v", target, err)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		t.Fatalf("%q: %v", target, err)
	}
	own := "media_id"
	switch u.EscapedPath() {
	case "/cgi-bin/media/get", "/cgi-bin/media/get/jssdk":
		if method != "GET" && method != "HEAD" {
			t.Fatalf("%s %s", method, target)
		}
	case "/cgi-bin/media/upload":
		own = "type"
		if method != "POST" {
			t.Fatalf("%s %s", method, target)
		}
	default:
		t.Fatalf("%s %s reached WeChat", method, target)
	}
	if len(query) != 1+len(extra) || len(query[own]) != 1 {
		t.Fatalf("query %q", u.RawQuery)
	}
	for name, value := range extra {
		if len(query[name]) != 1 || query[name][0] != value {
			t.Fatalf("query %q: %s is not %q", u.RawQuery, name, value)
		}
	}
}
