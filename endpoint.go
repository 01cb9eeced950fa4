package wechatmedia

// Which of WeChat's media endpoints a caller's request means. The upstream URI
// is always built here from constants and checked values: nothing of the
// caller's path or query is ever copied into it.

import (
	"net/http"
	"net/url"
	"strings"
)

// endpoint names one of the few WeChat endpoints that a request can mean.
type endpoint string

const (
	endpointGet         endpoint = "get"          // /cgi-bin/media/get
	endpointJSSDK       endpoint = "jssdk"        // /cgi-bin/media/get/jssdk
	endpointUpload      endpoint = "upload"       // /cgi-bin/media/upload
	endpointToken       endpoint = "token"        // /cgi-bin/token, never proxied
	endpointStableToken endpoint = "stable_token" // /cgi-bin/stable_token, never proxied
)

// nativePaths are WeChat's own paths, which callers may use as they are.
var nativePaths = map[string]endpoint{
	"/cgi-bin/media/get":       endpointGet,
	"/cgi-bin/media/get/jssdk": endpointJSSDK,
	"/cgi-bin/media/upload":    endpointUpload,
	"/cgi-bin/token":           endpointToken,
	"/cgi-bin/stable_token":    endpointStableToken,
}

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

// parseCall tells what a request means, or why it means nothing.
func parseCall(method string, u *url.URL) (call, *refusal) {
	last, native, ok := scanPath(u)
	if !ok {
		return call{}, refuseNoEndpoint()
	}

	c := call{method: method}
	if native {
		// everything behind the first cgi-bin must be a known path, to the letter
		i := strings.Index(u.Path, "/cgi-bin/")
		if i < 0 {
			return call{}, refuseNoEndpoint()
		}
		if c.endpoint, ok = nativePaths[u.Path[i:]]; !ok {
			return call{}, refuseNoEndpoint()
		}
		c.mediaID, ok = singleParam(u.RawQuery, "media_id")
	} else {
		switch method {
		case http.MethodGet, http.MethodHead:
			c.endpoint, c.mediaID = endpointGet, last
		case http.MethodPost:
			c.endpoint = endpointUpload
		case http.MethodPut, http.MethodPatch:
			return call{}, refuseMethod(errcodeRequirePost, "GET, HEAD, POST")
		default:
			return call{}, refuseMethod(errcodeRequireGet, "GET, HEAD, POST")
		}
	}

	switch c.endpoint {
	case endpointGet:
		switch method {
		case http.MethodGet, http.MethodHead:
		case http.MethodPost: // PowerWeChat fetches temporary media with POST
			c.method = http.MethodGet
		default:
			return call{}, refuseMethod(errcodeRequireGet, "GET, HEAD, POST")
		}
	case endpointJSSDK:
		if method != http.MethodGet && method != http.MethodHead {
			return call{}, refuseMethod(errcodeRequireGet, "GET, HEAD")
		}
	case endpointUpload:
		if method != http.MethodPost {
			return call{}, refuseMethod(errcodeRequirePost, "POST")
		}
		c.mediaID = ""
		if c.mediaType, ok = singleParam(u.RawQuery, "type"); !ok {
			return call{}, refuseType("given more than once or not well-formed")
		}
		if c.mediaType == "" {
			c.mediaType = defaultMediaType
		}
		return c, nil
	case endpointToken:
		if method != http.MethodGet {
			return call{}, refuseMethod(errcodeRequireGet, "GET")
		}
		return c, nil
	case endpointStableToken:
		if method != http.MethodPost {
			return call{}, refuseMethod(errcodeRequirePost, "POST")
		}
		return c, nil
	}

	if !ok || !validMediaID(c.mediaID) {
		return c, refuseMediaID()
	}
	return c, nil
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
// false when it is there more than once or cannot be decoded. It does not use
// url.ParseQuery, which builds a map and drops what it cannot read in silence.
func singleParam(rawQuery, name string) (value string, ok bool) {
	found := false
	for pair := range strings.SplitSeq(rawQuery, "&") {
		k, v, _ := strings.Cut(pair, "=")
		if key, err := url.QueryUnescape(k); err != nil || key != name {
			continue
		}
		decoded, err := url.QueryUnescape(v)
		if err != nil || found {
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
