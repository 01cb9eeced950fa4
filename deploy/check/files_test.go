package check

// What can be said of the files without running anything: they agree with the code,
// with each other and with what Grafana takes.

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/prometheus/prometheus/model/labels"
)

// theLabels are the plugin's labels with values of its own.
var theLabels = map[string]bool{"class": true, "result": true, "outcome": true}

// A misspelt value would select nothing, and nobody would notice.
func TestLabelValuesAreThePlugins(t *testing.T) {
	known := map[string]bool{}
	for _, file := range sources(t) {
		for _, s := range stringsIn(file) {
			known[s] = true
		}
	}
	b := readBoard(t)
	var exprs []string
	for _, r := range readAlerts(t).rules() {
		exprs = append(exprs, r.Expr)
	}
	for _, p := range b.Panels {
		for _, target := range p.Targets {
			exprs = append(exprs, b.substitute(target.Expr))
		}
	}
	for _, expr := range exprs {
		for _, s := range selectors(t, expr) {
			for _, m := range s.LabelMatchers {
				if !theLabels[m.Name] {
					continue
				}
				for _, v := range values(m) {
					if !known[v] {
						t.Errorf("%s: no %s is %q", s, m.Name, v)
					}
				}
			}
		}
	}
}

// Every kind of failure sets an alert off, whose text begins as the hint in the log
// does.
func TestEveryFailureHasAnAlert(t *testing.T) {
	kinds := failureKinds(t)
	if len(kinds) < 10 {
		t.Fatalf("only %d kinds of failure were found", len(kinds))
	}
	for kind, hint := range kinds {
		var texts string
		for _, r := range readAlerts(t).rules() {
			for _, s := range selectors(t, r.Expr) {
				if selects(s.LabelMatchers, "result", kind) {
					texts += strings.Join(strings.Fields(r.Annotations["description"]), " ") + "\n"
				}
			}
		}
		hint, _, _ = strings.Cut(strings.NewReplacer("{", "", "}", "").Replace(hint), ";") // in braces: what an address replaces
		switch {
		case texts == "":
			t.Errorf("no alert fires when fetching fails with %s", kind)
		case !strings.Contains(texts, hint):
			t.Errorf("the alert for %s does not say: %s", kind, hint)
		}
	}
}

// Every class of requests that is not a success or the caller's own mistake does.
func TestEveryClassHasAnAlert(t *testing.T) {
	fine := map[string]bool{"ok": true, "request": true, "refused": true, "left": true}
	classes := constantsOf(t, "Class")
	if len(classes) < 5 {
		t.Fatalf("only %q were found in internal/errcode", classes)
	}
	for _, class := range append(slices.Collect(maps.Values(classes)), "unavailable", "unreachable", "truncated") {
		found := fine[class]
		for _, r := range readAlerts(t).rules() {
			for _, s := range selectors(t, r.Expr) {
				found = found || selects(s.LabelMatchers, "class", class)
			}
		}
		if !found {
			t.Errorf("no alert fires for requests of class %s", class)
		}
	}
}

// selects reports whether a selector names a value of a label, instead of just not
// excluding it.
func selects(matchers []*labels.Matcher, label, value string) bool {
	for _, m := range matchers {
		if m.Name == label && (m.Type == labels.MatchEqual || m.Type == labels.MatchRegexp) && m.Matches(value) {
			return true
		}
	}
	return false
}

func TestEveryAlertIsExplained(t *testing.T) {
	for _, document := range []string{"../README.md", "../README.zh-CN.md"} {
		checkExplained(t, document)
	}
}

func checkExplained(t *testing.T, document string) {
	t.Helper()
	readme := string(read(t, document))
	for _, r := range readAlerts(t).rules() {
		if !strings.Contains(readme, "\n### "+r.Alert+"\n") {
			t.Errorf("%s has no heading for %s", document, r.Alert)
		}
		if !strings.HasSuffix(r.Annotations["runbook_url"], "/deploy/README.md#"+strings.ToLower(r.Alert)) {
			t.Errorf("%s: runbook_url is %s", r.Alert, r.Annotations["runbook_url"])
		}
		if r.Labels["severity"] != "critical" && r.Labels["severity"] != "warning" {
			t.Errorf("%s: severity is %q", r.Alert, r.Labels["severity"])
		}
	}
	for _, heading := range regexp.MustCompile(`(?m)^### (Wechat\w+)$`).FindAllStringSubmatch(readme, -1) {
		if !strings.Contains(string(read(t, alertsFile)), "alert: "+heading[1]+"\n") {
			t.Errorf("there is no alert %s", heading[1])
		}
	}
}

// Grafana's own schema, strictly: of the dashboard, its panels and its queries.
func TestDashboardIsGrafanas(t *testing.T) {
	plugins.RegisterDefaultPlugins()
	//lint:ignore SA1019 the older model is the one that every Grafana imports
	var d dashboard.Dashboard
	for _, err := range []error{d.UnmarshalJSONStrict(read(t, dashboardFile)), d.Validate()} {
		if err != nil && err.Error() != "" { // an empty list of errors, which is no nil
			t.Error(err)
		}
	}
	if current := dashboard.NewDashboard().SchemaVersion; d.SchemaVersion != current {
		t.Errorf("schemaVersion is %d, Grafana's is %d", d.SchemaVersion, current)
	}
	for _, p := range readBoard(t).Panels {
		if p.Title == "" || p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
			t.Errorf("panel %q lacks a title, a description or a query", p.Title)
		}
	}
}

// sources are the Go files that have labels and hints in them.
func sources(t *testing.T) (files []*ast.File) {
	t.Helper()
	for _, pattern := range []string{"*.go", "token/*.go", "internal/*/*.go"} {
		names, _ := filepath.Glob("../../" + pattern)
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
	}
	if len(files) < 20 {
		t.Fatalf("only %d files were found", len(files))
	}
	return files
}

// literal is a string's value; of several with something between them, the last.
func literal(e ast.Expr) (string, bool) {
	if sum, ok := e.(*ast.BinaryExpr); ok {
		return literal(sum.Y)
	}
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

func stringsIn(file *ast.File) (all []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			if s, ok := literal(e); ok {
				all = append(all, s)
			}
		}
		return true
	})
	return all
}

// constantsOf are the constants of a type in internal/errcode, by their name.
func constantsOf(t *testing.T, typeName string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && file.Name.Name == "errcode" {
				if of, ok := spec.Type.(*ast.Ident); ok && of.Name == typeName {
					all[spec.Names[0].Name], _ = literal(spec.Values[0])
				}
			}
			return true
		})
	}
	return all
}

// failureKinds are the kinds of failure, with the hint to each of them.
func failureKinds(t *testing.T) map[string]string {
	t.Helper()
	hints := map[string]string{} // by the constant's name
	for _, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			pair, ok := n.(*ast.KeyValueExpr)
			if !ok || file.Name.Name != "token" {
				return true
			}
			key, isName := pair.Key.(*ast.Ident)
			traits, isTraits := pair.Value.(*ast.CompositeLit)
			if isName && isTraits && len(traits.Elts) > 1 {
				hints[key.Name], _ = literal(traits.Elts[len(traits.Elts)-1])
			}
			return true
		})
	}
	kinds := map[string]string{}
	for name, kind := range constantsOf(t, "Kind") {
		if kind == "" || hints[name] == "" {
			t.Fatalf("%s has no value, or no hint in package token", name)
		}
		kinds[kind] = hints[name]
	}
	return kinds
}
