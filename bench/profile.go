package main

// A profile of one contender in one cell.

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/bench/load"
)

// profile writes where CPU time goes, and what is allocated, into dir.
func (r *rig) profile(ctx context.Context, o options, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name, cell := o.contenders[0], chosenCells(o.cells)[0]
	c, err := r.startCaddy(ctx, name)
	if err != nil {
		return err
	}
	if err := r.await(ctx, c); err != nil {
		return err
	}
	saved := make(chan error, 1)
	result, err := r.load(ctx, c, load.Options{
		Method: cell.method, Size: cell.size, Concurrency: cell.concurrency,
		WarmUp: time.Second, Duration: o.duration,
	}, func() {
		go func() { saved <- save(c, dir, fmt.Sprintf("%s-%s", name, cell), o.duration-time.Second) }()
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s in %s: %.0f requests a second, %.1f µs of CPU time each\n", name, cell,
		result.Work/result.Seconds, float64(result.Gateway)/1e3/result.Work)
	return <-saved
}

func save(c *contender, dir, name string, duration time.Duration) error {
	for _, p := range []struct{ kind, path string }{
		{"cpu", fmt.Sprintf("profile?seconds=%d", max(1, int(duration.Seconds())))},
		{"allocs", "allocs"}, // since the start
	} {
		file := filepath.Join(dir, name+"."+p.kind+".pprof")
		if err := download(c.admin+"/debug/pprof/"+p.path, file); err != nil {
			return fmt.Errorf("taking profile: %w", err)
		}
		fmt.Println(file)
	}
	return nil
}

func download(url, file string) error {
	res, err := http.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, res.Body); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
