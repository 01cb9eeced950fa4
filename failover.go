package wechatmedia

// Which of WeChat's hosts a request goes to: the first that is up, and for each
// further attempt the next one.

import (
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	caddy.RegisterModule(new(FailoverSelection))
}

// FailoverSelection is a load balancing policy that goes through the upstreams in
// their order: the first one that is up gets the request, and a repetition of the
// request goes to the next one, be it up or not, and after the last one to the first
// again. Unlike with policy `first`, one failure need not mark a host down for the
// next host to get its chance, and failures on all hosts never leave a request
// without any. It is the default of the `wechat_media` handler and has no options.
type FailoverSelection struct{ _ byte }

// CaddyModule returns the Caddy module information.
func (*FailoverSelection) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.selection_policies.wechat_failover",
		New: func() caddy.Module { return new(FailoverSelection) },
	}
}

// tried is which upstreams a request has been sent to, in this round.
type tried struct{ upstreams []*reverseproxy.Upstream }

// Select implements reverseproxy.Selector.
func (f *FailoverSelection) Select(pool reverseproxy.UpstreamPool, r *http.Request, _ http.ResponseWriter) *reverseproxy.Upstream {
	seen := f.triedBy(r)
	isTried := func(u *reverseproxy.Upstream) bool {
		// dynamic upstreams are new objects each time
		return slices.ContainsFunc(seen.upstreams, func(t *reverseproxy.Upstream) bool { return t.Dial == u.Dial })
	}
	if !slices.ContainsFunc(pool, func(u *reverseproxy.Upstream) bool { return !isTried(u) }) {
		seen.upstreams = nil // all have had their chance: once more round
	}
	var selected *reverseproxy.Upstream
	for _, upstream := range pool {
		if isTried(upstream) {
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
		seen.upstreams = append(seen.upstreams, selected)
	}
	return selected
}

// triedBy is what the request has tried under this policy. It is put into the
// request's vars once, before anything is dialed: connections that are being made
// read them from goroutines of their own.
func (f *FailoverSelection) triedBy(r *http.Request) *tried {
	key := "wechat_failover.tried"
	byPolicy, ok := caddyhttp.GetVar(r.Context(), key).(map[*FailoverSelection]*tried)
	if !ok {
		byPolicy = make(map[*FailoverSelection]*tried)
		caddyhttp.SetVar(r.Context(), key, byPolicy)
	}
	if byPolicy[f] == nil {
		byPolicy[f] = new(tried)
	}
	return byPolicy[f]
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy wechat_failover
func (*FailoverSelection) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume policy name
	if d.NextArg() {
		return d.Errf("lb_policy wechat_failover takes no argument %q", d.Val())
	}
	return noBlock(d, "lb_policy wechat_failover")
}

// callersSelection shows a policy the request as its caller has sent it: of what
// header, cookie, query and uri_hash go by, little is left in the one for WeChat.
type callersSelection struct{ reverseproxy.Selector }

// forCallers returns a policy for requests of callers. Those that do not go by the
// request stay as they are.
func forCallers(policy reverseproxy.Selector) reverseproxy.Selector {
	switch policy.(type) {
	case *FailoverSelection, reverseproxy.RandomSelection, *reverseproxy.RandomSelection:
		return policy
	}
	return callersSelection{policy}
}

// Select implements reverseproxy.Selector.
func (s callersSelection) Select(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	if ex, ok := caddyhttp.GetVar(r.Context(), exchangeVar).(*exchange); ok {
		r = ex.caller.request
	}
	return s.Selector.Select(pool, r, w)
}

// Interface guards
var (
	_ reverseproxy.Selector = (*FailoverSelection)(nil)
	_ caddyfile.Unmarshaler = (*FailoverSelection)(nil)
)
