package main

// The rig: the upstream and the load, each a process of its own.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/caddy-wechat/caddy-wechat-media/bench/load"
	"github.com/caddy-wechat/caddy-wechat-media/bench/upstream"
)

type rig struct {
	pin     bool
	self    string // this program
	gateway string // Caddy with the plugin and what the benchmark adds
	nginx   string // empty: not installed
	dir     string // for files that do not outlive the rig

	upstream    upstream.Server
	upstreamPID int
	caFile      string
	tokenFile   string

	running []*process
	closing []func()
}

// newRig starts the upstream. self is this program.
func newRig(ctx context.Context, self, gateway string, pin bool) (*rig, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	r := &rig{pin: pin, self: self, gateway: gateway, nginx: findNginx(), dir: dir}
	if err := r.startUpstream(ctx); err != nil {
		r.close()
		return nil, fmt.Errorf("starting upstream: %w", err)
	}
	return r, nil
}

// close ends all that was started.
func (r *rig) close() {
	for _, p := range r.running {
		p.stop()
	}
	for _, f := range r.closing {
		f()
	}
	_ = os.RemoveAll(r.dir)
}

// startUpstream starts the process, which ends when its input does.
func (r *rig) startUpstream(ctx context.Context) error {
	cmd := r.command(ctx, otherCore, r.self, "upstream")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.closing = append(r.closing, func() { _ = in.Close(); _ = cmd.Wait() })
	r.upstreamPID = cmd.Process.Pid
	if err := json.NewDecoder(out).Decode(&r.upstream); err != nil {
		return err
	}
	r.caFile, r.tokenFile = filepath.Join(r.dir, "ca.pem"), filepath.Join(r.dir, "token")
	return errors.Join(
		os.WriteFile(r.caFile, []byte(r.upstream.CA), 0o600),
		os.WriteFile(r.tokenFile, []byte(r.upstream.Token), 0o600))
}

// load runs the callers. started, if not nil, is called when the measurement
// begins.
func (r *rig) load(ctx context.Context, c *contender, o load.Options, started func()) (*load.Result, error) {
	o.URL, o.Upstream, o.Gateway = c.url, r.upstreamPID, c.pids()
	o.CA, o.Token, o.Control = r.upstream.CA, r.upstream.Token, r.upstream.Control
	core := otherCore
	if c.proc == nil {
		core = gatewayCore // a caller without a gateway has that core to itself
	}
	in, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	cmd := r.command(ctx, core, r.self, "load")
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	result, err := readResult(out, started)
	if waitErr := cmd.Wait(); waitErr != nil || err != nil {
		return nil, fmt.Errorf("loading %s: %w: %s", c.name, errors.Join(waitErr, err), complaint.String())
	}
	return result, nil
}

func readResult(out io.Reader, started func()) (*load.Result, error) {
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		return nil, fmt.Errorf("waiting for the start: %w", err)
	}
	if started != nil {
		started()
	}
	result := new(load.Result)
	return result, json.NewDecoder(lines).Decode(result)
}

// status is what the upstream has counted.
func (r *rig) status() (s upstream.Status, err error) {
	res, err := http.Get(r.upstream.Control + "/status")
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	return s, json.NewDecoder(res.Body).Decode(&s)
}

// control asks something of the upstream.
func (r *rig) control(path string) error { return load.Control(r.upstream.Control, path) }

// runUpstream is the process of the upstream.
func runUpstream() error {
	s, err := upstream.Start()
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// runLoad is the process of the callers.
func runLoad() error {
	var o load.Options
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	o.Started = func() { fmt.Println() }
	result, err := load.Run(o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}
