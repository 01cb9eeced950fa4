package main

// What is measured.

import (
	"fmt"
	"path"
	"strings"

	"github.com/caddy-wechat/caddy-wechat-media/bench/media"
)

// cell is one kind of request from a number of callers.
type cell struct {
	method      string
	size        int // of the picture
	concurrency int
}

// String is e.g. get-339721-32.
func (c cell) String() string {
	return fmt.Sprintf("%s-%d-%d", strings.ToLower(c.method), c.size, c.concurrency)
}

// cells are all there are. Those with many callers come last: the connections that
// they leave behind take memory.
func cells() (all []cell) {
	for _, concurrency := range []int{1, 32, 256} {
		for _, size := range media.Sizes {
			all = append(all, cell{"GET", size, concurrency})
		}
		for _, size := range media.Sizes[2:] {
			all = append(all, cell{"POST", size, concurrency})
		}
	}
	return all
}

// Experiments beside the cells, which can be chosen in the same way.
const (
	coldExperiment     = "cold"
	rotationExperiment = "rotation"
)

// matches reports whether one of patterns, e.g. get-*-32, is for name. No
// patterns are for all.
func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return len(patterns) == 0
}
