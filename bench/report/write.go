package report

// Putting tables and plot into the documents, and comparing them.

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Where a run's figures are, under bench/. The second run is there to see whether
// the first can be repeated.
const (
	firstRun  = "results/first"
	secondRun = "results/second"
)

// WriteAll puts the tables and the plot into the documents; dir is bench/.
func WriteAll(dir string) error {
	documents, err := generate(dir)
	if err != nil {
		return err
	}
	for name, text := range documents {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Check reports whether the documents say what the figures give.
func Check(dir string) error {
	documents, err := generate(dir)
	if err != nil {
		return err
	}
	var errs []error
	for name, text := range documents {
		has, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil && !bytes.Equal(has, text) {
			err = fmt.Errorf("%s does not say what the figures give; run: bench/run.sh --report", name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// generate makes what the documents have to be, by name.
func generate(dir string) (map[string][]byte, error) {
	first, err := Read(filepath.Join(dir, firstRun))
	if err != nil {
		return nil, fmt.Errorf("reading figures: %w", err)
	}
	second, err := readIfThere(filepath.Join(dir, secondRun))
	if err != nil {
		return nil, fmt.Errorf("reading figures: %w", err)
	}
	documents := map[string][]byte{}
	if documents["plot.svg"], err = svg(first); err != nil {
		return nil, err
	}
	if documents["README.md"], err = replaced(dir, "README.md", "figures", full(first, second)); err != nil {
		return nil, err
	}
	for name, l := range map[string]language{"../README.md": english, "../README.zh-CN.md": chinese} {
		text, err := replaced(dir, name, "bench", short(first, l))
		switch {
		case errors.Is(err, errNoMarkers), errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			documents[name] = text
		}
	}
	return documents, nil
}

var errNoMarkers = errors.New("there is no place for tables")

// replaced is a document with text between `<!-- marker -->` and `<!-- end of
// marker -->`.
func replaced(dir, name, marker, text string) ([]byte, error) {
	document, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	begin, end := "<!-- "+marker+" -->\n", "<!-- end of "+marker+" -->"
	before, rest, ok := strings.Cut(string(document), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return nil, fmt.Errorf("%w in %s", errNoMarkers, name)
	}
	return []byte(before + begin + "\n" + text + "\n" + end + after), nil
}
