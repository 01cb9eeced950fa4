package wechatmedia

// What the documents have people copy: every configuration is a valid one, all Go
// compiles, and every command is run by something.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// checkedBy says what checks the blocks of each language. A block of text is output,
// or a grammar.
var checkedBy = map[string]string{
	"sh":        "commandTests",
	"caddyfile": "TestDocumentsConfigurations",
	"json":      "TestDocumentsConfigurations",
	"go":        "TestDocumentsGo, integration/silenceper",
	"js":        "integration/node, integration/recipes",
	"python":    "integration/recipes",
	"php":       "integration/recipes",
	"java":      "integration/recipes",
	"text":      "",
	"mermaid":   "",
}

// commandTests has every command of the documents, and what runs it, or does what it
// would where it cannot be run: docker, kubectl and systemctl.
var commandTests = map[string]string{
	"go run ./cmd/caddy run --config example.Caddyfile":                 ".ci/readme",
	`cp "$(go env GOROOT)/src/image/testdata/video-001.jpeg" photo.jpg`: ".ci/readme",
	"curl -F media=@photo.jpg http://localhost:8080/media":              ".ci/readme",
	"media_id=MEDIA_ID": ".ci/readme",
	`curl -f -o back.jpg "http://localhost:8080/media/$media_id"`:                 ".ci/readme",
	`curl -X POST "http://127.0.0.1:8081/sandbox/revoke?appid=wxsandbox00000000"`: ".ci/readme",
	"curl http://localhost:2019/wechat/tokens":                                    ".ci/readme",
	"go run ./cmd/caddy wechat-media --sandbox":                                   "integration/recipes/run.sh",
	"go run ./cmd/caddy wechat-media --wecom --sandbox":                           "integration/recipes/run.sh",
	"go test -race ./...": ".ci/run",
	"go tool xcaddy build v2.11.9 --with github.com/caddy-wechat/caddy-wechat-media@v0.0.0=.":                                             ".ci/run",
	"(cd command && go mod init example.com/command)":                                                                                     "deploy/check/image_test.go",
	"go tool xcaddy build v2.11.9 --with github.com/caddy-wechat/caddy-wechat-media@v0.0.0=. --with example.com/command@v0.0.0=./command": "deploy/check/image_test.go",
	"bench/run.sh": ".ci/run",
	"./caddy validate --envfile gateway.env --config Caddyfile":                                                                    "deploy/check/production_test.go",
	"./caddy run --envfile gateway.env --config Caddyfile":                                                                         "deploy/check/production_test.go",
	`curl -H "Authorization: Bearer $GATEWAY_KEY" -F media=@photo.jpg https://media.example.com/media`:                             "deploy/check/production_test.go",
	"caddy reload --config /etc/caddy/Caddyfile --force":                                                                           "deploy/check/production_test.go",
	"docker build -f deploy/Dockerfile -t caddy-wechat-media .":                                                                    "deploy/check/image_test.go",
	`docker build -f deploy/Dockerfile --build-arg MODULES="github.com/pberkel/caddy-storage-redis" -t caddy-wechat-media:redis .`: "deploy/check/image_test.go",
	"docker compose up --build --detach --wait":                                                                                    "deploy/check/image_test.go",
	"kubectl apply -f deploy/kubernetes/gateway.yaml":                                                                              "deploy/check/manifests_test.go",
	"cp deploy/systemd/caddy-wechat-media.service /etc/systemd/system/":                                                            "deploy/check.sh",
	"systemctl daemon-reload":                   "deploy/check.sh",
	"systemctl enable --now caddy-wechat-media": "deploy/check.sh",
	`curl -X POST "http://localhost:2019/wechat/tokens/refresh?app_id=$WECHAT_APP_ID"`: "deploy/check/production_test.go",
}

// A command that nothing runs may be wrong, and so may one that breaks when it is
// pasted: a shell takes <media_id> for a file.
func TestDocumentsCommandsAreRun(t *testing.T) {
	seen := make(map[string]bool)
	for _, file := range documents(t) {
		for language, blocks := range codeBlocks(t, file) {
			if language == "sh" {
				for _, block := range blocks {
					checkCommands(t, file, block, seen)
				}
			}
		}
	}
	for command, test := range commandTests {
		if !seen[command] {
			t.Errorf("no document has %s", command)
		}
		if _, err := os.Stat(test); err != nil {
			t.Errorf("%s is run by %s, which is not there", command, test)
		}
	}
}

func checkCommands(t *testing.T, file, block string, seen map[string]bool) {
	t.Helper()
	for line := range strings.Lines(block) {
		command := strings.TrimSuffix(line, "\n")
		seen[command] = true
		if commandTests[command] == "" {
			t.Errorf("%s: nothing runs %s", file, command)
		}
		if regexp.MustCompile(`<\w+>|…`).MatchString(command) {
			t.Errorf("%s: a shell does not take %s", file, command)
		}
	}
}

// codeBlocks returns the fenced blocks of a Markdown file, by language.
func codeBlocks(t *testing.T, file string) map[string][]string {
	t.Helper()
	blocks := make(map[string][]string)
	for _, m := range fence.FindAllStringSubmatch(readText(t, file), -1) {
		blocks[m[1]] = append(blocks[m[1]], m[2])
	}
	return blocks
}

// secretFile is where the documents have a secret.
const secretFile = "/etc/caddy-wechat-media/app_secret"

// Every configuration in the documents is a valid one, as it stands.
func TestDocumentsConfigurations(t *testing.T) {
	for name, value := range map[string]string{
		"WECHAT_APP_ID": testAppID, "WECHAT_APP_SECRET": testSecret, "GATEWAY_KEY": "key",
		"WECOM_CORP_ID": "ww0123456789abcdef", "WECOM_AGENT_ID": "1000002",
		"WECOM_SECRET": testSecret, "WECOM_SECRET_SALES": testSecret, "WECOM_SECRET_SERVICE": testSecret,
	} {
		t.Setenv(name, value)
	}
	secret := filepath.Join(t.TempDir(), "app_secret")
	if err := os.WriteFile(secret, []byte(testSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for english := range translations(t) {
		blocks := codeBlocks(t, english)
		for language := range blocks {
			if _, ok := checkedBy[language]; !ok {
				t.Errorf("%s: nothing checks blocks of %q", english, language)
			}
		}
		for _, block := range blocks["caddyfile"] {
			checked++
			if err := validate(t, strings.ReplaceAll(block, secretFile, secret)); err != nil {
				t.Errorf("%s:\n%s\n%v", english, block, err)
			}
		}
		for _, block := range blocks["json"] {
			checked++
			config := fmt.Sprintf(`{"apps":{"http":{"servers":{"srv0":{"listen":["127.0.0.1:0"],"routes":[{"handle":[%s]}]}}}}}`, block)
			if err := validateJSON(t, []byte(config)); err != nil {
				t.Errorf("%s:\n%s\n%v", english, block, err)
			}
		}
	}
	if checked < 14 {
		t.Errorf("only %d configurations were found", checked)
	}
}

// Whole programs among the Go code compile. What is only a part of one is run by
// integration/silenceper.
func TestDocumentsGo(t *testing.T) {
	checked := 0
	for english := range translations(t) {
		for _, block := range codeBlocks(t, english)["go"] {
			if !strings.Contains(block, "\npackage ") && !strings.HasPrefix(block, "package ") {
				continue
			}
			checked++
			file := filepath.Join(t.TempDir(), "document_test.go")
			if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", english, err, out)
			}
			if out, err := exec.Command("gofmt", "-l", file).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s: not formatted: %v %s", english, err, out)
			}
		}
	}
	if checked < 2 {
		t.Errorf("only %d programs were found", checked)
	}
}

// The README has the grammar of the directive, option by option, as its source does.
func TestREADMEHasEveryOption(t *testing.T) {
	words := func(text, line string) (all []string) {
		for _, m := range regexp.MustCompile(line).FindAllStringSubmatch(text, -1) {
			if !slices.Contains(all, m[1]) {
				all = append(all, m[1])
			}
		}
		slices.Sort(all)
		return all
	}
	comment := regexp.MustCompile(`(?s)wechat_media \[<matcher>\].*?every subdirective of reverse_proxy`).FindString(readText(t, "caddyfile.go"))
	source := words(comment, `(?m)^//\t(?:    )+([a-z_]+)`)
	var grammar string
	for _, block := range codeBlocks(t, "README.md")["text"] {
		if strings.HasPrefix(block, "wechat_media ") {
			grammar = block
		}
	}
	if len(source) < 8 {
		t.Fatalf("only %q were found in caddyfile.go", source)
	}
	if got := words(grammar, `(?m)^\t+([a-z_]+)`); !slices.Equal(got, source) {
		t.Errorf("README.md has the options %q, caddyfile.go %q", got, source)
	}
}
