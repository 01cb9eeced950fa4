// Package recipes runs the code that the documents have for callers without an SDK,
// and their commands for a gateway without a config file: each must bring a picture
// back as it went up.
package recipes

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
)

func TestMain(m *testing.M) { gateway.Main(m) }

// documented is where the documents' gateway is.
const documented = "http://localhost:8080"

// recipe is a block of code: its language, a word that no other block has in it, what
// becomes of it, and how it is run.
type recipe struct {
	language, word string
	file           string
	program        func(block string) string
	command        []string
}

var recipes = []recipe{
	{"python", "requests", "recipe.py", asItIs, []string{python(), "recipe.py"}},
	{"php", "CURLFile", "recipe.php", asItIs, []string{"php", "recipe.php"}},
	{"java", "HttpClient.newHttpClient", "Recipe.java", inClass, []string{"java", "Recipe.java"}},
	{"js", "openAsBlob", "recipe.mjs", asItIs, []string{"node", "recipe.mjs"}},
}

// python is the interpreter that the environment names, or the system's.
func python() string {
	if p := os.Getenv("PYTHON"); p != "" {
		return p
	}
	return "python3"
}

func asItIs(block string) string { return block }

func inClass(block string) string {
	return "import java.net.URI; import java.net.http.*; import java.nio.file.Path;\n" +
		"import java.net.http.HttpRequest.BodyPublishers; import java.net.http.HttpResponse.BodyHandlers;\n" +
		"class Recipe { public static void main(String[] args) throws Exception {\n" + block + "} }\n"
}

func TestLanguages(t *testing.T) {
	g := gateway.Site{}.Start(t)
	for _, r := range recipes {
		t.Run(r.language, func(t *testing.T) { r.run(t, g.HTTP) })
	}
}

// run has the recipe bring a picture back from the gateway at a URL. The picture is
// one of Go's own, from its source tree.
func (r recipe) run(t *testing.T, url string) {
	t.Helper()
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	picture, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(goroot)), "src/image/testdata/video-001.jpeg"))
	if err != nil {
		t.Fatal(err)
	}
	block := gateway.Block(t, r.language, r.word)
	if !strings.Contains(block, documented) {
		t.Fatalf("the block has no %s in it", documented)
	}
	dir := t.TempDir()
	program := r.program(strings.ReplaceAll(block, documented, url))
	for name, content := range map[string][]byte{r.file: []byte(program), "photo.jpg": picture} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), r.command[0], r.command[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	back, err := os.ReadFile(filepath.Join(dir, "back.jpg"))
	if err != nil || !bytes.Equal(back, picture) {
		t.Errorf("%d bytes came back, %d went up, %v", len(back), len(picture), err)
	}
}

var withoutConfig = regexp.MustCompile(`(?m)^go run \./cmd/caddy (wechat-media .*)$`)

// A gateway without a config file, started as the documents say but for its address.
func TestCommands(t *testing.T) {
	js := recipes[len(recipes)-1]
	for name, words := range map[string][]string{"README.md": {"--sandbox"}, "docs/wecom.md": {"--sandbox", "--wecom"}} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(gateway.Root, name))
			if err != nil {
				t.Fatal(err)
			}
			m := withoutConfig.FindSubmatch(text)
			if m == nil {
				t.Fatal("there is no command wechat-media")
			}
			args := strings.Fields(string(m[1]))
			for _, word := range words {
				if !strings.Contains(string(m[1]), word) {
					t.Errorf("%s has no %s", m[1], word)
				}
			}
			address := loopback.FreeAddr(t)
			gateway.Start(t, gateway.Config{Args: append(args, "--listen", address), URL: "http://" + address})
			js.run(t, "http://"+address)
		})
	}
}
