package check

// The queries of the alerts and of the dashboard, asked of a Prometheus that scrapes
// a gateway to which everything happens that the metrics tell apart.

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

func TestQueries(t *testing.T) {
	s := start(t)
	eventually(t, "the apps have tokens", func() bool { return s.hasToken(appBusy) && s.hasToken(appOutage) })
	s.startPrometheus(t)

	// one of each at least every second, until rates have something to count
	for range 8 {
		s.round(t)
		time.Sleep(time.Second)
	}
	t.Run("readme", s.testReadme)
	t.Run("metrics", s.testMetrics)
	t.Run("alerts", s.testAlerts)
	t.Run("dashboard", s.testDashboard)
	t.Run("variables", s.testVariables)
	t.Run("killed token endpoint", s.testKilledTokenEndpoint)
}

// round makes requests of every class and replays of every outcome.
func (s *stack) round(t *testing.T) {
	t.Helper()
	want := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: errcode %d, not %d", what, got, want)
		}
	}
	const small, large = 100_000, 2 << 20 // within replay_buffer, and beyond it
	id, code := s.upload(t, appBusy, small)
	want("an upload", code, 0)
	want("a download", s.download(t, appBusy, id), 0)
	want("a download for the other app", s.download(t, appOutage, id), 40007)
	want("a malformed media_id", s.download(t, appBusy, "no.media"), 40007)
	_, code = s.upload(t, appWrong, small)
	want("an upload without a token", code, -1)

	s.fault(t, "busy?endpoint=get&times=1")
	want("a download while WeChat is busy", s.download(t, appBusy, id), -1)
	// twice: the gateway may send it once more
	s.fault(t, "cut?endpoint=upload&after=1000&times=2")
	_, code = s.upload(t, appBusy, large)
	want("an upload that WeChat breaks off", code, -1)
	s.fault(t, "reset")

	s.fault(t, "revoke?appid="+appBusy)
	want("a download with a revoked token", s.download(t, appBusy, id), 0)
	s.fault(t, "revoke?appid="+appBusy)
	_, code = s.upload(t, appBusy, large)
	want("a large upload with a revoked token", code, 40001)

	res, err := http.Get(s.gateway + "/cgi-bin/user/info")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	want("another API", res.StatusCode, http.StatusNotFound)
}

// The Caddyfile in README.md is one.
func (s *stack) testReadme(t *testing.T) {
	block := regexp.MustCompile("(?s)\n```caddyfile\n(.*?)```\n").FindSubmatch(read(t, "../README.md"))
	if block == nil {
		t.Fatal("README.md has no Caddyfile")
	}
	cmd := exec.Command(caddyBinary, "validate", "--config", "-", "--adapter", "caddyfile")
	cmd.Stdin = bytes.NewReader(block[1])
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Every metric that is named exists, with the labels that are named, where
// Prometheus is told to look; and a site with the directive `metrics` has the same.
func (s *stack) testMetrics(t *testing.T) {
	scraped, served := scrape(t, s.admin), scrape(t, s.gateway)
	for name := range scraped {
		if served[name] == nil {
			t.Errorf("the directive metrics does not serve %s", name)
		}
	}
	scraped["up"] = map[string]bool{} // Prometheus makes it
	b := readBoard(t)
	named := map[string]bool{}
	check := func(where, expr string) {
		for _, selector := range selectors(t, expr) {
			labels, ok := scraped[selector.Name]
			if !ok {
				t.Errorf("%s: there is no metric %s", where, selector.Name)
				continue
			}
			named[selector.Name] = true
			for _, m := range selector.LabelMatchers {
				if m.Name != "__name__" && m.Name != "job" && m.Name != "instance" && !labels[m.Name] {
					t.Errorf("%s: %s has no label %s", where, selector.Name, m.Name)
				}
			}
		}
	}
	for _, r := range readAlerts(t).rules() {
		check(r.Alert, r.Expr)
	}
	for _, p := range b.Panels {
		for _, target := range p.Targets {
			check(p.Title, b.substitute(target.Expr))
		}
	}
	t.Logf("%d metrics are named: %q", len(named), slices.Sorted(maps.Keys(named)))
}

// Prometheus has taken every rule, and evaluates it without an error.
func (s *stack) testAlerts(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, r := range readAlerts(t).rules() {
		if _, warnings, err := s.prometheus.Query(ctx, r.Expr, time.Now()); err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v %v", r.Alert, err, warnings)
		}
	}
	loaded, err := s.prometheus.Rules(ctx)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, group := range loaded.Groups {
		for _, r := range group.Rules {
			alert, ok := r.(promv1.AlertingRule)
			if !ok || alert.Health != promv1.RuleHealthGood {
				t.Errorf("%+v", r)
			}
			n++
		}
	}
	if want := len(readAlerts(t).rules()); n != want {
		t.Errorf("Prometheus runs %d rules, not %d", n, want)
	}
}

// Every query of the dashboard shows something.
func (s *stack) testDashboard(t *testing.T) {
	b := readBoard(t)
	n := 0
	for _, p := range b.Panels {
		for _, target := range p.Targets {
			n++
			expr := b.substitute(target.Expr)
			if !target.Range {
				if len(s.query(t, expr)) == 0 {
					t.Errorf("%s: no data for %s", p.Title, expr)
				}
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			now := time.Now()
			v, warnings, err := s.prometheus.QueryRange(ctx, expr, promv1.Range{Start: now.Add(-10 * time.Second), End: now, Step: time.Second})
			cancel()
			if err != nil || len(warnings) > 0 {
				t.Errorf("%s: %s: %v %v", p.Title, expr, err, warnings)
			} else if !hasNumbers(v.(model.Matrix)) {
				t.Errorf("%s: no data for %s", p.Title, expr)
			}
		}
	}
	t.Logf("%d queries", n)
}

func hasNumbers(m model.Matrix) bool {
	for _, series := range m {
		for _, sample := range series.Values {
			if sample.Value == sample.Value { // not NaN
				return true
			}
		}
	}
	return false
}

// Every variable of the dashboard has something to choose.
func (s *stack) testVariables(t *testing.T) {
	b := readBoard(t)
	for _, v := range b.Templating.List {
		if v.Type == "datasource" {
			continue
		}
		var query struct{ Query string }
		if err := json.Unmarshal(v.Query, &query); err != nil {
			t.Fatal(err)
		}
		parts := labelValues.FindStringSubmatch(query.Query)
		if parts == nil {
			t.Errorf("%s: %s is not label_values(<selector>, <label>)", v.Name, query.Query)
			continue
		}
		found := map[model.LabelValue]bool{}
		for _, series := range s.query(t, b.substitute(parts[1])) {
			found[series.Metric[model.LabelName(parts[2])]] = true
		}
		delete(found, "")
		if len(found) == 0 {
			t.Errorf("%s: nothing for %s", v.Name, query.Query)
		}
	}
}

// A token endpoint that is killed sets the alerts off, and nothing did before.
func (s *stack) testKilledTokenEndpoint(t *testing.T) {
	const firing = `ALERTS{alertstate="firing", app="` + appOutage + `"}`
	if alerts := s.query(t, firing); len(alerts) > 0 {
		t.Fatalf("already before: %v", alerts)
	}
	s.tokenEndpointDead.Store(true)
	s.fault(t, "expire?appid="+appOutage)
	want := map[model.LabelValue]model.Metric{
		"WechatNoToken":           {},
		"WechatTokenFetchFailing": {"result": "network", "source": "stable"},
		"WechatRequestsFailing":   {"class": "unavailable"},
	}
	var alerts model.Vector
	eventually(t, "the alerts fire", func() bool {
		if code := s.download(t, appOutage, "no-media"); code != -1 {
			t.Fatalf("a download with neither a token nor a token endpoint: errcode %d", code)
		}
		alerts = s.query(t, firing)
		seen := map[model.LabelValue]bool{}
		for _, alert := range alerts {
			labels, ok := want[alert.Metric["alertname"]]
			if !ok {
				t.Fatalf("%s", alert.Metric)
			}
			seen[alert.Metric["alertname"]] = true
			for name, value := range labels {
				if alert.Metric[name] != value {
					t.Fatalf("%s", alert.Metric)
				}
			}
		}
		return len(seen) == len(want)
	})
}
