package wechatmedia

// One account: its credentials, where its tokens come from, and the one token manager
// that all sites of the process share.

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// App is a WeChat account (mini program, official account, ...) or an agent of a WeCom
// corp, and where its access tokens come from.
type App struct {
	// The AppID, as the account's settings in the WeChat admin show it; for WeCom the
	// corp_id, or `<corp_id>/<agent_id>` to tell several agents of one corp apart.
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
	id       string
	source   string // its name
	issuer   string
	platform *platform.Platform
	tokens   *token.Manager
	param    string // the query parameter that carries the token
	etagKey  []byte

	poolKey  string
	attached *token.Attachment
}

// tokenManagers outlive configs: a reload neither fetches nor loses a token.
var tokenManagers = caddy.NewUsagePool()

// pooledManager is a manager with a name to show.
type pooledManager struct {
	*token.Manager
	appID, source, issuer string
}

// Destruct implements caddy.Destructor.
func (m *pooledManager) Destruct() error {
	m.Close()
	return nil
}

// tokenWay is how an app's token calls leave.
type tokenWay struct {
	client  *http.Client
	baseURL string
	issuer  func(*platform.Platform) string // where calls end up
	local   bool                            // on this machine
	check   func(appID string) error        // whether calls can be made at all
	observe func(a *app, ev token.Event)
}

// provision resolves a's credentials, loads its token source and joins the
// process's manager for it. It makes no network call.
func (a *App) provision(ctx caddy.Context, way tokenWay) (*app, error) {
	repl := caddy.NewReplacer()
	appID, err := resolve(repl, "app_id", a.AppID)
	if err != nil {
		return nil, err
	}
	source, name, err := a.loadSource(ctx)
	if err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	traits := source.Traits()
	out := &app{id: appID, source: name, platform: platform.Of(traits.Platform, appID), param: traits.Param}
	if err := out.checkID(); err != nil {
		return nil, err
	}
	if out.param == "" {
		out.param = "access_token"
	}
	secret, err := a.secret(ctx, repl, out, traits, way.local)
	if err != nil {
		return nil, fmt.Errorf("app %s: %w", appID, err)
	}
	shared, err := a.shared(traits, name)
	if err != nil {
		return nil, fmt.Errorf("app %s: %w", appID, err)
	}
	if traits.AsksUpstream {
		if err := way.check(appID); err != nil {
			return nil, fmt.Errorf("app %s: %w", appID, err)
		}
		out.issuer = way.issuer(out.platform)
	}
	out.etagKey = etagKey(secret)
	binding := token.Binding{
		Source:  source,
		Request: token.Request{AppID: appID, AppSecret: secret, Client: way.client, BaseURL: way.baseURL},
		Observe: func(ev token.Event) { way.observe(out, ev) },
	}
	if shared {
		binding.Store = ctx.Storage()
	}
	return out, out.join(binding, traits)
}

// checkID refuses an id that is none of the platform's. It may be the secret, and is not
// quoted.
func (a *app) checkID() error {
	p := a.platform
	if p.IsID(a.id) {
		return nil
	}
	err := fmt.Errorf("an %s of %s begins with %s; write: app <%s> [<app_secret>]", p.IDName, p.Name, strings.Join(p.IDPrefixes, " or "), p.IDName)
	if other := platform.Of("", a.id); other != p && other.IsID(a.id) {
		err = fmt.Errorf("%w; one of %s needs a token source of %s's, in a block: token %s", err, other.Name, other.Name, strings.ToLower(other.Name))
	}
	return err
}

// join attaches a binding to the process's manager for the app.
func (a *app) join(binding token.Binding, traits token.Traits) error {
	identity := token.Identity{AppID: a.id, Issuer: a.issuer, Source: traits.Identity}
	a.poolKey = identity.Key()
	manager, _, err := tokenManagers.LoadOrNew(a.poolKey, func() (caddy.Destructor, error) {
		return &pooledManager{token.NewManager(identity, traits), a.id, a.source, a.issuerLabel()}, nil
	})
	if err != nil {
		return err
	}
	a.tokens = manager.(*pooledManager).Manager
	a.attached = a.tokens.Attach(binding)
	return nil
}

// issuerLabel names the issuer in metrics: a source that does not ask the upstreams
// is its own.
func (a *app) issuerLabel() string {
	if a.issuer == "" {
		return a.source
	}
	return a.issuer
}

// release leaves the process's manager, which ends with the last that uses it.
func (a *app) release() error {
	if a.attached == nil { // provisioning did not get that far
		return nil
	}
	a.attached.Detach()
	_, err := tokenManagers.Delete(a.poolKey)
	return err
}

// loadSource loads the token source, stable unless another one is configured.
func (a *App) loadSource(ctx caddy.Context) (token.Source, string, error) {
	if a.TokenRaw == nil {
		a.TokenRaw = caddyconfig.JSONModuleObject(struct{}{}, "source", "stable", nil)
	}
	mod, err := ctx.LoadModule(a, "TokenRaw")
	if err != nil {
		return nil, "", fmt.Errorf("loading token source: %w", err)
	}
	source, ok := mod.(token.Source)
	if !ok {
		return nil, "", fmt.Errorf("loading token source: %T is not a token.Source", mod)
	}
	return source, mod.(caddy.Module).CaddyModule().ID.Name(), nil
}

// secret resolves the AppSecret.
func (a *App) secret(ctx caddy.Context, repl *caddy.Replacer, out *app, traits token.Traits, local bool) (string, error) {
	if a.AppSecret == "" {
		if traits.NeedsSecret {
			return "", fmt.Errorf("an app_secret is needed; write: app %s {env.WECHAT_APP_SECRET}", out.id)
		}
		return "", nil
	}
	secret, err := resolve(repl, "app_secret", a.AppSecret)
	if err != nil {
		return "", err
	}
	a.warnOfSecret(ctx.Logger(), out, secret, local)
	return secret, nil
}

// warnOfSecret tells of a secret that is valid and hardly meant. Towards a sandbox on
// this machine anything goes.
func (a *App) warnOfSecret(logger *zap.Logger, out *app, secret string, local bool) {
	if local {
		return
	}
	if !strings.Contains(a.AppSecret, "{") {
		logger.Warn("app_secret is written out in the config, where anybody who can read the config "+
			"or the admin API sees it; use {env.*} or {file.*}", appIDField(out.id))
	}
	if p := out.platform; p.Secret != nil && !p.Secret.MatchString(secret) {
		logger.Warn("app_secret is not "+p.SecretWords+", as "+p.Name+"'s are; look for quotes, spaces or a byte order mark "+
			"in the file or environment that it comes from", appIDField(out.id), zap.Int("length", len(secret)))
	}
}

// shared says whether the token goes through Caddy's storage.
func (a *App) shared(traits token.Traits, source string) (bool, error) {
	switch {
	case a.ShareToken == nil:
		return traits.NeedsSharing, nil
	case *a.ShareToken && traits.NotShared != "":
		return false, fmt.Errorf("share_token: %s", traits.NotShared)
	case !*a.ShareToken && traits.NeedsSharing:
		return false, fmt.Errorf("share_token: token source %s cannot do without; leave share_token away", source)
	}
	return *a.ShareToken, nil
}

// etag stands for the bytes of a download, which never change. Nobody can make one who
// has not been given it: who shows it has seen the media once. A fleet that has the
// secret in common has the ETags in common.
func (a *app) etag(c call) string {
	mac := hmac.New(sha256.New, a.etagKey)
	fmt.Fprintf(mac, "%s %s %s", a.id, c.endpoint, c.mediaID)
	return `"` + hex.EncodeToString(mac.Sum(nil)[:12]) + `"`
}

// etagKey is made of the secret, or of nothing that outlives the process.
func etagKey(secret string) []byte {
	if secret == "" {
		secret = rand.Text()
	}
	digest := sha256.Sum256([]byte("etag " + secret))
	return digest[:]
}

// guessPlatform is the platform of apps that have not been provisioned.
func guessPlatform(rawApps json.RawMessage) *platform.Platform {
	var apps []struct {
		AppID string `json:"app_id"`
		Token struct {
			Source string `json:"source"`
		} `json:"token"`
	}
	if json.Unmarshal(rawApps, &apps) != nil || len(apps) == 0 {
		return platform.Of("", "")
	}
	id, err := resolve(caddy.NewReplacer(), "app_id", apps[0].AppID)
	if err != nil {
		id = ""
	}
	return platform.Of(apps[0].Token.Source, id)
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

var errMixedPlatforms = errors.New("apps of WeChat and of WeCom cannot stand in one directive; write one for each")
