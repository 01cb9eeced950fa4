package wechatmedia

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every block in the READMEs is in a language that something runs or checks, or is
// text: what it does is not for a machine without a network.
func TestREADMEsHaveNothingUnchecked(t *testing.T) {
	checkedBy := map[string]string{
		"sh":         ".ci/readme, .ci/run, integration/recipes",
		"caddyfile":  "TestREADMEs",
		"json":       "TestREADMEs",
		"dockerfile": "here",
		"go":         "integration/silenceper",
		"js":         "integration/node, integration/recipes",
		"python":     "integration/recipes",
		"php":        "integration/recipes",
		"java":       "integration/recipes",
		"text":       "",
		"mermaid":    "",
	}
	blocks := codeBlocks(t, "README.md")
	for language := range blocks {
		if _, ok := checkedBy[language]; !ok {
			t.Errorf("nothing checks blocks of %s", language)
		}
	}
	if !slices.Equal(blocks["dockerfile"], []string{readText(t, "deploy/Dockerfile")}) {
		t.Error("the README's Dockerfile is not deploy/Dockerfile")
	}
}

// What the documents name is there, under that name and in that version.
func TestDocumentsNameWhatThereIs(t *testing.T) {
	for _, file := range []string{"README.md", "README.zh-CN.md", "SECURITY.md", "CONTRIBUTING.md"} {
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(readText(t, file), -1) {
			if _, err := os.Stat(m[1]); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	sources, _ := filepath.Glob("*.go")
	for _, source := range sources {
		if !strings.HasSuffix(source, "_test.go") && !strings.Contains(readText(t, "CONTRIBUTING.md"), "`"+source+"`") {
			t.Errorf("CONTRIBUTING.md does not have %s", source)
		}
	}
	tests, _ := filepath.Glob("*_test.go")
	var all strings.Builder
	for _, test := range tests {
		all.WriteString(readText(t, test))
	}
	for _, name := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(readText(t, "SECURITY.md"), -1) {
		if !strings.Contains(all.String(), "func "+name[1]+"(") {
			t.Errorf("SECURITY.md names %s, which is no test", name[1])
		}
	}
	examples, _ := filepath.Glob("examples/*.Caddyfile")
	goVersion := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindStringSubmatch(readText(t, "go.mod"))[1]
	version := func(file, before string) string {
		m := regexp.MustCompile(regexp.QuoteMeta(before) + `\s*"?(v?[\d.]+)`).FindStringSubmatch(readText(t, file))
		if m == nil {
			t.Fatalf("%s has no version of %s", file, before)
		}
		return m[1]
	}
	caddyVersion := version("go.mod", "github.com/caddyserver/caddy/v2")
	want := append(examples,
		"| Go | "+goVersion+" |",
		"| Caddy | "+caddyVersion+" |",
		"xcaddy build "+caddyVersion+" ",
		"| "+version("integration/silenceper/go.mod", "github.com/silenceper/wechat/v2")+" |",
		"| "+version("integration/node/package.json", `"co-wechat-api":`)+" |")
	for _, file := range []string{"README.md", "README.zh-CN.md"} {
		for _, text := range want {
			if !strings.Contains(readText(t, file), text) {
				t.Errorf("%s does not have %s", file, text)
			}
		}
	}
}
