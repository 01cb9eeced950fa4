package gateway

// The code in the documents. Those in Chinese have the same, which the project's own
// tests see to.

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Block is the one block of code in a language, in README.md and docs/, that has all
// words in it.
func Block(t testing.TB, language string, words ...string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(Root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range append(files, filepath.Join(Root, "README.md")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
			if hasAll(m[1], words) {
				found = append(found, m[1])
			}
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d blocks of %s in the documents have %q in them", len(found), language, words)
	}
	return found[0]
}

func hasAll(text string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}
