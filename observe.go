package wechatmedia

// What the operator is told about tokens, by log, metrics and events: one log line
// when one is fetched, fails to be, or is rejected, and none per request.

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// observeToken tells of an event in the life of an app's token.
func (t *Transport) observeToken(appID, source string, ev tokenEvent) {
	t.logToken(appID, source, ev)

	data := map[string]any{"app_id": appID, "source": source}
	expiry := 0.0
	if !ev.ExpiresAt.IsZero() {
		expiry = float64(ev.ExpiresAt.Unix())
		data["expires_at"] = ev.ExpiresAt
	}
	switch ev.Kind {
	case tokenFailed:
		metrics.tokenFetches.WithLabelValues(appID, source, string(ev.Failure)).Inc()
		metrics.tokenExpiry.WithLabelValues(appID).Set(expiry)
		data["kind"], data["errcode"], data["hint"] = string(ev.Failure), ev.Errcode, ev.Hint
		t.events.Emit(t.ctx, "wechat_token_failed", data)
	case tokenRefreshed:
		metrics.tokenFetches.WithLabelValues(appID, source, "ok").Inc()
		metrics.tokenExpiry.WithLabelValues(appID).Set(expiry)
		t.events.Emit(t.ctx, "wechat_token_refreshed", data)
	case tokenConfirmed:
		metrics.tokenFetches.WithLabelValues(appID, source, "unchanged").Inc()
		metrics.tokenExpiry.WithLabelValues(appID).Set(expiry)
	}
}

func (t *Transport) logToken(appID, source string, ev tokenEvent) {
	fields := []zap.Field{appIDField(appID), zap.String("source", source)}
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
	case tokenRefreshed:
		t.logger.Info("fetched access token",
			append(fields, zap.Duration("took", ev.Took), zap.Bool("repeated", ev.Repeated), zap.Bool("forced", ev.Forced))...)
	case tokenRejected:
		t.logger.Warn("WeChat rejected the access token; asking for another one", fields...)
	case tokenFailed:
		level := zapcore.ErrorLevel
		if !ev.ExpiresAt.IsZero() { // requests do not notice yet
			level = zapcore.WarnLevel
		}
		t.logger.Log(level, "fetching access token failed: "+ev.Hint, append(fields,
			zap.String("kind", string(ev.Failure)), zap.Int("failures", ev.Failures),
			zap.Duration("took", ev.Took), zap.NamedError("error", ev.Err))...)
	}
}
