package main

// The rounds: every contender in every cell, again and again, so that what else
// the machine does strikes all alike.

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/bench/load"
	"github.com/caddy-wechat/caddy-wechat-media/bench/report"
)

const warmUp = 300 * time.Millisecond

// rounds measures.
func (r *rig) rounds(ctx context.Context, o options) (out []report.Measurement, err error) {
	chosen := chosenCells(o.cells)
	if len(chosen) == 0 {
		return nil, nil
	}
	for round := range o.rounds {
		measured, err := r.round(ctx, o, round, chosen)
		if err != nil {
			return nil, err
		}
		out = append(out, measured...)
	}
	return out, nil
}

// round has all contenders started anew: what one cell leaves behind, idle
// connections above all, is the same in every round. Contenders that are compared
// follow upon each other, and take turns in who is first.
func (r *rig) round(ctx context.Context, o options, round int, chosen []cell) (out []report.Measurement, err error) {
	all, err := r.begin(ctx, o.contenders)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		defer c.end()
		if err := r.await(ctx, c); err != nil {
			return nil, err
		}
	}
	for i, cell := range chosen {
		fmt.Fprintf(os.Stderr, "round %d of %d, %s\n", round+1, o.rounds, cell)
		for j := range all {
			c := all[(i+j+round)%len(all)]
			if !c.takes(cell) {
				continue
			}
			m, err := r.measure(ctx, c, cell, o.duration)
			if err != nil {
				return nil, fmt.Errorf("measuring %s in %s: %w", c.name, cell, err)
			}
			m.Round = round + 1
			out = append(out, *m)
		}
	}
	return out, nil
}

func chosenCells(patterns []string) (chosen []cell) {
	for _, c := range cells() {
		if matches(patterns, c.String()) {
			chosen = append(chosen, c)
		}
	}
	return chosen
}

// await waits until c has answered once.
func (r *rig) await(ctx context.Context, c *contender) error {
	method := "GET"
	if !c.takes(cell{method: method}) {
		method = "POST"
	}
	_, err := r.load(ctx, c, load.Options{Method: method, Size: 100, Concurrency: 1, Cold: c.proc != nil}, nil)
	if err != nil && c.proc != nil {
		return fmt.Errorf("%w\n%s", err, c.proc.output())
	}
	return err
}

func (r *rig) measure(ctx context.Context, c *contender, cell cell, duration time.Duration) (*report.Measurement, error) {
	if err := c.ready(); err != nil {
		return nil, err
	}
	result, err := r.load(ctx, c, load.Options{
		Method: cell.method, Size: cell.size, Concurrency: cell.concurrency, WarmUp: warmUp, Duration: duration,
	}, nil)
	if err != nil {
		return nil, err
	}
	peak, err := peakKiB(c.pids())
	if err != nil {
		return nil, err
	}
	return &report.Measurement{Cell: cell.String(), Contender: c.name, PeakKiB: peak, Result: result}, nil
}
