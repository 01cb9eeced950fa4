package main

// Processes under test: which core they have, their end, and their memory.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The cores, if processes are pinned: one for the gateway, the other for all else.
const (
	gatewayCore = "0"
	otherCore   = "1"
)

// command is name with args on a core.
func (r *rig) command(ctx context.Context, core, name string, args ...string) *exec.Cmd {
	if r.pin {
		args = append([]string{"-c", core, name}, args...)
		name = "taskset"
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// process is a gateway that runs.
type process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
	err  error         // how, when done is closed
}

// start starts cmd with its output in a file.
func start(cmd *exec.Cmd, logFile string) (*process, error) {
	log, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", cmd.Path, err), log.Close())
	}
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	return p, nil
}

// stop ends the process, if it has not ended, and waits for that.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	_ = p.log.Close()
}

// output is the end of what the process has logged.
func (p *process) output() string {
	b, _ := os.ReadFile(p.log.Name())
	return string(b[max(0, len(b)-4000):])
}

// pids are the process and its children, nginx's workers.
func (p *process) pids() []int {
	pid := p.cmd.Process.Pid
	pids := []int{pid}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, field := range bytes.Fields(children) {
		if child, err := strconv.Atoi(string(field)); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// forgetPeak makes the current memory of the processes their peak.
func forgetPeak(pids []int) error {
	for _, pid := range pids {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			return fmt.Errorf("resetting peak memory: %w", err)
		}
	}
	return nil
}

// peakKiB is the peak of resident memory, all processes together.
func peakKiB(pids []int) (sum int64, err error) {
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, fmt.Errorf("reading peak memory: %w", err)
		}
		_, line, _ := strings.Cut(string(status), "VmHWM:")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			return 0, fmt.Errorf("reading peak memory: process %d has none", pid)
		}
		kib, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading peak memory: %w", err)
		}
		sum += kib
	}
	return sum, nil
}
