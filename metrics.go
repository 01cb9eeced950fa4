package wechatmedia

// Prometheus metrics. Every label has a closed set of values: app_ids and source
// names come from the config, the rest from this file.

import (
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
	"github.com/caddy-wechat/caddy-wechat-media/internal/replay"
	"github.com/caddy-wechat/caddy-wechat-media/internal/wire"
)

// The collectors belong to the process: Caddy makes a new registry for each
// config, and counts have to go on.
var metrics = struct {
	requests     *prometheus.CounterVec
	tokenFetches *prometheus.CounterVec
	tokens       tokenCollector
	replays      *prometheus.CounterVec
	replayMemory prometheus.GaugeFunc
	replayLimit  prometheus.GaugeFunc
	spares       *prometheus.CounterVec
}{
	requests: counter("requests_total", "Requests by app, endpoint and class of the errcode that the caller got.",
		"app", "endpoint", "class"),
	tokenFetches: counter("token_fetches_total", "Calls for an access token by app, source and result.",
		"app", "source", "result"),
	replays: counter("replays_total", "Requests whose token WeChat rejected, by what became of them.", "outcome"),
	replayMemory: gauge("replay_buffer_bytes", "Memory in use for keeping uploads until WeChat has accepted the token.",
		func() float64 { return float64(replay.InUse()) }),
	replayLimit: gauge("replay_buffer_limit_bytes", "The most memory that may be used for keeping uploads, all sites together.",
		func() float64 { return float64(replayLimits.Load()) }),
	spares: counter("spares_total", "Connections made ahead by what became of them: taken, missed (a request had to make its own), expired.",
		"result"),
}

// replayLimits is the sum of replay_buffer over the transports of the running config.
var replayLimits atomic.Int64

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "caddy", Subsystem: "wechat", Name: name, Help: help}, labels)
}

func gauge(name, help string, value func() float64) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "caddy", Subsystem: "wechat", Name: name, Help: help}, value)
}

// tokenCollector tells of tokens what holds when it is asked.
type tokenCollector struct{}

var (
	tokenExpiry = prometheus.NewDesc("caddy_wechat_token_expiry_timestamp_seconds",
		"When the access token at hand expires, in Unix seconds; 0 if there is none.", []string{"app", "issuer"}, nil)
	tokenStore = prometheus.NewDesc("caddy_wechat_token_store_operations_total",
		"Accesses to the storage of a shared token, by app and result.", []string{"app", "result"}, nil)
)

// Describe implements prometheus.Collector.
func (tokenCollector) Describe(ch chan<- *prometheus.Desc) { ch <- tokenExpiry; ch <- tokenStore }

// Collect implements prometheus.Collector. Of two tokens that an app has from one
// issuer, by two sources, the one counts that ends first.
func (tokenCollector) Collect(ch chan<- prometheus.Metric) {
	type appIssuer struct{ app, issuer string }
	expiry := make(map[appIssuer]float64)
	looks := make(map[string][2]int64)
	for _, m := range managersOf("") {
		s := m.Status()
		at := 0.0
		if s.HasToken {
			at = float64(s.ExpiresAt.Unix())
		}
		key := appIssuer{m.appID, m.issuer}
		if other, ok := expiry[key]; !ok || at < other {
			expiry[key] = at
		}
		if s.Shared {
			n := looks[m.appID]
			looks[m.appID] = [2]int64{n[0] + s.StoreLooks - s.StoreFailures, n[1] + s.StoreFailures}
		}
	}
	for key, at := range expiry {
		ch <- prometheus.MustNewConstMetric(tokenExpiry, prometheus.GaugeValue, at, key.app, key.issuer)
	}
	for app, n := range looks {
		ch <- prometheus.MustNewConstMetric(tokenStore, prometheus.CounterValue, float64(n[0]), app, "ok")
		ch <- prometheus.MustNewConstMetric(tokenStore, prometheus.CounterValue, float64(n[1]), app, "failed")
	}
}

// observeSpare counts what becomes of connections made ahead.
func observeSpare(ev wire.SpareEvent) { metrics.spares.WithLabelValues(string(ev)).Inc() }

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
	for _, c := range []prometheus.Collector{metrics.requests, metrics.tokenFetches, metrics.tokens, metrics.replays,
		metrics.replayMemory, metrics.replayLimit, metrics.spares} {
		if err := ctx.GetMetricsRegistry().Register(c); err != nil {
			var already prometheus.AlreadyRegisteredError // by another site
			if !errors.As(err, &already) {
				return err
			}
		}
	}
	return nil
}

// spareEvents are the values of the label result of spares_total.
var spareEvents = []wire.SpareEvent{wire.SpareTaken, wire.SpareMissed, wire.SpareExpired}

// startMetrics has the counters of an app begin at 0: what has not happened yet can
// then be told from what is not counted, and the first time shows in a rate.
func (t *Transport) startMetrics(a *app) {
	for _, result := range []string{"ok", "unchanged"} {
		metrics.tokenFetches.WithLabelValues(a.id, a.source, result)
	}
	for _, kind := range errcode.Kinds() {
		metrics.tokenFetches.WithLabelValues(a.id, a.source, string(kind))
	}
	for _, ev := range spareEvents {
		metrics.spares.WithLabelValues(string(ev))
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
		if ex.status == 0 || ex.ctx.Err() != nil {
			return "left" // the caller, before the answer, or in the middle of it
		}
		return "truncated"
	}
	switch v := ex.verdict; {
	case v.errcode == 0 && ex.status >= http.StatusInternalServerError:
		return "unreachable" // a host's own error page
	case v.errcode == 0 && ex.status >= http.StatusBadRequest:
		return string(errcode.Other)
	case v.errcode == 0:
		return string(errcode.OK)
	}
	return string(ex.transport.platform.Meaning(ex.verdict.errcode).Class)
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
