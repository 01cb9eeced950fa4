// Package check runs every query of the alerts and of the dashboard against a real
// Prometheus that scrapes the real gateway. It is a module of its own so that the
// plugin does not require Prometheus's parser.
package check

// The expressions that are checked, and what they name.

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

const (
	alertsFile     = "../prometheus/alerts.yml"
	prometheusFile = "../prometheus/prometheus.yml"
	dashboardFile  = "../grafana/dashboard.json"
)

// rule is an alert, as alerts.yml has it.
type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

type ruleFile struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

func readAlerts(t *testing.T) (file ruleFile) {
	t.Helper()
	if err := yaml.Unmarshal(read(t, alertsFile), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Groups) == 0 || len(file.Groups[0].Rules) == 0 {
		t.Fatal("there are no alerts")
	}
	return file
}

func (f ruleFile) rules() (all []rule) {
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// board is what matters here of the dashboard.
type board struct {
	Panels []struct {
		Title, Description, Type string
		Targets                  []struct {
			Expr  string
			Range bool
		}
	}
	Templating struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
		}
	}
}

func readBoard(t *testing.T) (b board) {
	t.Helper()
	if err := json.Unmarshal(read(t, dashboardFile), &b); err != nil {
		t.Fatal(err)
	}
	if len(b.Panels) == 0 {
		t.Fatal("the dashboard has no panels")
	}
	return b
}

// labelValues reads a variable's query, label_values(<selector>, <label>).
var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

// substitute puts values in the place of Grafana's variables, as Grafana does for
// "All" and for a short time range.
func (b board) substitute(expr string) string {
	expr = strings.ReplaceAll(expr, "$__rate_interval", rateInterval)
	for _, v := range b.Templating.List {
		expr = strings.ReplaceAll(expr, "$"+v.Name, ".*")
	}
	return expr
}

// rateInterval is four scrapes and more, as Grafana reckons it.
const rateInterval = "20s"

// selectors returns the series that an expression asks for.
func selectors(t *testing.T, expr string) (all []*parser.VectorSelector) {
	t.Helper()
	tree, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v", expr, err)
		return nil
	}
	parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			all = append(all, s)
		}
		return nil
	})
	return all
}

// values returns what a matcher names: the alternatives of a regular expression, or
// the one value.
func values(m *labels.Matcher) []string {
	if m.Value == ".*" {
		return nil
	}
	if m.Type == labels.MatchRegexp || m.Type == labels.MatchNotRegexp {
		return strings.Split(m.Value, "|")
	}
	return []string{m.Value}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
