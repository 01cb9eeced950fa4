package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/bench/report"
)

var self, gateway string // the rig starts itself again, for the upstream and the callers

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		panic(err)
	}
	self, gateway = filepath.Join(dir, "bench"), filepath.Join(dir, "gateway")
	for out, pkg := range map[string]string{self: ".", gateway: "./gateway"} {
		if out, err := exec.Command("go", "build", "-o", out, pkg).CombinedOutput(); err != nil {
			panic(fmt.Sprintf("building %s: %v\n%s", pkg, err, out))
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// All contenders in some cells, briefly: it is about the rig, not about figures.
func TestRig(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r, err := newRig(ctx, self, gateway, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	o := options{rounds: 2, duration: 50 * time.Millisecond, cells: []string{"get-100-1", "get-2097152-32", "post-339721-32"}}

	found, err := r.rounds(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, m := range found {
		seen[m.Contender]++
		if m.Seconds <= 0 || m.First.Requests == 0 || m.Contender != direct && (m.PeakKiB <= 0 || m.Gateway <= 0) {
			t.Errorf("%s in %s: %+v", m.Contender, m.Cell, m.Result)
		}
	}
	for _, name := range contenders {
		want := 2 * 3
		switch {
		case r.nginx == "" && (name == nginx || name == nginxBuffering):
			want = 0
		case name == nginxBuffering:
			want = 2 // uploads only
		}
		if seen[name] != want {
			t.Errorf("%s was measured %d times instead of %d", name, seen[name], want)
		}
	}

	start, err := r.coldStart(ctx, ours, 100, o.duration)
	if err != nil {
		t.Fatal(err)
	}
	if start.Fetches != 1 || start.First.Requests != thousand {
		t.Errorf("%d callers at a cold start had %d tokens fetched", start.First.Requests, start.Fetches)
	}
	env := r.environment(o)
	if env.Caddy == "" || env.Go == "" || env.CPU == "" || env.MemoryGiB == 0 {
		t.Errorf("environment: %+v", env)
	}
	if err := (&report.Run{Environment: env, Measurements: found}).Write(t.TempDir()); err != nil {
		t.Error(err)
	}
}

// A contender that does not do what it should ends the run.
func TestRigFindsCheats(t *testing.T) {
	r, err := newRig(t.Context(), self, gateway, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	r.upstream.Token = "not-the-upstream's"
	if _, err := r.rounds(t.Context(), options{rounds: 1, cells: []string{"get-100-1"}, contenders: []string{direct}}); err == nil {
		t.Error("direct was measured without a token")
	}
}
