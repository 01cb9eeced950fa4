package wechatmedia

// Prometheus metrics. Every label has a closed set of values: app_ids and source
// names come from the config, the rest from this file.

import (
	"errors"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
)

// The collectors belong to the process: Caddy makes a new registry for each
// config, and counts have to go on.
var metrics = struct {
	requests     *prometheus.CounterVec
	tokenFetches *prometheus.CounterVec
	tokenExpiry  *prometheus.GaugeVec
	replays      *prometheus.CounterVec
	replayMemory prometheus.GaugeFunc
}{
	requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "wechat", Name: "requests_total",
		Help: "Requests by app, endpoint and class of the errcode that the caller got.",
	}, []string{"app", "endpoint", "class"}),
	tokenFetches: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "wechat", Name: "token_fetches_total",
		Help: "Fetches of an access token by app, source and result.",
	}, []string{"app", "source", "result"}),
	tokenExpiry: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "caddy", Subsystem: "wechat", Name: "token_expiry_timestamp_seconds",
		Help: "When the current access token of an app expires, in Unix seconds; 0 if there is none.",
	}, []string{"app"}),
	replays: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "wechat", Name: "replays_total",
		Help: "Requests whose token WeChat rejected, by what became of them.",
	}, []string{"outcome"}),
	replayMemory: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "caddy", Subsystem: "wechat", Name: "replay_buffer_bytes",
		Help: "Memory in use for keeping uploads until WeChat has accepted the token.",
	}, func() float64 { return float64(keptBytes.Load()) }),
}

// requestClasses are the values of the label class; see errcodeClass.
var requestClasses = []string{"ok", "request", "token", "quota", "busy", "account", "other", "refused", "unavailable",
	"unreachable", "truncated", "left"}

// What became of a request whose token was rejected.
const (
	replaySucceeded = "succeeded"    // the repetition was accepted
	replayRejected  = "rejected"     // so was the next token
	replayNotKept   = "not_kept"     // an upload beyond replay_buffer
	replayNoToken   = "no_new_token" // there was no other token to be had
)

// registerMetrics puts the collectors into a config's registry.
func registerMetrics(ctx caddy.Context) error {
	for _, c := range []prometheus.Collector{metrics.requests, metrics.tokenFetches, metrics.tokenExpiry, metrics.replays, metrics.replayMemory} {
		if err := ctx.GetMetricsRegistry().Register(c); err != nil {
			var already prometheus.AlreadyRegisteredError // by another site
			if !errors.As(err, &already) {
				return err
			}
		}
	}
	return nil
}

// startMetrics has the counters of an app begin at 0: what has not happened yet can
// then be told from what is not counted, and the first time shows in a rate.
func (t *Transport) startMetrics(a *app) {
	for _, result := range []string{"ok", "unchanged"} {
		metrics.tokenFetches.WithLabelValues(a.id, a.source, result)
	}
	for kind := range failureTraits {
		metrics.tokenFetches.WithLabelValues(a.id, a.source, string(kind))
	}
	for _, outcome := range []string{replaySucceeded, replayRejected, replayNotKept, replayNoToken} {
		metrics.replays.WithLabelValues(outcome)
	}
	if !t.servesMedia {
		return
	}
	for _, endpoint := range []endpoint{endpointGet, endpointJSSDK, endpointUpload} {
		for _, class := range requestClasses {
			metrics.requests.WithLabelValues(a.id, string(endpoint), class)
		}
	}
}

// errcodeClass puts what became of a request into one of a few classes.
func errcodeClass(ex *exchange) string {
	if ex.refusal != nil {
		switch {
		case ex.refusal.status == statusClientGone:
			return "left"
		case ex.refusal.status >= 502 && ex.refusal.status != 503:
			return "unreachable"
		case ex.refusal.status == 503:
			return "unavailable"
		default:
			return "refused"
		}
	}
	if ex.status == 0 || ex.last != nil && ex.last.broken {
		if ex.status == 0 || ex.Err() != nil {
			return "left" // the caller, before the answer, or in the middle of it
		}
		return "truncated"
	}
	switch v := ex.verdict; {
	case v.errcode == 0 && ex.status >= http.StatusInternalServerError:
		return "unreachable" // a host's own error page
	case v.errcode == 0 && ex.status >= http.StatusBadRequest:
		return "other"
	case v.errcode == 0:
		return "ok"
	case v.rejected():
		return "token"
	case v.errcode == errcodeBusy:
		return "busy"
	case v.errcode == 45009 || v.errcode == 45011:
		return "quota"
	}
	switch translatedStatus(ex.verdict.errcode) {
	case 400, 404, 413:
		return "request"
	case 403:
		return "account"
	default:
		return "other"
	}
}

// countRequest counts a request that has been answered. Requests for the façade
// and refusals before an app is known have no app.
func countRequest(ex *exchange) {
	app := ""
	if ex.app != nil {
		app = ex.app.id
	}
	endpoint := string(ex.call.endpoint)
	if endpoint == "" {
		endpoint = "none"
	}
	metrics.requests.WithLabelValues(app, endpoint, errcodeClass(ex)).Inc()
}
