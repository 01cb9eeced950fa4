// Package report makes tables and a plot of raw figures, and puts them into the
// documents.
package report

// The raw figures, as they are kept: one JSON object a line.

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddy-wechat/caddy-wechat-media/bench/load"
)

// Measurement is one contender in one cell in one round.
type Measurement struct {
	Round     int    `json:"round"`
	Cell      string `json:"cell"`
	Contender string `json:"contender"`
	PeakKiB   int64  `json:"peak_rss_kib,omitempty"`
	*load.Result
}

// ColdStart is a thousand callers at a gateway that has just been started.
type ColdStart struct {
	Round        int    `json:"round"`
	Contender    string `json:"contender"`
	TokenDelayMS int    `json:"token_delay_ms"` // how long the upstream takes to hand out a token
	Fetches      int64  `json:"fetches"`        // of tokens
	*load.Result
}

// The kinds of windows.
const (
	Steady   = "steady"   // nothing happened to the token
	Replaced = "replaced" // fetched ahead of its expiry; the old one stayed valid
	Revoked  = "revoked"  // every request under way was refused
)

// Window is a stretch of a thousand callers' steady requests.
type Window struct {
	Kind     string `json:"kind"`
	Fetches  int64  `json:"fetches"`  // of tokens
	Rejected int64  `json:"rejected"` // requests with a revoked token
	Opened   int64  `json:"opened"`   // connections to the upstream
	load.Window
}

// Environment is where and when the figures were taken.
type Environment struct {
	Date           string  `json:"date"`
	CPU            string  `json:"cpu"`
	Cores          int     `json:"cores"`
	MemoryGiB      int     `json:"memory_gib"`
	Kernel         string  `json:"kernel"`
	System         string  `json:"system"`
	Go             string  `json:"go"`
	Caddy          string  `json:"caddy"`
	Nginx          string  `json:"nginx,omitempty"`
	Revision       string  `json:"revision,omitempty"`
	Pinned         bool    `json:"pinned"`
	Rounds         int     `json:"rounds"`
	SecondsPerCell float64 `json:"seconds_per_cell"`
}

// Run is all that one run has found out.
type Run struct {
	Environment  Environment
	Measurements []Measurement
	ColdStarts   []ColdStart
	Windows      []Window
}

// The files of a run.
const (
	environmentFile  = "environment.json"
	measurementsFile = "measurements.jsonl"
	coldStartsFile   = "cold-starts.jsonl"
	windowsFile      = "windows.jsonl"
)

// Write keeps r in dir.
func (r *Run) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	env, err := json.MarshalIndent(r.Environment, "", "\t")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, environmentFile), append(env, '\n'), 0o644),
		writeLines(filepath.Join(dir, measurementsFile), r.Measurements),
		writeLines(filepath.Join(dir, coldStartsFile), r.ColdStarts),
		writeLines(filepath.Join(dir, windowsFile), r.Windows))
}

func writeLines[T any](name string, lines []T) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for _, line := range lines {
		err = errors.Join(err, enc.Encode(line))
	}
	return errors.Join(err, w.Flush(), f.Close())
}

// Read reads what Write has kept.
func Read(dir string) (*Run, error) {
	r := new(Run)
	env, err := os.ReadFile(filepath.Join(dir, environmentFile))
	if err != nil {
		return nil, err
	}
	return r, errors.Join(
		json.Unmarshal(env, &r.Environment),
		readLines(filepath.Join(dir, measurementsFile), &r.Measurements),
		readLines(filepath.Join(dir, coldStartsFile), &r.ColdStarts),
		readLines(filepath.Join(dir, windowsFile), &r.Windows))
}

func readLines[T any](name string, lines *[]T) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for dec := json.NewDecoder(f); dec.More(); {
		var line T
		if err := dec.Decode(&line); err != nil {
			return fmt.Errorf("reading %s: %w", filepath.Base(name), err)
		}
		*lines = append(*lines, line)
	}
	return nil
}

// readIfThere is Read, and nil for a directory that does not exist.
func readIfThere(dir string) (*Run, error) {
	r, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return r, err
}
