package wechatmedia

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// codeBlocks returns the fenced blocks of a Markdown file, by language.
func codeBlocks(t *testing.T, file string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	blocks := make(map[string][]string)
	for _, m := range regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		blocks[m[1]] = append(blocks[m[1]], m[2])
	}
	return blocks
}

// Every configuration in the READMEs is a valid one, and the two languages show
// the same.
func TestREADMEs(t *testing.T) {
	t.Setenv("WECHAT_APP_ID", testAppID)
	t.Setenv("WECHAT_APP_SECRET", testSecret)
	english, chinese := codeBlocks(t, "README.md"), codeBlocks(t, "README.zh-CN.md")
	for language, blocks := range english {
		if language != "mermaid" && !slices.Equal(blocks, chinese[language]) {
			t.Errorf("the %s blocks differ between the READMEs", language)
		}
	}
	if len(english["caddyfile"]) < 4 || len(english["json"]) < 1 || len(english["sh"]) < 5 {
		t.Errorf("only %d, %d and %d blocks were found", len(english["caddyfile"]), len(english["json"]), len(english["sh"]))
	}
	for _, block := range english["caddyfile"] {
		if err := validate(t, block); err != nil {
			t.Errorf("%s\n%v", block, err)
		}
	}
	for _, block := range english["json"] {
		config := fmt.Sprintf(`{"apps":{"http":{"servers":{"srv0":{"listen":["127.0.0.1:0"],"routes":[{"handle":[%s]}]}}}}}`, block)
		if err := validateJSON(t, []byte(config)); err != nil {
			t.Errorf("%s\n%v", block, err)
		}
	}
	headings := regexp.MustCompile(`(?m)^(#+ |\|.*\|$)`)
	count := func(file string) int {
		text, _ := os.ReadFile(file)
		return len(headings.FindAll(text, -1))
	}
	if e, c := count("README.md"), count("README.zh-CN.md"); e != c {
		t.Errorf("the READMEs have %d and %d headings and lines of tables", e, c)
	}
}

// Every option of the directive is in both READMEs.
func TestREADMEsHaveEveryOption(t *testing.T) {
	source, err := os.ReadFile("caddyfile.go")
	if err != nil {
		t.Fatal(err)
	}
	options := regexp.MustCompile(`(?m)^\tcase "(\w+)":$`).FindAllStringSubmatch(string(source), -1)
	if len(options) < 8 {
		t.Fatalf("only %d options were found", len(options))
	}
	for _, file := range []string{"README.md", "README.zh-CN.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, option := range options {
			if !strings.Contains(string(text), option[1]) {
				t.Errorf("%s does not have %s", file, option[1])
			}
		}
	}
}
