// Package sandbox stands in for WeChat's token and temporary-media endpoints,
// without a network and without an account. It is as strict as WeChat is
// documented and reported to be: what it accepts, WeChat accepts. Server knows
// nothing of Caddy; the Caddy directive wechat_sandbox is a thin layer on it.
package sandbox

// The server: which endpoint a request is for, and what every answer has in common.

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
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
	MediaGet    Endpoint = "get"          // GET, HEAD or POST /cgi-bin/media/get
	MediaJSSDK  Endpoint = "jssdk"        // GET or HEAD /cgi-bin/media/get/jssdk
	MediaUpload Endpoint = "upload"       // POST /cgi-bin/media/upload
	Other       Endpoint = "other"
)

var endpoints = map[string]Endpoint{
	"/cgi-bin/token":           Token,
	"/cgi-bin/stable_token":    StableToken,
	"/cgi-bin/media/get":       MediaGet,
	"/cgi-bin/media/get/jssdk": MediaJSSDK,
	"/cgi-bin/media/upload":    MediaUpload,
}

// Options configures a Server. The zero value of each field is its default.
type Options struct {
	// The accounts: AppSecrets by AppID. There is no default.
	Apps map[string]string

	// How long a token lives, in whole seconds. Default: 2 hours, as WeChat's.
	TokenTTL time.Duration

	// Memory, in bytes, for media and for uploads under way. When it is used up
	// the oldest media go. Default: 256 MiB.
	MaxMemory int64

	// How many calls of an endpoint an app has in a day, and of StableToken in a
	// minute. Default: WeChat's documented numbers.
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

// wechatDailyQuota is what WeChat documents for official accounts.
// https://developers.weixin.qq.com/doc/service/Message_Management/API_Call_Limits.html
var wechatDailyQuota = map[Endpoint]int{Token: 2000, StableToken: 500_000, MediaUpload: 100_000, MediaGet: 200_000, MediaJSSDK: 200_000}

// wechatMinuteQuota is what WeChat documents for stable_token.
// https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken
var wechatMinuteQuota = map[Endpoint]int{StableToken: 10_000}

const (
	defaultTokenTTL  = 2 * time.Hour
	defaultMaxMemory = 256 << 20
)

// Server answers as WeChat does. It is an http.Handler, safe for concurrent use,
// and has no goroutine of its own.
type Server struct {
	opts Options

	mu       sync.Mutex
	accounts map[string]*account
	tokens   tokenTable
	media    mediaStore
	calls    map[Endpoint]int64
	faults   map[Endpoint]*faults
	hooks    hooks
}

// New returns a Server.
func New(opts Options) *Server {
	if opts.TokenTTL <= 0 {
		opts.TokenTTL = defaultTokenTTL
	}
	if opts.MaxMemory <= 0 {
		opts.MaxMemory = defaultMaxMemory
	}
	if opts.DailyQuota == nil {
		opts.DailyQuota = wechatDailyQuota
	}
	if opts.MinuteQuota == nil {
		opts.MinuteQuota = wechatMinuteQuota
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Server{
		opts:     opts,
		accounts: make(map[string]*account),
		tokens:   tokenTable{byValue: make(map[string]*issuedToken)},
		media:    newMediaStore(opts.MaxMemory),
		calls:    make(map[Endpoint]int64),
		faults:   make(map[Endpoint]*faults),
	}
	for id, secret := range opts.Apps {
		s.accounts[id] = &account{id: id, secret: secret, quotas: make(map[Endpoint]*quota)}
	}
	return s
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
	if s.faulty(endpoint, w, r) {
		return
	}
	switch endpoint {
	case Token:
		s.serveToken(w, r)
	case StableToken:
		s.serveStableToken(w, r)
	case MediaGet, MediaJSSDK:
		s.serveDownload(endpoint, w, r)
	case MediaUpload:
		s.serveUpload(w, r)
	default:
		w.Header().Set("Content-Type", contentTypeJSON)
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write(errorBody(40066, "invalid url"))
	}
}

// WeChat's, and not a well-formed one.
const contentTypeJSON = "application/json; encoding=utf-8"

// apiError is one of WeChat's errors.
type apiError struct {
	code int
	msg  string
}

// WeChat's errors, with the words that it uses.
var (
	errBusy           = &apiError{-1, "system error"}
	errCredential     = &apiError{40001, "invalid credential, access_token is invalid or not latest, could get access_token by getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r"}
	errSecretAtToken  = &apiError{40001, "invalid credential"}
	errGrantType      = &apiError{40002, "invalid grant_type"}
	errMediaType      = &apiError{40004, "invalid media type"}
	errFileType       = &apiError{40005, "invalid file type"}
	errMediaID        = &apiError{40007, "invalid media_id"}
	errImageSize      = &apiError{40009, "invalid image size"}
	errVoiceSize      = &apiError{40010, "invalid voice size"}
	errVideoSize      = &apiError{40011, "invalid video size"}
	errThumbSize      = &apiError{40012, "invalid thumb size"}
	errAppID          = &apiError{40013, "invalid appid"}
	errToken          = &apiError{40014, "invalid access_token"}
	errAppSecret      = &apiError{40125, "invalid appsecret"}
	errTokenMissing   = &apiError{41001, "access_token missing"}
	errAppIDMissing   = &apiError{41002, "appid missing"}
	errSecretMissing  = &apiError{41004, "appsecret missing"}
	errMediaMissing   = &apiError{41005, "media data missing"}
	errMediaIDMissing = &apiError{41006, "media_id missing"}
	errTokenExpired   = &apiError{42001, "access_token expired"}
	errRequireGet     = &apiError{43001, "require GET method"}
	errRequirePost    = &apiError{43002, "require POST method"}
	errEmptyMedia     = &apiError{44001, "empty media data"}
	errEmptyPost      = &apiError{44002, "empty post data"}
	errMediaTooLarge  = &apiError{45001, "media size out of limit"}
	errDailyQuota     = &apiError{45009, "reach max api daily quota limit"}
	errMinuteQuota    = &apiError{45011, "api minute-quota reach limit, must slower, retry next minute"}
	errPostData       = &apiError{47001, "data format error"}
)

// errorBody is an error as WeChat writes it; the rid is for asking WeChat about it.
func errorBody(code int, msg string) []byte {
	var id [12]byte
	_, _ = rand.Read(id[:])
	h := hex.EncodeToString(id[:])
	b, _ := json.Marshal(struct {
		Errcode int    `json:"errcode"`
		Errmsg  string `json:"errmsg"`
	}{code, fmt.Sprintf("%s rid: %s-%s-%s", msg, h[:8], h[8:16], h[16:])})
	return b
}

// refuse answers with an error, which has status 200 like everything else.
func refuse(w http.ResponseWriter, r *http.Request, e *apiError) {
	writeJSON(w, r, errorBody(e.code, e.msg))
}

func writeJSON(w http.ResponseWriter, r *http.Request, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentTypeJSON)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// refuseUnknownLength answers a body without Content-Length as WeChat does: 412
// and nothing else.
// https://developers.weixin.qq.com/community/develop/doc/000a6ca7ae4988a4d9f949d4456800
func refuseUnknownLength(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusPreconditionFailed)
}

// account is an app.
type account struct {
	id, secret      string
	stable, classic tokenLine
	forced          []time.Time // of the last day
	quotas          map[Endpoint]*quota
}

// quota counts the calls of a day and of a minute, as WeChat's own clock has them.
type quota struct {
	day, minute             int64
	thisDay, callsInAMinute int
}

// wechatTime is the time zone in which quotas start anew.
var wechatTime = time.FixedZone("CST", 8*60*60)

// spend counts a call of an app, and refuses it beyond the quota. s.mu is held.
func (s *Server) spend(a *account, endpoint Endpoint) *apiError {
	now := s.opts.Now().In(wechatTime)
	_, offset := now.Zone()
	day, minute := (now.Unix()+int64(offset))/86400, now.Unix()/60
	q := a.quotas[endpoint]
	if q == nil {
		q = new(quota)
		a.quotas[endpoint] = q
	}
	if q.day != day {
		q.day, q.thisDay = day, 0
	}
	if q.minute != minute {
		q.minute, q.callsInAMinute = minute, 0
	}
	q.thisDay++
	q.callsInAMinute++
	if limit, ok := s.opts.DailyQuota[endpoint]; ok && q.thisDay > limit {
		return errDailyQuota
	}
	if limit, ok := s.opts.MinuteQuota[endpoint]; ok && q.callsInAMinute > limit {
		return errMinuteQuota
	}
	return nil
}

// Interface guard
var _ http.Handler = (*Server)(nil)
