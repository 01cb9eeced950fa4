//go:build unix

package wechatmedia

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFileIsNone(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{dir: "not a regular file", pipe: "not a regular file", filepath.Join(dir, "none"): "no such file"} {
		s := FileTokenSource{Path: path}
		mustProvision(t, &s)
		if _, err := s.FetchToken(t.Context(), TokenRequest{}); err == nil || !strings.Contains(err.Error(), text) || classify(err).kind != failureFile {
			t.Errorf("%s: got %v", path, err)
		}
	}
}
