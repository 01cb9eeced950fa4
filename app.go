package wechatmedia

// One WeChat account: its credentials, where its tokens come from, and the one
// token manager that all sites of the process share.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// App is a WeChat account (mini program, official account, ...) and where its
// access tokens come from.
type App struct {
	// The AppID, as the account's settings in the WeChat admin show it.
	// Placeholders such as `{env.WECHAT_APP_ID}` are replaced when the config is
	// loaded; one that is not set is an error. Required.
	AppID string `json:"app_id"`

	// The AppSecret. Use `{env.*}` or `{file.*}`, so that the secret is not part
	// of the config; one written out is accepted with a warning. Sources that
	// fetch tokens elsewhere do without. Default: none.
	AppSecret string `json:"app_secret,omitempty"`

	// Where access tokens come from. Default: `stable`.
	TokenRaw json.RawMessage `json:"token,omitempty" caddy:"namespace=http.wechat.token_sources inline_key=source"`

	// Whether the token is kept in Caddy's storage, so that a fleet of gateways
	// on one storage shares one token. What is stored gives access to the
	// account until it expires. Default: what the source needs; `classic` cannot
	// do without, the others need not.
	ShareToken *bool `json:"share_token,omitempty"`
}

// app is an App at work.
type app struct {
	id     string
	source string // its name
	tokens *tokenManager
	param  string // the query parameter that carries the token

	poolKey string
	detach  func()
}

// tokenManagers outlive configs: a reload neither fetches nor loses a token.
// The keys are digests, for they cover secrets.
var tokenManagers = caddy.NewUsagePool()

// pooledManager is a manager with a name to show.
type pooledManager struct {
	*tokenManager
	appID, source string
}

// tokenWire is how token requests leave: as the media requests do.
type tokenWire struct {
	client   *http.Client
	baseURLs []string
	observe  func(appID, source string, ev tokenEvent)
}

// provision resolves a's credentials, loads its token source and joins the
// process's manager for it. It makes no network call.
func (a *App) provision(ctx caddy.Context, wire tokenWire) (*app, error) {
	repl := caddy.NewReplacer()
	appID, err := resolve(repl, "app_id", a.AppID)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(appID, "wx") { // it may be the secret: not to be quoted
		return nil, errors.New("an app_id does not begin with wx, as WeChat's do; write: app <app_id> [<app_secret>]")
	}
	secret := ""
	if a.AppSecret != "" {
		if secret, err = resolve(repl, "app_secret", a.AppSecret); err != nil {
			return nil, fmt.Errorf("app %s: %w", appID, err)
		}
		if !strings.Contains(a.AppSecret, "{") {
			ctx.Logger().Warn("app_secret is written out in the config, where anybody who can read the config "+
				"or the admin API sees it; use {env.*} or {file.*}", appIDField(appID))
		}
	}

	raw := a.TokenRaw
	if raw == nil {
		raw = caddyconfig.JSONModuleObject(struct{}{}, "source", "stable", nil)
	}
	a.TokenRaw = raw
	mod, err := ctx.LoadModule(a, "TokenRaw")
	if err != nil {
		return nil, fmt.Errorf("app %s: loading token source: %w", appID, err)
	}
	source, ok := mod.(TokenSource)
	if !ok {
		return nil, fmt.Errorf("app %s: token source %T is not a TokenSource", appID, mod)
	}
	if s, ok := source.(SecretRequirer); ok && s.NeedsSecret() && secret == "" {
		return nil, fmt.Errorf("app %s: an app_secret is needed; write: app %s {env.WECHAT_APP_SECRET}", appID, appID)
	}
	name := mod.(caddy.Module).CaddyModule().ID.Name()

	source, shared, err := a.share(ctx, source, name, raw)
	if err != nil {
		return nil, fmt.Errorf("app %s: %w", appID, err)
	}
	digest := sha256.New()
	for _, part := range []string{appID, secret, string(raw), strconv.FormatBool(shared)} {
		fmt.Fprintf(digest, "%d:%s", len(part), part)
	}
	key := hex.EncodeToString(digest.Sum(nil))
	manager, _, err := tokenManagers.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &pooledManager{newTokenManager(tokenOptionsOf(mod)), appID, name}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("app %s: %w", appID, err)
	}

	out := &app{id: appID, source: name, tokens: manager.(*pooledManager).tokenManager, param: "access_token", poolKey: key}
	if p, ok := mod.(QueryParamer); ok {
		out.param = p.QueryParam()
	}
	out.detach = out.tokens.attach(&tokenBackend{
		fetch: func(ctx context.Context, rejected string, force bool) (TokenReply, error) {
			return fetchToken(ctx, source, TokenRequest{
				AppID: appID, AppSecret: secret, Rejected: rejected, ForceRefresh: force,
				Client: wire.client, BaseURLs: wire.baseURLs,
			})
		},
		observe: func(ev tokenEvent) { wire.observe(appID, name, ev) },
	})
	return out, nil
}

// share puts the app's source behind Caddy's storage if that is wanted, or needed.
func (a *App) share(ctx caddy.Context, source TokenSource, name string, raw []byte) (_ TokenSource, shared bool, _ error) {
	if s, ok := source.(ShareRequirer); ok {
		shared = s.NeedsSharing()
	}
	switch {
	case a.ShareToken == nil:
	case *a.ShareToken:
		shared = true
	case shared:
		return nil, false, fmt.Errorf("share_token: token source %s cannot do without; leave share_token away", name)
	}
	if !shared {
		return source, false, nil
	}
	source, err := shareToken(source, ctx.Storage(), name, raw, ctx.Logger())
	return source, true, err
}

// release leaves the process's manager, which ends with the last that uses it.
func (a *app) release() error {
	a.detach()
	deleted, err := tokenManagers.Delete(a.poolKey)
	if deleted && len(managersOf(a.id)) == 0 {
		metrics.tokenExpiry.DeleteLabelValues(a.id) // nobody is to be called for want of its token
	}
	return err
}

// resolve replaces the placeholders of a setting; one that is not set is an
// error, which names the setting and never its value.
func resolve(repl *caddy.Replacer, setting, value string) (string, error) {
	if strings.TrimSpace(value) == "" {
		return "", fmt.Errorf("%s is empty", setting)
	}
	out, err := repl.ReplaceOrErr(value, true, true)
	if err != nil {
		return "", unsetError(setting, value)
	}
	// files end in a newline
	switch out = strings.TrimSpace(out); {
	case out == "":
		return "", fmt.Errorf("%s: %s is empty", setting, value)
	case strings.ContainsAny(out, "{}") || strings.HasPrefix(out, "$"):
		return "", fmt.Errorf("%s: has a brace or a $ left in it; write placeholders as {env.NAME}", setting)
	}
	return out, nil
}

// unsetError names a placeholder if that is all there is: what stands beside one
// may be part of a secret.
func unsetError(setting, value string) error {
	if strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}") {
		return fmt.Errorf("%s: %s is not set or empty", setting, value)
	}
	return fmt.Errorf("%s: a placeholder in it is not set or empty", setting)
}
