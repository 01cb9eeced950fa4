package report

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/bench/load"
)

func TestStat(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   stat
	}{
		{nil, stat{}},
		{[]float64{3}, stat{3, 3, 3, 1}},
		{[]float64{3, 1, 2}, stat{2, 1, 3, 3}},
		{[]float64{4, 1, 2, 3}, stat{2.5, 1, 4, 4}},
	} {
		if got := newStat(tc.values); got != tc.want {
			t.Errorf("%v: %+v, want %+v", tc.values, got, tc.want)
		}
	}
}

// figures are three rounds in which everybody's pace doubles, ours being 1.6 times
// stock's.
func figures() *Run {
	r := &Run{Environment: Environment{CPU: "CPU", Cores: 2, Rounds: 3, SecondsPerCell: 1, Pinned: true}}
	pace := map[string]int{ours: 1600, stock: 1000, tuned: 1700, nginx: 2000, limit: 1500, direct: 4000}
	for round := 1; round <= 3; round++ {
		for _, cell := range []string{"get-339721-1", "get-339721-32"} {
			for _, c := range contenders {
				if pace[c] == 0 {
					continue
				}
				n := pace[c] << round
				m := Measurement{Round: round, Cell: cell, Contender: c, PeakKiB: 2048, Result: &load.Result{Window: load.Window{Seconds: 1}}}
				m.Work, m.P50, m.P99, m.Gateway = float64(n), 1e6/float64(n), 2e6/float64(n), 1e9
				r.Measurements = append(r.Measurements, m)
			}
		}
	}
	r.ColdStarts = []ColdStart{{Round: 1, Contender: ours, Fetches: 1, Result: &load.Result{}}}
	r.Windows = []Window{{Kind: Steady, Window: load.Window{Seconds: 1}}, {Kind: Revoked, Rejected: 7, Window: load.Window{Seconds: 1}}}
	return r
}

// Ratios are of the same round: that the machine changed its pace is not in them.
func TestRatios(t *testing.T) {
	r := figures()
	if got := r.ratio("get-339721-32", ours, stock, throughput); got != (stat{1.6, 1.6, 1.6, 3}) {
		t.Errorf("throughput: %+v", got)
	}
	if got := r.of("get-339721-32", ours, throughput); got != (stat{6400, 3200, 12800, 3}) {
		t.Errorf("requests a second: %+v", got)
	}
	text := ratioTable(r)
	for _, want := range []string{
		"1.60 (1.60–1.60) ≥ 1.5",     // stock
		"**0.94 (0.94–0.94) < 1**",   // tuned
		"**0.80 (0.80–0.80) < 0.9**", // nginx
		"0.94 (0.94–0.94) ≤ 1.15",    // CPU of the limit
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func TestNumber(t *testing.T) {
	for want, got := range map[string]string{
		"1,234": number(1234.4, 0), "1,234.50": number(1234.5, 2), "-0.25": number(-0.25, 2), "0.1": number(0.06, 1), "-1,000": number(-1000, 0),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// project is a directory with documents that have places for tables.
func project(t *testing.T) (bench string) {
	root := t.TempDir()
	bench = filepath.Join(root, "bench")
	if err := figures().Write(filepath.Join(bench, firstRun)); err != nil {
		t.Fatal(err)
	}
	for name, marker := range map[string]string{"README.md": "bench", "README.zh-CN.md": "bench", "bench/README.md": "figures"} {
		text := fmt.Sprintf("before\n<!-- %[1]s -->\nold\n<!-- end of %[1]s -->\nafter\n", marker)
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return bench
}

func TestDocuments(t *testing.T) {
	bench := project(t)
	if err := Check(bench); err == nil {
		t.Error("old tables pass for new ones")
	}
	if err := WriteAll(bench); err != nil {
		t.Fatal(err)
	}
	if err := Check(bench); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{
		"../README.md": "| 1.60 × |", "../README.zh-CN.md": "| 1.60 × |", "README.md": "| download 339,721 B | 32 | 1.60 (1.60–1.60)", "plot.svg": "<svg",
	} {
		text, err := os.ReadFile(filepath.Join(bench, name))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s has no %q: %v\n%s", name, want, err, text)
		}
		if strings.HasSuffix(name, ".md") && (!strings.HasPrefix(string(text), "before\n") || !strings.HasSuffix(string(text), "-->\nafter\n") || strings.Contains(string(text), "old\n")) {
			t.Errorf("%s: the rest has changed: %s", name, text)
		}
	}
}

// A figure that is changed by hand, or a table, does not go unnoticed.
func TestCheckNotices(t *testing.T) {
	for _, name := range []string{"README.md", "../README.md", "../README.zh-CN.md", "plot.svg", firstRun + "/measurements.jsonl"} {
		bench := project(t)
		if err := WriteAll(bench); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(bench, name)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.Replace(strings.Replace(string(text), "1.60", "1.70", 1), `"work":3200`, `"work":9200`, 2))
		if name == "plot.svg" {
			text = append(text, ' ')
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if Check(bench) == nil {
			t.Errorf("%s was changed", name)
		}
	}
}

// The project's READMEs need no place for a table.
func TestNoMarkers(t *testing.T) {
	bench := project(t)
	if err := os.WriteFile(filepath.Join(bench, "../README.md"), []byte("no table\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteAll(bench); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(bench, "../README.md")); string(text) != "no table\n" {
		t.Errorf("it is now %q", text)
	}
}

func TestRepetition(t *testing.T) {
	if text := repetition(figures(), figures()); !strings.Contains(text, "16 of these 16 ratios") || !strings.Contains(text, "0.0 % (at the most)") {
		t.Error(text)
	}
}
