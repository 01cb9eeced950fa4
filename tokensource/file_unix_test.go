//go:build unix

package tokensource

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

// A pipe that nobody writes to holds nothing up, whenever it was put there.
func TestFileIsNone(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	release := time.AfterFunc(20*time.Second, func() {
		t.Error("opening a pipe hangs")
		if f, err := os.OpenFile(pipe, os.O_RDWR, 0); err == nil {
			f.Close()
		}
	})
	defer release.Stop()
	for path, text := range map[string]string{dir: "not a regular file", pipe: "not a regular file", filepath.Join(dir, "none"): "no such file"} {
		f := File{Path: path}
		mustProvision(t, &f)
		_, err := f.Fetch(t.Context(), token.Request{})
		if kind, _ := kindOf(err); err == nil || !strings.Contains(err.Error(), text) || kind != token.KindFile || strings.Contains(err.Error(), dir) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}
