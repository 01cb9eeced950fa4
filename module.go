// Package wechatmedia is a Caddy plugin that turns a site into a gateway to
// WeChat's temporary media: callers upload and download pictures, voice and video
// without ever holding an AppSecret or an access token.
package wechatmedia

// The handler module: its configuration, and how it comes to life.

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	// every build with the plugin can run against the sandbox
	_ "github.com/caddy-wechat/caddy-wechat-media/sandbox"
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
	// bytes. WeChat takes 10 MiB at the most.
	maxUploadSizeCeiling = 1 << 30
)

// mediaLimits are WeChat's media types and the largest media it takes of each,
// in bytes. https://developers.weixin.qq.com/doc/service/api/material/temporary/api_uploadtempmedia
var mediaLimits = map[string]int64{
	"image": 10 << 20,
	"video": 10 << 20,
	"voice": 2 << 20,
	"thumb": 64 << 10,
}

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
// but a `media_id` or a `type`.
//
// Requests are proxied by an ordinary reverse_proxy with the `wechat` transport.
// What the gateway refuses itself looks like WeChat's own errors, with an honest
// HTTP status:
//
// Case | Status | errcode
// -----|--------|--------
// media_id missing or malformed | 400 | 40007
// type not allowed | 400 | 40004
// not multipart/form-data, or empty | 400 | 41005
// larger than `max_upload_size` | 413 | 45001
// unknown app | 400 | 40013
// wrong method | 405 | 43001, 43002
// no such endpoint | 404 | 40066
// no token to be had | 503 | -1
// no memory left to gather an upload | 503 | -1
// WeChat unreachable, timed out | 502, 504 | -1
//
// These placeholders are set for each request:
//
// Placeholder | Description
// ------------|-------------
// `{http.wechat_media.endpoint}` | `get`, `jssdk`, `upload`, `token` or `stable_token`
// `{http.wechat_media.app_id}` | The app that the request is for
// `{http.wechat_media.media_id}` | The media_id of a download
// `{http.wechat_media.errcode}` | WeChat's, or the gateway's own, errcode; `0` for a success
// `{http.wechat_media.errmsg}` | The errmsg that goes with it
// `{http.wechat_media.retries}` | How often the request was repeated with a fresh token
type Handler struct {
	// The reverse_proxy that does the work, with all of its options. Its
	// transport must be `wechat`, which has the apps. Default upstreams:
	// `api.weixin.qq.com:443`, and `api2.weixin.qq.com:443` when the first is
	// down. With more than one upstream, the default load balancing is: policy
	// `wechat_failover`, one retry for each further upstream where it is safe to
	// repeat the request, and an upstream is down after 3 failures within 30 s.
	ReverseProxy *reverseproxy.Handler `json:"reverse_proxy,omitempty"`

	// The media types that may be uploaded: `image`, `voice`, `video`, `thumb`.
	// Default: `image`.
	Types []string `json:"types,omitempty"`

	// The largest upload of each media type, in bytes of the request's body; the
	// key `*` stands for all types without one of their own. Larger ones are
	// refused with 413. Default: WeChat's own limits, image and video 10 MiB,
	// voice 2 MiB, thumb 64 KiB, and 16 KiB more for multipart.
	MaxUploadSize map[string]int64 `json:"max_upload_size,omitempty"`

	// Whether `/cgi-bin/token` and `/cgi-bin/stable_token` are answered here, with
	// a placeholder for a token, for SDKs that will not work without. The appid
	// and secret in such a request are neither checked nor used. Default: false;
	// these paths are refused.
	SDKTokens bool `json:"sdk_tokens,omitempty"`

	// Whether WeChat's errors, which come with status 200, get the status that
	// their errcode stands for: 40007 is 404, 40004 is 400, 45001 is 413, 45009 is
	// 429, 48001 is 403, -1 is 503, and so on. The body stays. Default: false.
	TranslateStatus bool `json:"translate_status,omitempty"`

	// The Cache-Control of successful downloads, e.g. `private, max-age=86400`.
	// They get an ETag too, made of the media_id, which always stands for the same
	// bytes; a caller that has it is answered with 304, without asking WeChat.
	// Errors get `no-store`. Default: WeChat's own, `no-cache, must-revalidate`,
	// and no ETag.
	CacheControl string `json:"cache_control,omitempty"`

	// What the gateway's own refusals look like: `wechat` for JSON with errcode and
	// errmsg, or `caddy` for an error that `handle_errors` routes handle.
	// Default: `wechat`.
	Errors string `json:"errors,omitempty"`

	proxy     *reverseproxy.Handler
	transport *Transport
	limits    map[string]int64 // by allowed media type
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
	if err := h.provisionUploads(); err != nil {
		return err
	}
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
	h.transport = h.proxy.Transport.(*Transport) // completeProxy has seen to it
	h.transport.servesMedia = true
	return nil
}

// provisionUploads works out which media types are allowed, and how large.
func (h *Handler) provisionUploads() error {
	if len(h.Types) == 0 {
		h.Types = []string{defaultMediaType}
	}
	known := slices.Sorted(maps.Keys(mediaLimits))
	h.limits = make(map[string]int64, len(h.Types))
	for _, mediaType := range h.Types {
		limit, ok := mediaLimits[mediaType]
		if !ok {
			return fmt.Errorf("types: %q is not a media type; use %s", mediaType, strings.Join(known, ", "))
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
		if _, ok := mediaLimits[mediaType]; !ok && mediaType != "*" {
			return fmt.Errorf("max_upload_size: %q is not a media type; use %s, or * for all", mediaType, strings.Join(known, ", "))
		}
		if err := checkUploadSize(size); err != nil {
			return err
		}
	}
	return nil
}

func checkUploadSize(size int64) error {
	if size <= 0 || size > maxUploadSizeCeiling {
		return fmt.Errorf("max_upload_size: %d bytes is not from 1 to %d (1GiB); WeChat takes 10MiB at the most",
			size, int64(maxUploadSizeCeiling))
	}
	return nil
}

// completeProxy returns the configured reverse_proxy with the defaults filled in.
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

	if len(proxy.Upstreams) == 0 && proxy.DynamicUpstreamsRaw == nil {
		proxy.Upstreams = reverseproxy.UpstreamPool{{Dial: "api.weixin.qq.com:443"}, {Dial: "api2.weixin.qq.com:443"}}
		if _, ok := transport["tls"]; !ok {
			transport["tls"] = json.RawMessage("{}")
			proxy.TransportRaw = caddyconfig.JSON(transport, nil)
		}
	}
	if len(proxy.Upstreams) > 1 {
		if proxy.LoadBalancing == nil {
			proxy.LoadBalancing = &reverseproxy.LoadBalancing{
				SelectionPolicyRaw: json.RawMessage(`{"policy":"wechat_failover"}`),
				Retries:            len(proxy.Upstreams) - 1,
			}
		}
		if proxy.HealthChecks == nil {
			proxy.HealthChecks = &reverseproxy.HealthChecks{Passive: &reverseproxy.PassiveHealthChecks{
				FailDuration: caddy.Duration(30 * time.Second),
				MaxFails:     3,
			}}
		}
	}
	return &proxy, nil
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
