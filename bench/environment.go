package main

// Where and when figures were taken.

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-wechat/caddy-wechat-media/bench/report"
)

func (r *rig) environment(o options) report.Environment {
	e := report.Environment{
		Date: time.Now().UTC().Format(time.DateOnly), CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(),
		System: strings.Trim(field("/etc/os-release", "PRETTY_NAME"), `"`), Pinned: r.pin,
		Rounds: o.rounds, SecondsPerCell: o.duration.Seconds(), Revision: o.revision,
	}
	if kib, err := strconv.Atoi(strings.Fields(field("/proc/meminfo", "MemTotal") + " x")[0]); err == nil {
		e.MemoryGiB = (kib + 1<<19) >> 20
	}
	var uname unix.Utsname
	if unix.Uname(&uname) == nil {
		e.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(uname.Release[:]), "-")
	}
	if info, err := buildinfo.ReadFile(r.gateway); err == nil {
		e.Go = info.GoVersion
		for _, dep := range info.Deps {
			if dep.Path == "github.com/caddyserver/caddy/v2" {
				e.Caddy = dep.Version
			}
		}
	}
	if r.nginx != "" {
		out, _ := exec.Command(r.nginx, "-v").CombinedOutput()
		_, version, _ := strings.Cut(strings.TrimSpace(string(out)), "nginx/")
		e.Nginx = version
	}
	return e
}

// field is the value of the first line in file that begins with name.
func field(file, name string) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(strings.TrimLeft(rest, " \t:="))
		}
	}
	return ""
}
