// Command bench measures what the gateway costs, against what one would have
// without it. run.sh runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/bench/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("use run.sh")
	}
	switch command := args[0]; command {
	case "upstream":
		return runUpstream()
	case "load":
		return runLoad()
	case "run":
		return measureAll(ctx, parseOptions(args[1:]))
	case "profile":
		return profileOne(ctx, parseOptions(args[1:]))
	case "report":
		return report.WriteAll(".")
	case "check":
		return report.Check(".")
	default:
		return fmt.Errorf("%q is not a command", command)
	}
}

// options say what is measured, and for how long.
type options struct {
	self       string // this program
	gateway    string // Caddy with the plugin and what the benchmark adds
	rounds     int
	duration   time.Duration
	cells      []string // patterns
	contenders []string // patterns
	pin        bool
	results    string // directory
	revision   string
}

func parseOptions(args []string) (o options) {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.StringVar(&o.gateway, "gateway", "", "binary of Caddy with the plugin and what the benchmark adds")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds")
	seconds := flags.Float64("seconds", 1.5, "length of one measurement")
	cells := flags.String("cells", "", "patterns of cells, e.g. get-*-32; all if empty")
	contenders := flags.String("contenders", "", "patterns of contenders; all if empty")
	flags.BoolVar(&o.pin, "pin", true, "give the gateway a core, and the other to all else")
	flags.StringVar(&o.results, "results", "", "directory for the figures")
	flags.StringVar(&o.revision, "revision", "", "of the source")
	_ = flags.Parse(args) // it exits
	if o.self, _ = os.Executable(); o.self == "" {
		o.self = os.Args[0]
	}
	o.duration = time.Duration(*seconds * float64(time.Second))
	separate := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' })
	}
	o.cells, o.contenders = separate(*cells), separate(*contenders)
	return o
}

// measureAll runs everything that was chosen, and keeps and prints what it found.
func measureAll(ctx context.Context, o options) error {
	r, err := newRig(ctx, o.self, o.gateway, o.pin)
	if err != nil {
		return err
	}
	defer r.close()
	found := report.Run{Environment: r.environment(o)}
	if found.Measurements, err = r.rounds(ctx, o); err != nil {
		return err
	}
	if found.ColdStarts, err = r.coldStarts(ctx, o); err != nil {
		return err
	}
	if found.Windows, err = r.rotation(ctx, o); err != nil {
		return err
	}
	if err := found.Write(o.results); err != nil {
		return fmt.Errorf("writing figures: %w", err)
	}
	return report.Print(os.Stdout, &found)
}

func profileOne(ctx context.Context, o options) error {
	r, err := newRig(ctx, o.self, o.gateway, o.pin)
	if err != nil {
		return err
	}
	defer r.close()
	if len(chosenCells(o.cells)) == 0 || len(o.contenders) != 1 {
		return errors.New("choose one cell and one contender")
	}
	return r.profile(ctx, o, o.results)
}
