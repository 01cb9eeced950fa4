package main

// A thousand callers: at a gateway that has just been started, and while the token
// is replaced and revoked.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/bench/load"
	"github.com/caddy-wechat/caddy-wechat-media/bench/report"
)

const (
	thousand     = 1000
	thousandSize = 32 << 10

	// slowToken is a token endpoint that takes its time, in milliseconds: every
	// caller's first request has to wait for it.
	slowToken = 500

	windowLength = 2 * time.Second
	windowCount  = 32
	revokeEvery  = 8 // windows

	// shortLife of a token, in seconds, has it replaced several times meanwhile.
	shortLife = 20
)

// coldStarts starts gateways anew, with the callers waiting.
func (r *rig) coldStarts(ctx context.Context, o options) (out []report.ColdStart, err error) {
	if !matches(o.cells, coldExperiment) {
		return nil, nil
	}
	for round := 1; round <= o.rounds; round++ {
		fmt.Fprintf(os.Stderr, "round %d of %d, cold starts\n", round, o.rounds)
		for _, try := range []struct {
			contender string
			delay     int
		}{{ours, 0}, {ours, slowToken}, {tuned, 0}, {limit, 0}} {
			start, err := r.coldStart(ctx, try.contender, try.delay, o.duration)
			if err != nil {
				return nil, fmt.Errorf("starting %s cold: %w", try.contender, err)
			}
			start.Round = round
			out = append(out, *start)
		}
	}
	return out, r.control("/delay?value=0")
}

func (r *rig) coldStart(ctx context.Context, name string, delay int, duration time.Duration) (*report.ColdStart, error) {
	if err := r.control(fmt.Sprintf("/delay?value=%d", delay)); err != nil {
		return nil, err
	}
	before, err := r.status()
	if err != nil {
		return nil, err
	}
	c, err := r.startCaddy(ctx, name)
	if err != nil {
		return nil, err
	}
	defer c.end()
	result, err := r.load(ctx, c, load.Options{
		Method: "GET", Size: thousandSize, Concurrency: thousand, WarmUp: time.Second, Duration: duration, Cold: true,
	}, nil)
	if err != nil {
		return nil, err
	}
	after, err := r.status()
	if err != nil {
		return nil, err
	}
	return &report.ColdStart{
		Contender: name, TokenDelayMS: delay, Fetches: after.Fetches - before.Fetches, Result: result,
	}, nil
}

// rotation keeps callers going while tokens come and go.
func (r *rig) rotation(ctx context.Context, o options) ([]report.Window, error) {
	if !matches(o.cells, rotationExperiment) {
		return nil, nil
	}
	fmt.Fprintln(os.Stderr, "rotation of tokens")
	if err := r.control(fmt.Sprintf("/lifetime?value=%d", shortLife)); err != nil {
		return nil, err
	}
	c, err := r.startCaddy(ctx, ours)
	if err != nil {
		return nil, err
	}
	defer c.end()
	if err := r.await(ctx, c); err != nil {
		return nil, err
	}
	var windows []report.Window
	watched := make(chan error, 1)
	result, err := r.load(ctx, c, load.Options{
		Method: "GET", Size: thousandSize, Concurrency: thousand,
		WarmUp: 3 * time.Second, Duration: windowLength * windowCount, Window: windowLength,
	}, func() {
		go func() {
			var err error
			windows, err = r.watchTokens(time.Now())
			watched <- err
		}()
	})
	if err != nil {
		return nil, err
	}
	if err := <-watched; err != nil {
		return nil, fmt.Errorf("watching tokens: %w", err)
	}
	for i := range windows[:min(len(windows), len(result.Windows))] {
		windows[i].Window = result.Windows[i]
	}
	return windows, r.control("/lifetime?value=7200")
}

// watchTokens revokes tokens now and then, and says what happened in each window.
func (r *rig) watchTokens(begin time.Time) (windows []report.Window, err error) {
	before, err := r.status()
	if err != nil {
		return nil, err
	}
	for i := range windowCount {
		if i%revokeEvery == revokeEvery-1 {
			time.Sleep(windowLength / 20)
			err = r.control("/revoke")
		}
		time.Sleep(time.Until(begin.Add(time.Duration(i+1) * windowLength)))
		after, statusErr := r.status()
		if err := errors.Join(err, statusErr); err != nil {
			return nil, err
		}
		w := report.Window{
			Kind: report.Steady, Fetches: after.Fetches - before.Fetches,
			Rejected: after.Rejected - before.Rejected, Opened: after.Opened - before.Opened,
		}
		switch {
		case w.Rejected > 0:
			w.Kind = report.Revoked
		case w.Fetches > 0:
			w.Kind = report.Replaced
		}
		windows = append(windows, w)
		before = after
	}
	return windows, nil
}
