package wechatmedia

// The command `caddy wechat-media`: a gateway without a Caddyfile.

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-wechat/caddy-wechat-media/sandbox/caddysandbox"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "wechat-media",
		Usage: "[--listen <addr>] [--app-id <id>] [--app-secret-file <file>] [--types <types>] [--sandbox] [--wecom] [--access-log] [--debug]",
		Short: "Runs a gateway to WeChat's temporary media",
		Long: `
A gateway to WeChat's temporary media, without a config file: POST a picture to
any path to upload it, GET /<media_id> to download it, or use WeChat's own paths
under /cgi-bin/media/.

The account comes from --app-id or the environment variable WECHAT_APP_ID; its
secret from the file --app-secret-file or the environment variable
WECHAT_APP_SECRET, and never from the command line, where everybody on the
machine could read it.

With --sandbox, WeChat's place is taken by a sandbox in the same process, which
needs neither an account nor a network. With --wecom, the account is one of WeCom.

The gateway checks nobody's identity, so by default it can be reached from this
machine only, and not by web pages. Use a Caddyfile with an access check to offer it
to others.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Flags().StringP("listen", "l", "127.0.0.1:8080", "The address to listen on")
			cmd.Flags().String("app-id", "", "The AppID (default: $WECHAT_APP_ID)")
			cmd.Flags().String("app-secret-file", "", "A file with the AppSecret (default: $WECHAT_APP_SECRET)")
			cmd.Flags().StringSlice("types", []string{defaultMediaType}, "Media types that may be uploaded: image, voice, video, thumb; of WeCom: image, voice, video, file")
			cmd.Flags().Bool("sandbox", false, "Run against a sandbox instead of WeChat")
			cmd.Flags().Bool("wecom", false, "Be a gateway to WeCom; --app-id is <corp_id> or <corp_id>/<agent_id>")
			cmd.Flags().Bool("access-log", false, "Write an access log")
			cmd.Flags().Bool("debug", false, "Log at debug level")
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(runCommand)
		},
	})
}

func runCommand(flags caddycmd.Flags) (int, error) {
	caddy.TrapSignals()
	config, err := commandConfig(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if err := caddy.Run(config); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	fmt.Printf("\nGateway to temporary media on http://%s\n\n", flags.String("listen"))
	select {}
}

// commandConfig is the config that the flags stand for.
func commandConfig(flags caddycmd.Flags) (*caddy.Config, error) {
	listen := flags.String("listen")
	if _, _, err := net.SplitHostPort(listen); err != nil {
		return nil, fmt.Errorf("listen %s: write host:port or :port", listen)
	}
	types, err := flags.GetStringSlice("types")
	if err != nil {
		return nil, err
	}
	servers := make(map[string]*caddyhttp.Server)
	var account *App
	var upstreams reverseproxy.UpstreamPool
	if flags.Bool("sandbox") {
		var place *caddyhttp.Server
		if account, upstreams, place, err = sandboxPlace(flags); err != nil {
			return nil, err
		}
		servers["sandbox"] = place
	} else if account, err = commandAccount(flags); err != nil {
		return nil, err
	}

	handler := &Handler{
		Types: types,
		ReverseProxy: &reverseproxy.Handler{
			Upstreams:    upstreams,
			TransportRaw: caddyconfig.JSON(map[string]any{"protocol": "wechat", "apps": []*App{account}}, nil),
		},
	}
	gateway := commandServer(listen, caddyconfig.JSONModuleObject(handler, "handler", "wechat_media", nil))
	gateway.Routes = append(keepPagesOut(listen), gateway.Routes...)
	if flags.Bool("access-log") {
		gateway.Logs = new(caddyhttp.ServerLogConfig)
	}
	servers["gateway"] = gateway

	return &caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: new(bool)}},
		AppsRaw: caddy.ModuleMap{"http": caddyconfig.JSON(caddyhttp.App{Servers: servers}, nil)},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: commandLogLevel(flags)}}}},
	}, nil
}

// commandLogLevel lets the address of the gateway stand out, unless more is asked for.
func commandLogLevel(flags caddycmd.Flags) string {
	switch {
	case flags.Bool("debug"):
		return "DEBUG"
	case flags.Bool("access-log"):
		return "INFO"
	}
	return "WARN"
}

// keepPagesOut keeps web pages from using a gateway on this machine through the
// browser of somebody who sits at it: requests of other sites, and those under a name
// that was made to point here. A gateway for others is not kept so.
func keepPagesOut(listen string) caddyhttp.RouteList {
	host, _, _ := net.SplitHostPort(listen)
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil
	}
	var origins []string
	for _, own := range []string{"localhost", "127.0.0.1", "[::1]"} {
		origins = append(origins, "http://"+own, "http://"+own+":*")
	}
	match := func(matchers map[string]any) caddy.ModuleMap {
		out := make(caddy.ModuleMap)
		for name, m := range matchers {
			out[name] = caddyconfig.JSON(m, nil)
		}
		return out
	}
	header := func(name string, values ...string) map[string]any {
		return map[string]any{"header": map[string][]string{name: values}}
	}
	foreign := header("Origin", "*")
	foreign["not"] = []map[string]any{header("Origin", origins...)}
	return caddyhttp.RouteList{{
		MatcherSetsRaw: caddyhttp.RawMatcherSets{
			match(map[string]any{"not": []map[string]any{{"host": []string{"localhost", "127.0.0.1", "::1"}}}}),
			match(header("Sec-Fetch-Site", "cross-site", "same-site")),
			match(foreign),
		},
		HandlersRaw: []json.RawMessage{caddyconfig.JSON(map[string]any{
			"handler": "static_response", "status_code": http.StatusForbidden, "close": true,
			"body": "this gateway is for programs on its own machine, not for web pages\n",
		}, nil)},
		Terminal: true,
	}}
}

func commandServer(listen string, handler json.RawMessage) *caddyhttp.Server {
	return &caddyhttp.Server{
		Listen:    []string{listen},
		AutoHTTPS: &caddyhttp.AutoHTTPSConfig{Disabled: true},
		Routes:    caddyhttp.RouteList{{HandlersRaw: []json.RawMessage{handler}}},
	}
}

// commandAccount is the account that flags and environment name. Secrets stay
// placeholders, so that no config has them.
func commandAccount(flags caddycmd.Flags) (*App, error) {
	a := &App{AppID: flags.String("app-id"), AppSecret: "{env.WECHAT_APP_SECRET}"}
	if flags.Bool("wecom") {
		a.TokenRaw = caddyconfig.JSON(map[string]string{"source": "wecom"}, nil)
	}
	if a.AppID == "" {
		if os.Getenv("WECHAT_APP_ID") == "" {
			return nil, errors.New("no app is given; write --app-id or set WECHAT_APP_ID, or use --sandbox")
		}
		a.AppID = "{env.WECHAT_APP_ID}"
	}
	switch file := flags.String("app-secret-file"); {
	case file != "":
		if strings.Contains(file, "}") {
			return nil, fmt.Errorf("app-secret-file %s: braces are not supported", file)
		}
		a.AppSecret = "{file." + file + "}"
	case os.Getenv("WECHAT_APP_SECRET") == "":
		return nil, errors.New("no secret is given; write --app-secret-file or set WECHAT_APP_SECRET")
	}
	return a, nil
}

// sandboxPlace is a sandbox on a port of its own, and its account.
func sandboxPlace(flags caddycmd.Flags) (*App, reverseproxy.UpstreamPool, *caddyhttp.Server, error) {
	if flags.String("app-id") != "" || flags.String("app-secret-file") != "" {
		return nil, nil, nil, errors.New("the sandbox has an account of its own; leave --app-id and --app-secret-file away")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, nil, fmt.Errorf("finding a port for the sandbox: %w", err)
	}
	address := l.Addr().String()
	_ = l.Close()
	account := &App{AppID: "wxsandbox00000000", AppSecret: "sandbox-secret"}
	place := &caddysandbox.Handler{Apps: []caddysandbox.App{{AppID: account.AppID, AppSecret: account.AppSecret}}}
	if flags.Bool("wecom") {
		account = &App{AppID: "wwsandbox00000000", AppSecret: "sandbox-secret", TokenRaw: caddyconfig.JSON(map[string]string{"source": "wecom"}, nil)}
		place = &caddysandbox.Handler{Corps: []caddysandbox.Corp{{CorpID: account.AppID, CorpSecret: account.AppSecret}}}
	}
	server := commandServer(address, caddyconfig.JSONModuleObject(place, "handler", "wechat_sandbox", nil))
	return account, reverseproxy.UpstreamPool{{Dial: address}}, server, nil
}
