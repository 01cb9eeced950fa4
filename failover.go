package wechatmedia

// Which of WeChat's hosts a request goes to: the first that is up, and for each
// further attempt the next one.

import (
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	caddy.RegisterModule(FailoverSelection{})
}

// FailoverSelection is a load balancing policy that goes through the upstreams in
// their order: the first one that is up gets the request, and a repetition of the
// request goes to the next one, be it up or not. Unlike with policy `first`, one
// failure need not mark a host down for the next host to get its chance, and
// failures on all hosts never leave a request without any. It is the default of
// the `wechat_media` handler and has no options.
type FailoverSelection struct{}

// CaddyModule returns the Caddy module information.
func (FailoverSelection) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.selection_policies.wechat_failover",
		New: func() caddy.Module { return new(FailoverSelection) },
	}
}

// Select implements reverseproxy.Selector.
func (FailoverSelection) Select(pool reverseproxy.UpstreamPool, r *http.Request, _ http.ResponseWriter) *reverseproxy.Upstream {
	ex := exchangeFrom(r.Context())
	if ex == nil {
		ex = new(exchange)
	}
	var selected *reverseproxy.Upstream
	for _, upstream := range pool {
		if slices.Contains(ex.tried, upstream) {
			continue
		}
		if selected == nil {
			selected = upstream // better than none
		}
		if upstream.Available() {
			selected = upstream
			break
		}
	}
	if selected != nil {
		ex.tried = append(ex.tried, selected)
	}
	return selected
}

// Interface guards
var (
	_ reverseproxy.Selector = FailoverSelection{}
)
