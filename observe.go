package wechatmedia

// What the operator is told about tokens, by log, metrics and events: one log line
// when one is fetched, fails to be, or is rejected, and none per request.

import (
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// observeToken tells of an event in the life of an app's token. Caddy's event handlers
// may take their time: nothing waits for this.
func (t *Transport) observeToken(a *app, ev token.Event) {
	t.logToken(a, ev)
	countToken(a, ev)

	data := map[string]any{"app_id": a.id, "source": a.source}
	if !ev.ExpiresAt.IsZero() {
		data["expires_at"] = ev.ExpiresAt
	}
	switch ev.Kind {
	case token.Failed:
		data["kind"], data["errcode"], data["hint"] = string(ev.Failure), ev.Errcode, ev.Hint
		t.events.Emit(t.ctx, "wechat_token_failed", data)
	case token.Refreshed, token.Adopted:
		t.events.Emit(t.ctx, "wechat_token_refreshed", data)
	}
}

// countToken counts calls for a token.
func countToken(a *app, ev token.Event) {
	result := ""
	switch ev.Kind {
	case token.Refreshed:
		result = "ok"
	case token.Confirmed:
		result = "unchanged"
	case token.Failed:
		result = string(ev.Failure)
	}
	if result != "" && (ev.Called || ev.Failure == errcode.KindBudget) {
		metrics.tokenFetches.WithLabelValues(a.id, a.source, result).Inc()
	}
}

func (t *Transport) logToken(a *app, ev token.Event) {
	fields := []zap.Field{appIDField(a.id), zap.String("source", a.source)}
	if !ev.NextTry.IsZero() {
		fields = append(fields, zap.Time("next_try", ev.NextTry))
	}
	if !ev.ExpiresAt.IsZero() {
		fields = append(fields, zap.Time("expires_at", ev.ExpiresAt))
	}
	if ev.Errcode != 0 {
		fields = append(fields, zap.Int("errcode", ev.Errcode))
	}
	switch ev.Kind {
	case token.Refreshed:
		t.logger.Info("fetched access token",
			append(fields, zap.Duration("took", ev.Took), zap.Bool("repeated", ev.Repeated), zap.Bool("forced", ev.Forced))...)
	case token.Adopted:
		t.logger.Info("took over the access token that another gateway has stored", fields...)
	case token.Rejected:
		t.logger.Warn(t.platform.Name+" rejected the access token; asking for another one", fields...)
	case token.StoreFailed:
		t.logger.Error("the storage of the shared access token fails; the gateway goes on without it until it is back",
			append(fields, zap.NamedError("error", ev.Err))...)
	case token.StoreRecovered:
		t.logger.Info("the storage of the shared access token is back", fields...)
	case token.Failed:
		level := zapcore.ErrorLevel
		if !ev.ExpiresAt.IsZero() { // requests do not notice yet
			level = zapcore.WarnLevel
		}
		t.logger.Log(level, "fetching access token failed: "+ev.Hint, append(fields,
			zap.String("kind", string(ev.Failure)), zap.Int("failures", ev.Failures),
			zap.Duration("took", ev.Took), zap.NamedError("error", ev.Err))...)
	}
}

// onceInAWhile lets what every request may bring up be said once in ten minutes.
type onceInAWhile struct {
	mu   sync.Mutex
	said map[string]time.Time
}

const aWhile = 10 * time.Minute

func (o *onceInAWhile) first(appID string, errcode int) bool {
	key := appID + " " + strconv.Itoa(errcode)
	o.mu.Lock()
	defer o.mu.Unlock()
	if at, ok := o.said[key]; ok && time.Since(at) < aWhile {
		return false
	}
	if o.said == nil {
		o.said = make(map[string]time.Time)
	}
	o.said[key] = time.Now()
	return true
}
