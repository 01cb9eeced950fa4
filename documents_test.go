package wechatmedia

// What must hold of the documents as texts: their length, their links, and that
// both languages say the same. What they have people run is in readme_test.go.

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/caddy-wechat/caddy-wechat-media/internal/errcode"
	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/token"
)

const (
	mostLinesOfREADME = 220
	mostLinesOfPage   = 200
)

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents are all Markdown files of the project, by their path.
func documents(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return fs.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// translations are the documents that there are in both languages, with the
// Chinese one of each.
func translations(t *testing.T) map[string]string {
	t.Helper()
	pairs := map[string]string{"README.md": "README.zh-CN.md", "deploy/README.md": "deploy/README.zh-CN.md"}
	for _, folder := range []string{"docs", "docs/zh-CN"} {
		pages, _ := filepath.Glob(folder + "/*.md")
		if len(pages) < 11 {
			t.Fatalf("%s has only %d pages", folder, len(pages))
		}
		for _, page := range pages {
			pairs["docs/"+filepath.Base(page)] = "docs/zh-CN/" + filepath.Base(page)
		}
	}
	return pairs
}

func TestDocumentsAreShort(t *testing.T) {
	for english, chinese := range translations(t) {
		if strings.HasPrefix(english, "deploy/") {
			continue // an entry for each alert
		}
		most := mostLinesOfPage
		if english == "README.md" {
			most = mostLinesOfREADME
		}
		for _, file := range []string{english, chinese} {
			if n := strings.Count(readText(t, file), "\n"); n > most {
				t.Errorf("%s has %d lines, more than %d", file, n, most)
			}
		}
	}
}

var (
	fence    = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
	comment  = regexp.MustCompile(`(?s)<!--.*?-->`)
	heading  = regexp.MustCompile(`(?m)^(#+) (.+)$`)
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	codeSpan = regexp.MustCompile("`[^`]*`")
	linkText = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// prose is a document without its blocks of code.
func prose(text string) string { return fence.ReplaceAllString(text, "") }

// anchors are the names that GitHub gives to a document's headings.
func anchors(text string) []string {
	var all []string
	for _, m := range heading.FindAllStringSubmatch(prose(text), -1) {
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsNumber(r), unicode.IsMark(r):
				return unicode.ToLower(r)
			}
			return -1
		}, linkText.ReplaceAllString(m[2], "$1"))
		for n, first := 1, name; slices.Contains(all, name); n++ {
			name = fmt.Sprintf("%s-%d", first, n)
		}
		all = append(all, name)
	}
	return all
}

// Every link within the project leads somewhere: to a file, and to a heading in it.
func TestLinksLeadSomewhere(t *testing.T) {
	checked := 0
	for _, file := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(prose(readText(t, file)), "`"), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			checked++
			path, anchor, _ := strings.Cut(m[1], "#")
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", file, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(readText(t, target)), anchor) {
				t.Errorf("%s: %s: there is no such heading", file, m[1])
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d links were found", checked)
	}
}

// A Chinese page links to Chinese pages, where there are any.
func TestChinesePagesLinkToChinesePages(t *testing.T) {
	pairs := translations(t)
	for english, chinese := range pairs {
		for _, m := range link.FindAllStringSubmatch(prose(readText(t, chinese)), -1) {
			path, _, _ := strings.Cut(m[1], "#")
			if target := filepath.Join(filepath.Dir(chinese), path); pairs[target] != "" && target != english {
				t.Errorf("%s links to %s", chinese, m[1])
			}
		}
	}
}

// shape is what a document and its translation have in common: headings, lines of
// tables, and code, in their order.
func shape(text string) []string {
	var all []string
	diagram, inFence := false, false
	for line := range strings.Lines(comment.ReplaceAllString(text, "")) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			diagram = line == "```mermaid" || diagram && line != "```"
			inFence = !inFence
			all = append(all, line)
		case inFence && !diagram:
			all = append(all, line)
		case inFence:
		case strings.HasPrefix(line, "#"):
			all = append(all, line[:strings.Index(line, " ")])
		case strings.HasPrefix(line, "|"):
			all = append(all, fmt.Sprintf("a row of %d", strings.Count(line, "|")))
		}
	}
	return all
}

func TestBothLanguagesHaveTheSame(t *testing.T) {
	for english, chinese := range translations(t) {
		e, c := shape(readText(t, english)), shape(readText(t, chinese))
		for i := range min(len(e), len(c)) {
			if e[i] != c[i] {
				t.Errorf("%s and its translation differ:\n%s\n%s", english, e[i], c[i])
				break
			}
		}
		if len(e) != len(c) {
			t.Errorf("%s has %d headings, rows and lines of code, its translation %d", english, len(e), len(c))
		}
	}
}

// What the documents name is there, under that name and in that version.
func TestDocumentsNameWhatThereIs(t *testing.T) {
	sources, _ := filepath.Glob("*.go")
	for _, source := range sources {
		if !strings.HasSuffix(source, "_test.go") && !strings.Contains(readText(t, "CONTRIBUTING.md"), "`"+source+"`") {
			t.Errorf("CONTRIBUTING.md does not have %s", source)
		}
	}
	tests := allTests(t)
	for _, name := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(readText(t, "SECURITY.md"), -1) {
		if !strings.Contains(tests, "func "+name[1]+"(") {
			t.Errorf("SECURITY.md names %s, which is no test", name[1])
		}
	}
	examples, _ := filepath.Glob("examples/*.Caddyfile")
	for _, example := range examples {
		if !strings.Contains(readText(t, "docs/examples.md"), "../"+example+")") {
			t.Errorf("docs/examples.md does not have %s", example)
		}
	}
	version := func(file, before string) string {
		m := regexp.MustCompile(regexp.QuoteMeta(before) + `\s*"?(v?[\d.]+)`).FindStringSubmatch(readText(t, file))
		if m == nil {
			t.Fatalf("%s has no version of %s", file, before)
		}
		return m[1]
	}
	caddyVersion := version("go.mod", "github.com/caddyserver/caddy/v2")
	goVersion := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindStringSubmatch(readText(t, "go.mod"))[1]
	for _, named := range []struct{ file, text string }{
		{"README.md", "Go " + goVersion + " "},
		{"README.md", "xcaddy build " + caddyVersion + " "},
		{"docs/token-source.md", "xcaddy build " + caddyVersion + " "},
		{"deploy/Dockerfile", "golang:" + goVersion + "-"},
		{"deploy/Dockerfile", "xcaddy build " + caddyVersion + " "},
		{"deploy/Dockerfile", "caddy:" + caddyVersion[1:] + "\n"},
		{"docs/sdks.md", "running " + version("integration/go.mod", "github.com/silenceper/wechat/v2") + " "},
		{"docs/sdks.md", "running " + version("integration/node/package.json", `"co-wechat-api":`) + " "},
	} {
		if !strings.Contains(readText(t, named.file), named.text) {
			t.Errorf("%s does not have %q", named.file, named.text)
		}
	}
}

// The page about writing a token source has every field that there is.
func TestTokenSourcePageHasEveryField(t *testing.T) {
	page := readText(t, "docs/token-source.md")
	for _, of := range []reflect.Type{reflect.TypeFor[token.Request](), reflect.TypeFor[token.Traits]()} {
		for i := range of.NumField() {
			if name := of.Field(i).Name; !regexp.MustCompile("(?m)^\\|[^|]*`" + name + "`").MatchString(page) {
				t.Errorf("docs/token-source.md does not have %s of %s", name, of)
			}
		}
	}
}

// The pages about errors have every errcode that means something, and say of which
// the operator is told.
func TestErrorPagesHaveEveryErrcode(t *testing.T) {
	check := func(where, text string, code int) {
		t.Helper()
		if !slices.Contains(regexp.MustCompile(`\d+`).FindAllString(text, -1), strconv.Itoa(code)) {
			t.Errorf("%s does not have %d", where, code)
		}
	}
	for _, folder := range []string{"docs/", "docs/zh-CN/"} {
		page := readText(t, folder+"errors.md")
		told := regexp.MustCompile(`(?m)^(Some|有些) errcode.*$`).FindString(page)
		for code := 1; code < 100_000; code++ {
			meaning := errcode.Of(code)
			if meaning != errcode.Of(-2) { // one that nobody knows
				check(folder+"errors.md", page, code)
			}
			if meaning.Todo != "" {
				check("what "+folder+"errors.md says is logged", told, code)
			}
		}
		for code := range platform.WeCom.Errcodes {
			check(folder+"wecom.md", readText(t, folder+"wecom.md"), code)
		}
	}
}

// allTests is the text of every test in Go.
func allTests(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			all.WriteString(readText(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// Every module of the repository is kept up to date.
func TestDependabotKnowsEveryModule(t *testing.T) {
	config := readText(t, ".github/dependabot.yml")
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "node_modules" {
			return fs.SkipDir
		}
		if folder := filepath.ToSlash(filepath.Dir(path)); filepath.Base(path) == "go.mod" || filepath.Base(path) == "package.json" {
			if !strings.Contains(config, " /"+strings.TrimPrefix(folder, ".")+"\n") {
				t.Errorf(".github/dependabot.yml does not have /%s", folder)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
