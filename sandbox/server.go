// Package sandbox stands in for WeChat's token and temporary-media endpoints, and
// for WeCom's, without a network and without an account. It is as strict as the two
// are documented and reported to be: what it accepts, they accept. Where nobody has
// said what they do, a comment says that it is a guess.
//
// A Server is an http.Handler, for a gateway's tests and for those of a backend; see
// the example. The directive wechat_sandbox, in package caddysandbox, is a thin layer
// on it for people.
package sandbox

// The server: its options, and which endpoint a request is for.

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// Endpoint names one of the endpoints, for counters and faults.
type Endpoint string

// The endpoints. Other is every path that is none of them.
const (
	Token       Endpoint = "token"        // GET /cgi-bin/token
	StableToken Endpoint = "stable_token" // POST /cgi-bin/stable_token
	CorpToken   Endpoint = "gettoken"     // GET /cgi-bin/gettoken, WeCom's
	MediaGet    Endpoint = "get"          // GET, HEAD or POST /cgi-bin/media/get
	MediaJSSDK  Endpoint = "jssdk"        // GET, HEAD or POST /cgi-bin/media/get/jssdk
	MediaUpload Endpoint = "upload"       // POST /cgi-bin/media/upload
	Other       Endpoint = "other"
)

var endpoints = map[string]Endpoint{
	"/cgi-bin/token":           Token,
	"/cgi-bin/stable_token":    StableToken,
	"/cgi-bin/gettoken":        CorpToken,
	"/cgi-bin/media/get":       MediaGet,
	"/cgi-bin/media/get/jssdk": MediaJSSDK,
	"/cgi-bin/media/upload":    MediaUpload,
}

// IdleTimeout is how long WeChat leaves a connection open that nothing happens on
// (https://juejin.cn/post/6865277186438496269, one report of 2020). A handler cannot
// close idle connections; a test that wants it sets http.Server's IdleTimeout to this.
const IdleTimeout = 20 * time.Second

// Options configures a Server. The zero value of each field is its default.
type Options struct {
	// WeChat's accounts: AppSecrets by AppID. There is no default.
	Apps map[string]string

	// WeCom's: secrets by corp id, or by corp id and agent id, written
	// `<corp_id>/<agent_id>`. No two agents of a corp have the same secret. There is
	// no default. Media and tokens of the two platforms are kept apart; which one a
	// call of the media endpoints is for, its token says.
	Corps map[string]string

	// How long a token lives, in whole seconds. Default: 2 hours, as WeChat's.
	TokenTTL time.Duration

	// Memory, in bytes, for media and for uploads under way. When it is used up
	// the oldest media go. Default: 256 MiB.
	MaxMemory int64

	// How many calls of an endpoint an app, or a corp, has in a day and in a
	// minute. Default: the documented numbers, such as 2000 of Token in a day.
	DailyQuota  map[Endpoint]int
	MinuteQuota map[Endpoint]int

	// How long to wait before each answer; ResetFaults returns to it. Default: 0.
	Latency time.Duration

	// Whether connections stay open after a download. WeChat's documented reply
	// has Connection: close. Default: false.
	KeepAlive bool

	// Whether the token of an upload is checked before its body is read, and a
	// refusal answered at once, instead of after. Which WeChat does is unknown.
	// Default: false.
	CheckTokenFirst bool

	// The clock. Default: time.Now.
	Now func() time.Time
}

const (
	defaultTokenTTL  = 2 * time.Hour
	defaultMaxMemory = 256 << 20
)

// Server answers as WeChat and WeCom do. It is an http.Handler, safe for concurrent
// use, and has no goroutine of its own.
type Server struct {
	opts Options

	mu     sync.Mutex
	apps   map[string]*account
	corps  map[string]*account
	tokens tokenTable
	media  mediaStore
	calls  map[Endpoint]int64
	faults map[Endpoint]*faults
	hooks  hooks
}

// New returns a Server.
func New(opts Options) *Server {
	if opts.TokenTTL <= 0 {
		opts.TokenTTL = defaultTokenTTL
	}
	if opts.MaxMemory <= 0 {
		opts.MaxMemory = defaultMaxMemory
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Server{
		opts:   opts,
		apps:   newApps(opts.Apps),
		corps:  newCorps(opts.Corps),
		tokens: tokenTable{byValue: make(map[string]*issuedToken)},
		media:  newMediaStore(opts.MaxMemory),
		calls:  make(map[Endpoint]int64),
		faults: make(map[Endpoint]*faults),
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/sandbox/") {
		s.serveOwn(w, r)
		return
	}
	endpoint, ok := endpoints[r.URL.Path]
	if !ok {
		endpoint = Other
	}
	s.mu.Lock()
	s.calls[endpoint]++
	hook := s.hooks.request
	s.mu.Unlock()
	if hook != nil {
		hook(endpoint, r)
	}
	c := &call{w: w, r: r, endpoint: endpoint, platform: s.platformOf(endpoint, r), now: s.opts.Now}
	if s.faulty(c) {
		return
	}
	switch endpoint {
	case Token:
		s.serveToken(c)
	case StableToken:
		s.serveStableToken(c)
	case CorpToken:
		s.serveCorpToken(c)
	case MediaGet, MediaJSSDK:
		s.serveDownload(c)
	case MediaUpload:
		s.serveUpload(c)
	default:
		c.refusePath()
	}
}

// platformOf tells whose words an answer is in: those of the platform that the
// endpoint or the token belongs to, or else of the one that there are accounts of.
func (s *Server) platformOf(endpoint Endpoint, r *http.Request) *platform {
	switch endpoint {
	case Token, StableToken:
		return wechat
	case CorpToken:
		return wecom
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tokens.byValue[r.URL.Query().Get("access_token")]; t != nil {
		return t.account.platform
	}
	if len(s.apps) == 0 && len(s.corps) > 0 {
		return wecom
	}
	return wechat
}

// Interface guard
var _ http.Handler = (*Server)(nil)
