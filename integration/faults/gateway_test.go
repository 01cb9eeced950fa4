// Package faults puts a fault-injecting proxy, and upstreams that lie, between the
// gateway and WeChat's stand-in.
package faults

// The gateway, with a site for HTTP/1.1 and one for HTTP/2.

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
)

const (
	appID  = gateway.AppID
	secret = gateway.Secret
)

func TestMain(m *testing.M) { gateway.Main(m) }

// server is a running gateway.
type server struct {
	http, https string // base URLs
	admin       string
	cert, key   string
	global      string // further global options
	*gateway.Process
}

// newServer is a gateway to be run.
func newServer(t *testing.T) *server {
	t.Helper()
	g := &server{
		http: "http://" + loopback.FreeAddr(t), https: "https://" + loopback.FreeAddr(t), admin: "http://" + loopback.FreeAddr(t),
	}
	g.cert, g.key = loopback.MakeCert(t, t.TempDir())
	return g
}

// startGateway runs the gateway until the test ends.
func startGateway(t *testing.T, upstreams string, options ...string) *server {
	t.Helper()
	g := newServer(t)
	g.Process = gateway.Start(t, gateway.Config{
		Caddyfile: g.caddyfile(upstreams, options...), URL: g.http + "/cgi-bin/none",
		Ready: gateway.HasToken, Secrets: []string{wireToken},
	})
	return g
}

// caddyfile is the gateway's configuration.
func (g *server) caddyfile(upstreams string, options ...string) string {
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	grace_period 10s
	servers {
		protocols h1 h2
	}
	%s
}
(gateway) {
	bind 127.0.0.1
	wechat_media %s {
		app %s {env.REAL_SECRET}
		%s
	}
}
%s {
	import gateway
}
%s {
	import gateway
	tls %s %s
}
`, strings.TrimPrefix(g.admin, "http://"), g.global, upstreams, appID, strings.Join(options, "\n\t\t"), g.http, g.https, g.cert, g.key)
}

// metric is the sum of a metric's values.
func (g *server) metric(t testing.TB, name string) (sum float64) {
	t.Helper()
	for _, v := range g.metricBy(t, name, "") {
		sum += v
	}
	return sum
}

// metricBy is a metric's values by one of its labels.
func (g *server) metricBy(t testing.TB, name, label string) map[string]float64 {
	t.Helper()
	res, err := http.Get(g.admin + "/metrics")
	if err != nil {
		t.Error(err)
		return nil
	}
	defer res.Body.Close()
	values := make(map[string]float64)
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		n, labels, _ := strings.Cut(series, "{")
		if n != name {
			continue
		}
		_, by, _ := strings.Cut(labels, label+`="`)
		by, _, _ = strings.Cut(by, `"`)
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Error(err)
		}
		values[by] += v
	}
	return values
}

// quick are timeouts for tests in which WeChat stands still.
const quick = "transport wechat {\nread_timeout 2s\nresponse_header_timeout 2s\n}"
