package wechatmedia

// Which of WeChat's media endpoints a caller's request means. The upstream URI
// is always built here from constants and checked values: nothing of the
// caller's path or query is ever copied into it.

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
)

// endpoint names one of the few WeChat endpoints that a request can mean.
type endpoint string

const (
	endpointGet         endpoint = "get"          // /cgi-bin/media/get
	endpointJSSDK       endpoint = "jssdk"        // /cgi-bin/media/get/jssdk
	endpointUpload      endpoint = "upload"       // /cgi-bin/media/upload
	endpointToken       endpoint = "token"        // never proxied
	endpointStableToken endpoint = "stable_token" // never proxied
)

// upstreamPaths is everything that can be asked of WeChat.
var upstreamPaths = map[endpoint]string{
	endpointGet:    "/cgi-bin/media/get",
	endpointJSSDK:  "/cgi-bin/media/get/jssdk",
	endpointUpload: "/cgi-bin/media/upload",
}

// call is what a caller's request means.
type call struct {
	endpoint  endpoint
	method    string // the method for WeChat
	mediaID   string // downloads only
	mediaType string // uploads only
}

// uri is the request URI for WeChat, without the access token.
func (c call) uri() string {
	if c.endpoint == endpointUpload {
		return upstreamPaths[c.endpoint] + "?type=" + url.QueryEscape(c.mediaType)
	}
	return upstreamPaths[c.endpoint] + "?media_id=" + url.QueryEscape(c.mediaID)
}

// nativeEndpoint is the endpoint of one of WeChat's own paths, which callers may use
// as they are.
func nativeEndpoint(p *platform.Platform, path string) endpoint {
	for e, upstream := range upstreamPaths {
		if path == upstream {
			return e
		}
	}
	switch {
	case p.TokenEndpoints[path] == "":
		return ""
	case path == p.TokenPath:
		return endpointToken
	}
	return endpointStableToken
}

// parseCall tells what a request means, or why it means nothing. mounts are the paths
// that the gateway is known to stand at; none of them names media.
func parseCall(p *platform.Platform, mounts []string, method string, u *url.URL) (call, *refusal) {
	last, native, ok := scanPath(u)
	if !ok {
		return call{}, refuseNoEndpoint()
	}
	if !native {
		return parseShort(mounts, method, u, last)
	}
	// everything behind the first cgi-bin must be a known path, to the letter
	i := strings.Index(u.Path, "/cgi-bin/")
	if i < 0 {
		return call{}, refuseNoEndpoint()
	}
	c := call{method: method, endpoint: nativeEndpoint(p, u.Path[i:])}
	switch c.endpoint {
	case endpointGet, endpointJSSDK:
		// SDKs fetch with POST too, and WeChat is reported to take it
		if !isDownload(method) && method != http.MethodPost {
			return c, refuseMethod(errcode.RequireGet, "GET", "HEAD", "POST")
		}
		return parseDownload(c, u.RawQuery)
	case endpointUpload:
		if method != http.MethodPost {
			return c, refuseMethod(errcode.RequirePost, "POST")
		}
		if lostType(u.RawQuery) {
			return c, refuseType("the parameter type got lost on its way: write ?type=image")
		}
		return parseUpload(c, u.RawQuery)
	case endpointToken, endpointStableToken:
		switch allowed := p.TokenEndpoints[u.Path[i:]]; {
		case method == allowed:
			return c, nil
		case allowed == http.MethodPost:
			return c, refuseMethod(errcode.RequirePost, allowed)
		default:
			return c, refuseMethod(errcode.RequireGet, allowed)
		}
	}
	return call{}, refuseNoEndpoint()
}

// parseShort is for paths of the gateway's own: the last segment is the media_id.
func parseShort(mounts []string, method string, u *url.URL, last string) (call, *refusal) {
	c := call{method: method}
	switch {
	case isDownload(method):
		c.endpoint = endpointGet
		if slices.Contains(mounts, strings.TrimSuffix(u.Path, "/")) || looksLikeMount(u.Path) {
			return c, refuseMediaID()
		}
		if c.mediaID = last; !validMediaID(last) {
			return c, refuseMediaID()
		}
		return c, nil
	case method == http.MethodPost:
		c.endpoint = endpointUpload
		return parseUpload(c, u.RawQuery)
	case method == http.MethodPut, method == http.MethodPatch:
		return c, refuseMethod(errcode.RequirePost, "GET", "HEAD", "POST")
	}
	return c, refuseMethod(errcode.RequireGet, "GET", "HEAD", "POST")
}

func isDownload(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// looksLikeMount reports whether a path is one word, such as /media: where nothing
// else tells where the gateway stands, no call is spent on it. A media_id has 37
// characters or more, of all kinds.
func looksLikeMount(path string) bool {
	const longestWord = 16
	word := strings.TrimPrefix(path, "/")
	if len(word) > longestWord {
		return false
	}
	return strings.IndexFunc(word, func(r rune) bool { return r < 'a' || r > 'z' }) < 0
}

func parseDownload(c call, rawQuery string) (call, *refusal) {
	var ok bool
	if c.mediaID, ok = singleParam(rawQuery, "media_id"); !ok || !validMediaID(c.mediaID) {
		return c, refuseMediaID()
	}
	if c.method == http.MethodPost {
		c.method = http.MethodGet
	}
	return c, nil
}

func parseUpload(c call, rawQuery string) (call, *refusal) {
	var ok bool
	if c.mediaType, ok = singleParam(rawQuery, "type"); !ok {
		return c, refuseType("given more than once or not well-formed")
	}
	if c.mediaType == "" {
		c.mediaType = defaultMediaType
	}
	return c, nil
}

// lostType reports whether a query has no type, but what an escaped ampersand or a
// client's habits have made of it: without a word, voice would become image.
func lostType(rawQuery string) bool {
	lost := false
	for pair := range strings.SplitSeq(rawQuery, "&") {
		k, _, _ := strings.Cut(pair, "=")
		key, _ := url.QueryUnescape(k)
		if key == "type" {
			return false
		}
		lost = lost || strings.EqualFold(strings.TrimSpace(strings.TrimPrefix(strings.ToLower(key), "amp;")), "type")
	}
	return lost
}

// scanPath walks the path segment by segment, each decoded on its own, so that
// an encoded slash is seen for what it is. It returns the last segment and
// whether the path speaks of WeChat's own paths; ok is false for a path that
// no honest client sends.
func scanPath(u *url.URL) (last string, native, ok bool) {
	for segment := range strings.SplitSeq(u.EscapedPath(), "/") {
		s, err := url.PathUnescape(segment)
		if err != nil || s == "." || s == ".." {
			return "", false, false
		}
		for i := range len(s) {
			if c := s[i]; c == '/' || c == '\\' || c < ' ' || c == 0x7f {
				return "", false, false
			}
		}
		const cgi = "cgi-bin"
		if len(s) >= len(cgi) && strings.EqualFold(s[:len(cgi)], cgi) {
			native = true
		}
		last = s
	}
	return last, native, true
}

// singleParam returns the value of a query parameter: "" when it is absent, ok
// false when it is there with several values or cannot be decoded. It does not use
// url.ParseQuery, which builds a map and drops what it cannot read in silence.
func singleParam(rawQuery, name string) (value string, ok bool) {
	found := false
	for pair := range strings.SplitSeq(rawQuery, "&") {
		k, v, _ := strings.Cut(pair, "=")
		if key, err := url.QueryUnescape(k); err != nil || key != name {
			continue
		}
		decoded, err := url.QueryUnescape(v)
		if err != nil || found && decoded != value {
			return "", false
		}
		value, found = decoded, true
	}
	return value, true
}

// maxMediaIDLength is the longest media_id that WeChat documents, in bytes.
const maxMediaIDLength = 128

// validMediaID reports whether s can be a media_id: 1 to 128 of [A-Za-z0-9_-].
func validMediaID(s string) bool {
	if s == "" || len(s) > maxMediaIDLength {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
