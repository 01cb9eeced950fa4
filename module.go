package wechatmedia

// The handler module: its configuration, and how it comes to life.

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	// every build with the plugin can run against the sandbox
	_ "github.com/caddy-wechat/caddy-wechat-media/sandbox/caddysandbox"
	_ "github.com/caddy-wechat/caddy-wechat-media/tokensource"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

const (
	defaultMediaType = "image"

	// multipartOverhead is what a multipart body may have over the media in it,
	// in bytes: the part's headers, other fields, the boundaries.
	multipartOverhead = 16 << 10

	// maxUploadSizeCeiling is the largest max_upload_size that makes sense, in
	// bytes. WeChat takes 10 MiB at the most, WeCom 20.
	maxUploadSizeCeiling = 1 << 30
)

// Handler is a gateway to WeChat's temporary media
// ([upload](https://developers.weixin.qq.com/doc/service/api/material/temporary/api_uploadtempmedia),
// [download](https://developers.weixin.qq.com/doc/service/api/material/temporary/api_getmedia)).
// Callers need no AppSecret and no access token: the gateway owns the token, maps
// the request to a media endpoint, and streams bodies through unchanged.
//
// A caller sends, anywhere under the route's matcher, `POST` of a
// multipart/form-data body with a part named `media` to upload (with the media
// type in `?type=`), and `GET` or `HEAD` of `…/<media_id>` to download; or WeChat's
// own `…/cgi-bin/media/upload`, `…/cgi-bin/media/get` and
// `…/cgi-bin/media/get/jssdk`, so that an SDK only needs its base URL changed. No
// other WeChat API can be reached, and nothing of the caller's query goes upstream
// but a `media_id` or a `type`. With apps of WeCom it is a gateway to WeCom's media.
//
// Whatever multipart form comes in, one Content-Type goes out, with the boundary that
// the body begins with and nothing behind it. A refused upload is answered at once,
// and the rest of it is read and thrown away, for 30 s, 64 MiB and 5 s without a byte
// (1 s over HTTP/2 and 3) at the most, so that clients see the answer that send before
// they read.
//
// Requests are proxied by an ordinary reverse_proxy with the `wechat` transport.
// What the gateway refuses itself looks like WeChat's own errors, with the
// HTTP status that fits:
//
//	case                                                   status    errcode
//	media_id missing or malformed                          400       40007
//	type not allowed                                       400       40004
//	not multipart/form-data, without a boundary, or empty  400       41005
//	larger than max_upload_size, or than a limit in front  413       45001
//	unknown app                                            400       40013
//	a header that would not be well-formed                 400       40035
//	wrong method                                           405       43001, 43002
//	no such endpoint                                       404       40066
//	no token available                                     503       -1
//	no memory left to gather an upload, or no connection   503       -1
//	WeChat unreachable, timed out                          502, 504  -1
//
// These placeholders are set for each request:
//
//	{http.wechat_media.endpoint}  get, jssdk, upload, token or stable_token
//	{http.wechat_media.app_id}    the app that the request is for
//	{http.wechat_media.media_id}  the media_id of a download
//	{http.wechat_media.errcode}   WeChat's, or the gateway's own, errcode; 0 for a success
//	{http.wechat_media.errmsg}    the errmsg that goes with it, without the token, 300 bytes at the most
//	{http.wechat_media.retries}   how often the request was repeated with a fresh token
//	{http.wechat_media.form}      what seems wrong with an upload that got 40005 or 41005; for logs
//
// With two of these handlers in one request, they speak of the last one.
type Handler struct {
	// The reverse_proxy that does the work, with all of its options but `rewrite` and
	// `unhealthy_latency`. Its transport must be `wechat`, which has the apps. Default
	// upstreams: `api.weixin.qq.com:443`, and `api2.weixin.qq.com:443` when the first is
	// down; for WeCom, its one host. With more than one upstream, what is not set of load
	// balancing is: policy `wechat_failover`, one retry for each further upstream
	// where it is safe to repeat the request (unless `try_duration` is set), and an
	// upstream is down after 3 failures within 30 s.
	ReverseProxy *reverseproxy.Handler `json:"reverse_proxy,omitempty"`

	// The media types that may be uploaded: `image`, `voice`, `video`, `thumb`, with
	// WeCom `file` in place of `thumb`. Default: `image`.
	Types []string `json:"types,omitempty"`

	// The largest upload of each media type, in bytes of the request's body; the
	// key `*` stands for all types without one of their own. Larger ones are
	// refused with 413. Default: WeChat's own limits, image and video 10 MiB,
	// voice 2 MiB, thumb 64 KiB, WeCom's file 20 MiB, and 16 KiB more for multipart.
	MaxUploadSize map[string]int64 `json:"max_upload_size,omitempty"`

	// Whether the paths that SDKs fetch tokens from (`/cgi-bin/token` and
	// `/cgi-bin/stable_token`, or WeCom's) are answered here, with a placeholder
	// for a token, for SDKs that will not work without. The appid
	// and secret in such a request are neither checked nor used. Default: false;
	// these paths are refused.
	SDKTokens bool `json:"sdk_tokens,omitempty"`

	// Whether WeChat's errors, which come with status 200, get the status that
	// their errcode stands for: 40007 is 404, 40004 is 400, 45001 is 413, 45009 is
	// 429, 48001 is 403, -1 is 503, and so on. The body stays. Default: false.
	TranslateStatus bool `json:"translate_status,omitempty"`

	// The Cache-Control of successful downloads, e.g. `private, max-age=86400`. Without
	// a word on who may keep them, `private` is put in front: a shared cache stands in
	// front of the check of who may see what, and answers everybody. Downloads get an
	// ETag too, made of the app and the media_id, which always stands for the same
	// bytes; a caller that has it is answered with 304, without asking WeChat.
	// Errors get `no-store`. Default: WeChat's own, `no-cache, must-revalidate`,
	// and no ETag.
	CacheControl string `json:"cache_control,omitempty"`

	// What the gateway's own refusals look like: `wechat` for JSON with errcode and
	// errmsg, or `caddy` for an error that `handle_errors` routes handle.
	// Default: `wechat`.
	Errors string `json:"errors,omitempty"`

	// Paths that the handler stands at, such as `/media`: a GET of one of them names
	// no media and is refused here. The directive takes them from its path matcher.
	// Default: none; a path of one short word is taken for one.
	Mounts []string `json:"mounts,omitempty"`

	platform  *platform.Platform
	proxy     *reverseproxy.Handler
	transport *Transport
	limits    map[string]int64 // by allowed media type
	vary      []string         // request headers that downloads depend on
	logger    *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.wechat_media",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up h. It makes no network call.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if h.Errors == "" {
		h.Errors = errorsWechat
	}
	proxy, err := h.completeProxy()
	if err != nil {
		return err
	}
	mod, err := ctx.LoadModuleByID("http.handlers.reverse_proxy", caddyconfig.JSON(proxy, nil))
	if err != nil {
		return fmt.Errorf("loading reverse_proxy: %w", err)
	}
	h.proxy = mod.(*reverseproxy.Handler)
	h.proxy.LoadBalancing.SelectionPolicy = forCallers(h.proxy.LoadBalancing.SelectionPolicy)
	h.transport = h.proxy.Transport.(*Transport) // completeProxy has seen to it
	h.transport.servesMedia = true
	h.platform = h.transport.platform
	if err := h.provisionUploads(); err != nil {
		return err
	}
	h.provisionCaching()
	return nil
}

// provisionUploads works out which media types are allowed, and how large.
func (h *Handler) provisionUploads() error {
	if len(h.Types) == 0 {
		h.Types = []string{defaultMediaType}
	}
	h.limits = make(map[string]int64, len(h.Types))
	for _, mediaType := range h.Types {
		limit, ok := h.platform.Limit(mediaType)
		if !ok {
			return fmt.Errorf("types: %q is not a media type of %s; use %s", mediaType, h.platform.Name, h.platform.TypeNames())
		}
		h.limits[mediaType] = limit + multipartOverhead
		if size, ok := h.MaxUploadSize["*"]; ok {
			h.limits[mediaType] = size
		}
		if size, ok := h.MaxUploadSize[mediaType]; ok {
			h.limits[mediaType] = size
		}
	}
	for mediaType, size := range h.MaxUploadSize {
		if _, ok := h.platform.Limit(mediaType); !ok && mediaType != "*" {
			return fmt.Errorf("max_upload_size: %q is not a media type of %s; use %s, or * for all", mediaType, h.platform.Name, h.platform.TypeNames())
		}
		if err := checkUploadSize(size); err != nil {
			return err
		}
	}
	return nil
}

// provisionCaching makes the safe thing the default: what one app's callers may see
// is not for a shared cache to give to everybody.
func (h *Handler) provisionCaching() {
	if h.CacheControl == "" {
		return
	}
	says := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(strings.ToLower(h.CacheControl), w) })
	}
	if !says("private", "public", "no-store", "s-maxage") {
		h.CacheControl = "private, " + h.CacheControl
	}
	selector := h.transport.AppSelector
	if selector == "" {
		return
	}
	for _, prefix := range []string{"{http.request.header.", "{header."} {
		if name, ok := strings.CutPrefix(selector, prefix); ok {
			h.vary = []string{strings.TrimSuffix(name, "}")}
		}
	}
	if says("public", "s-maxage") {
		h.logger.Warn("cache_control lets shared caches keep downloads although app_selector chooses the app: a cache in front of "+
			"the access check answers everybody; write private", zap.String("cache_control", h.CacheControl))
	}
}

func checkUploadSize(size int64) error {
	if size <= 0 || size > maxUploadSizeCeiling {
		return fmt.Errorf("max_upload_size: %d bytes is not from 1 to %d (1GiB); WeChat takes 10MiB at the most, WeCom 20MiB",
			size, int64(maxUploadSizeCeiling))
	}
	return nil
}

// completeProxy returns the configured reverse_proxy with the defaults filled in,
// each by itself: an option of load balancing does not lose the others.
func (h *Handler) completeProxy() (*reverseproxy.Handler, error) {
	var proxy reverseproxy.Handler
	if h.ReverseProxy != nil {
		proxy = *h.ReverseProxy
	}
	var transport map[string]json.RawMessage
	if proxy.TransportRaw != nil {
		if err := json.Unmarshal(proxy.TransportRaw, &transport); err != nil {
			return nil, fmt.Errorf("decoding reverse_proxy's transport: %w", err)
		}
	}
	var protocol string
	_ = json.Unmarshal(transport["protocol"], &protocol)
	if protocol != "wechat" {
		return nil, errors.New(`reverse_proxy's transport must be "wechat", with at least one app`)
	}

	if err := h.checkOptions(&proxy); err != nil {
		return nil, err
	}
	if len(proxy.Upstreams) == 0 && proxy.DynamicUpstreamsRaw == nil {
		for _, host := range guessPlatform(transport["apps"]).Hosts {
			proxy.Upstreams = append(proxy.Upstreams, &reverseproxy.Upstream{Dial: host})
		}
		if _, ok := transport["tls"]; !ok {
			transport["tls"] = json.RawMessage("{}")
			proxy.TransportRaw = caddyconfig.JSON(transport, nil)
		}
	}
	if len(proxy.Upstreams) > 1 {
		proxy.LoadBalancing = completeLoadBalancing(proxy.LoadBalancing, len(proxy.Upstreams))
		proxy.HealthChecks = completeHealthChecks(proxy.HealthChecks)
	}
	return &proxy, nil
}

// checkOptions refuses options of reverse_proxy that would undo what is promised: that
// callers reach the media endpoints only, and that what a caller does is not counted
// against a host of WeChat's.
func (h *Handler) checkOptions(proxy *reverseproxy.Handler) error {
	if proxy.Rewrite != nil {
		return errors.New("rewrite and method have no place here, for the gateway itself makes the request for WeChat; " +
			"write them in front of it")
	}
	if proxy.HealthChecks == nil || proxy.HealthChecks.Passive == nil {
		return nil
	}
	passive := proxy.HealthChecks.Passive
	if passive.UnhealthyLatency != 0 {
		return errors.New("unhealthy_latency would count the time that callers take for their uploads; " +
			"write transport wechat { response_header_timeout <duration> }")
	}
	for _, status := range passive.UnhealthyStatus {
		if h.TranslateStatus && slices.ContainsFunc(callersStatuses, func(s int) bool { return caddyhttp.StatusCodeMatches(s, status) }) {
			return fmt.Errorf("unhealthy_status %d would count callers' errors, which have such a status with translate_status", status)
		}
	}
	return nil
}

// callersStatuses are those that translate_status gives to what a caller did.
var callersStatuses = []int{http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge}

func completeLoadBalancing(configured *reverseproxy.LoadBalancing, upstreams int) *reverseproxy.LoadBalancing {
	lb := new(reverseproxy.LoadBalancing)
	if configured != nil {
		*lb = *configured
	}
	if lb.SelectionPolicyRaw == nil {
		lb.SelectionPolicyRaw = json.RawMessage(`{"policy":"wechat_failover"}`)
	}
	if lb.Retries == 0 && lb.TryDuration == 0 {
		lb.Retries = upstreams - 1
	}
	return lb
}

func completeHealthChecks(configured *reverseproxy.HealthChecks) *reverseproxy.HealthChecks {
	checks := new(reverseproxy.HealthChecks)
	if configured != nil {
		*checks = *configured
	}
	passive := new(reverseproxy.PassiveHealthChecks)
	if checks.Passive != nil {
		*passive = *checks.Passive
	}
	if passive.FailDuration == 0 {
		passive.FailDuration = caddy.Duration(30 * time.Second)
	}
	if passive.MaxFails == 0 {
		passive.MaxFails = 3
	}
	checks.Passive = passive
	return checks
}

// Validate ensures that h can work.
func (h *Handler) Validate() error {
	if h.Errors != errorsWechat && h.Errors != errorsCaddy {
		return fmt.Errorf("errors: %q is neither %s nor %s", h.Errors, errorsWechat, errorsCaddy)
	}
	if strings.ContainsAny(h.CacheControl, "\r\n") {
		return errors.New("cache_control: a header value has no line ends")
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
