// Package platform is the one table of what differs between WeChat and WeCom: hosts,
// token endpoints, media types and their limits, what ids look like, and the errcodes
// that only one of the two has.
package platform

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
)

// Platform is WeChat or WeCom.
type Platform struct {
	// Name is for error messages.
	Name string

	// Hosts are the default upstreams, host:port in order of preference, and Domain
	// is what all of them are below: hosts of one domain know the same tokens.
	Hosts  []string
	Domain string

	// TokenPath is where tokens are fetched with a GET, and TokenEndpoints are the
	// paths that an SDK asks for tokens, with the method for each. They are answered
	// by the gateway itself when sdk_tokens is on.
	// What stands in their answers in front of the token is TokenHead.
	TokenPath      string
	TokenEndpoints map[string]string
	TokenHead      string

	// MediaTypes are the types that may be uploaded with the largest media of each,
	// in bytes, in the order in which documentation lists them.
	MediaTypes []MediaType

	// SmallestMedia is the least that a medium has, in bytes.
	SmallestMedia int64

	// IDPrefixes are what an app_id begins with; IDName is the platform's word for it.
	IDPrefixes []string
	IDName     string

	// Secret is what a secret looks like, and SecretWords are the words for it. Nil: not
	// known.
	Secret      *regexp.Regexp
	SecretWords string

	// Errcodes are those that mean something else here than in errcode's table.
	Errcodes map[int]errcode.Meaning

	// Admin is where the operator finds AppID, secret and whitelist.
	Admin string
}

// MediaType is a type of media and its limit in bytes.
type MediaType struct {
	Name  string
	Limit int64
}

// WeChat is mini programs and official accounts.
// https://developers.weixin.qq.com/doc/service/api/material/temporary/api_uploadtempmedia
var WeChat = &Platform{
	Name:      "WeChat",
	Hosts:     []string{"api.weixin.qq.com:443", "api2.weixin.qq.com:443"},
	Domain:    "weixin.qq.com",
	TokenPath: "/cgi-bin/token",
	TokenEndpoints: map[string]string{
		"/cgi-bin/token":        http.MethodGet,
		"/cgi-bin/stable_token": http.MethodPost,
	},
	MediaTypes:  []MediaType{{"image", 10 << 20}, {"voice", 2 << 20}, {"video", 10 << 20}, {"thumb", 64 << 10}},
	IDPrefixes:  []string{"wx"},
	IDName:      "app_id",
	Secret:      regexp.MustCompile(`^[0-9a-fA-F]{32}$`),
	SecretWords: "32 hexadecimal digits",
	Admin:       "https://mp.weixin.qq.com",
}

// WeCom is 企业微信.
// https://developer.work.weixin.qq.com/document/path/91039 (the token),
// https://developer.work.weixin.qq.com/document/path/90253 (uploads),
// https://developer.work.weixin.qq.com/document/path/90313 (errcodes)
var WeCom = &Platform{
	Name:           "WeCom",
	Hosts:          []string{"qyapi.weixin.qq.com:443"},
	Domain:         "qyapi.weixin.qq.com",
	TokenPath:      "/cgi-bin/gettoken",
	TokenEndpoints: map[string]string{"/cgi-bin/gettoken": http.MethodGet},
	TokenHead:      `"errcode":0,"errmsg":"ok",`,
	MediaTypes:     []MediaType{{"image", 10 << 20}, {"voice", 2 << 20}, {"video", 10 << 20}, {"file", 20 << 20}},
	SmallestMedia:  6,
	IDPrefixes:     []string{"ww", "wx"},
	IDName:         "corp_id",
	Errcodes: map[int]errcode.Meaning{
		60020: {Class: errcode.Account, Status: http.StatusForbidden, Kind: errcode.KindIP,
			Todo: "add this machine's public IP address to the trusted addresses of the agent in the WeCom admin"},
		45009: {Class: errcode.Quota, Status: http.StatusTooManyRequests, Kind: errcode.KindQuota,
			Todo: "the corp's calls of this API are used up for this minute or hour; see which of its agents make so many"},
		45033:  {Class: errcode.Quota, Status: http.StatusTooManyRequests, Kind: errcode.KindQuota},
		830002: {Class: errcode.Request, Status: http.StatusRequestEntityTooLarge, Kind: errcode.KindReply},
		40056:  {Class: errcode.Other, Status: http.StatusBadGateway, Kind: errcode.KindAppID},
		40091:  {Class: errcode.Other, Status: http.StatusBadGateway, Kind: errcode.KindSecret},
	},
	Admin: "https://work.weixin.qq.com",
}

// All are the platforms. An id that is none of a platform's is taken for the first's.
var All = []*Platform{WeChat, WeCom}

// Of returns the platform of a name, in whatever case, or else the first one that an id
// can be of.
func Of(name, id string) *Platform {
	for _, p := range All {
		if strings.EqualFold(p.Name, name) {
			return p
		}
	}
	for _, p := range All {
		if p.IsID(id) {
			return p
		}
	}
	return All[0]
}

// Meaning returns what an errcode means here.
func (p *Platform) Meaning(code int) errcode.Meaning {
	if m, ok := p.Errcodes[code]; ok {
		return m
	}
	m := errcode.Of(code)
	m.Todo = strings.ReplaceAll(m.Todo, WeChat.Name, p.Name)
	return m
}

// Limit returns the largest media of a type, in bytes; ok is false for a type that
// the platform does not have.
func (p *Platform) Limit(mediaType string) (limit int64, ok bool) {
	for _, t := range p.MediaTypes {
		if t.Name == mediaType {
			return t.Limit, true
		}
	}
	return 0, false
}

// TypeNames returns the names of the media types, separated by commas.
func (p *Platform) TypeNames() string {
	names := make([]string, len(p.MediaTypes))
	for i, t := range p.MediaTypes {
		names[i] = t.Name
	}
	return strings.Join(names, ", ")
}

// IsID reports whether s can be the id of an app here.
func (p *Platform) IsID(s string) bool {
	for _, prefix := range p.IDPrefixes {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}
