package wechatmedia

// The admin API: what is known of the tokens, and asking for a new one.

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

func init() {
	caddy.RegisterModule(adminTokens{})
}

// adminTokens adds to Caddy's admin API, under that API's own access control:
//
//   - `GET /wechat/tokens` lists the apps and the state of their tokens.
//   - `POST /wechat/tokens/refresh?app_id=…` asks for a new token now. The current
//     one stays in use until there is another.
//
// No answer has a token or a secret in it.
type adminTokens struct{}

// CaddyModule returns the Caddy module information.
func (adminTokens) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.wechat",
		New: func() caddy.Module { return new(adminTokens) },
	}
}

// Routes implements caddy.AdminRouter.
func (a adminTokens) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/wechat/tokens", Handler: caddy.AdminHandlerFunc(a.list)},
		{Pattern: "/wechat/tokens/refresh", Handler: caddy.AdminHandlerFunc(a.refresh)},
	}
}

// adminToken is one line of the list. Durations are in seconds.
type adminToken struct {
	AppID            string     `json:"app_id"`
	Source           string     `json:"source"`
	Issuer           string     `json:"issuer,omitempty"`
	HasToken         bool       `json:"has_token"`
	AgeSeconds       *int64     `json:"age_seconds,omitempty"`
	ExpiresAt        *time.Time `json:"expires_at,omitempty"`
	ExpiresInSeconds *int64     `json:"expires_in_seconds,omitempty"`
	Fetching         bool       `json:"fetching"`
	NextTry          *time.Time `json:"next_try,omitempty"`
	Failure          string     `json:"failure,omitempty"`
	FailuresInARow   int        `json:"failures_in_a_row,omitempty"`
	Errcode          int        `json:"errcode,omitempty"`
	LastError        string     `json:"last_error,omitempty"`
	Hint             string     `json:"hint,omitempty"`
	FailedAt         *time.Time `json:"failed_at,omitempty"`
	Fetches          int64      `json:"fetches"`
	Rejections       int64      `json:"rejections"`
	Shared           bool       `json:"shared"`
	StoreError       string     `json:"store_error,omitempty"`
}

func newAdminToken(m *pooledManager) adminToken {
	s := m.Status()
	now := time.Now()
	out := adminToken{
		AppID: m.appID, Source: m.source, Issuer: m.issuer, HasToken: s.HasToken, Fetching: s.Fetching,
		NextTry: when(s.NextTry), Failure: string(s.Failure), FailuresInARow: s.FailuresInARow,
		Errcode: s.Errcode, LastError: s.Error, Hint: s.Hint, FailedAt: when(s.FailedAt),
		Fetches: s.Fetches, Rejections: s.Rejections, Shared: s.Shared, StoreError: s.StoreError,
	}
	if s.HasToken {
		age, left := int64(now.Sub(s.ObtainedAt).Seconds()), int64(s.ExpiresAt.Sub(now).Seconds())
		out.AgeSeconds, out.ExpiresAt, out.ExpiresInSeconds = &age, when(s.ExpiresAt), &left
	}
	return out
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

func (adminTokens) list(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return methodNotAllowed()
	}
	out := []adminToken{}
	for _, m := range managersOf("") {
		out = append(out, newAdminToken(m))
	}
	return writeAdmin(w, out)
}

func (adminTokens) refresh(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		return methodNotAllowed()
	}
	appID := r.URL.Query().Get("app_id")
	if appID == "" {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: errors.New("app_id is missing; write /wechat/tokens/refresh?app_id=…")}
	}
	managers := managersOf(appID)
	if len(managers) == 0 {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("no running config has app %s", appID)}
	}
	out := []adminToken{}
	for _, m := range managers {
		if _, err := m.Renew(r.Context()); err != nil {
			return refusedRenewal(w, err)
		}
		out = append(out, newAdminToken(m))
	}
	return writeAdmin(w, out)
}

// refusedRenewal says why there is no new token; there may well be an old one.
func refusedRenewal(w http.ResponseWriter, err error) error {
	status := http.StatusServiceUnavailable
	var tooEarly *token.TooEarlyError
	var unavailable *token.UnavailableError
	switch {
	case errors.As(err, &tooEarly):
		status = http.StatusTooManyRequests
		refuseNoToken(tooEarly.RetryAfter, nil).setHeader(w.Header())
	case errors.As(err, &unavailable):
		refuseNoToken(unavailable.RetryAfter, nil).setHeader(w.Header())
		err = unavailable.Cause
	}
	return caddy.APIError{HTTPStatus: status, Err: err}
}

// managersOf returns the managers of an app, or of all, in the order of app_ids.
func managersOf(appID string) []*pooledManager {
	var out []*pooledManager
	tokenManagers.Range(func(_, value any) bool {
		if m, ok := value.(*pooledManager); ok && (appID == "" || m.appID == appID) {
			out = append(out, m)
		}
		return true
	})
	slices.SortFunc(out, func(a, b *pooledManager) int { return strings.Compare(a.appID+a.source, b.appID+b.source) })
	return out
}

func methodNotAllowed() error {
	return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("method not allowed")}
}

func writeAdmin(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", cacheControlForErrors)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return caddy.APIError{HTTPStatus: http.StatusInternalServerError, Err: err}
	}
	return nil
}

// Interface guards
var (
	_ caddy.AdminRouter = adminTokens{}
)
