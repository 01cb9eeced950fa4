package tokensource

// What the grammars of the sources have in common: a block of options, each of which
// may stand once, and errors that say what to write.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// option is one line of a source's block.
type option struct {
	usage string                             // its name and its arguments, as in `param <name>`
	read  func(d *caddyfile.Dispenser) error // the arguments; behind its error stands the usage
	many  bool                               // may stand more than once
}

var errArguments = errors.New("wrong arguments")

func (o option) name() string { return strings.Fields(o.usage)[0] }

// block reads the options of `token <source> …`, and that nothing else is there.
func block(d *caddyfile.Dispenser, source string, options ...option) error {
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		at := slices.IndexFunc(options, func(o option) bool { return o.name() == name })
		switch {
		case at < 0 && len(options) == 0:
			return d.Errf("unrecognized option %s of token %s; it has none", name, source)
		case at < 0:
			return d.Errf("unrecognized option %s of token %s; use %s", name, source, names(options))
		case seen[name] && !options[at].many:
			return d.Errf("%s is already specified", name)
		}
		o := options[at]
		seen[name] = true
		if err := o.read(d); err != nil {
			return d.Errf("%s: %w; write: %s", name, err, o.usage)
		}
		if d.NextBlock(d.Nesting()) {
			return d.Errf("%s takes no block; write: %s", name, o.usage)
		}
	}
	return nil
}

// names lists options as in `a, b or c`.
func names(options []option) string {
	list := options[0].name()
	for i, o := range options[1:] {
		if i == len(options)-2 {
			list += " or " + o.name()
		} else {
			list += ", " + o.name()
		}
	}
	return list
}

// noArgs reads `token <source>`, which takes no arguments, and its options.
func noArgs(d *caddyfile.Dispenser, source string, options ...option) error {
	d.Next() // consume source name
	if d.NextArg() {
		return d.Errf("token %s takes no argument %q; write: token %[1]s", source, d.Val())
	}
	return block(d, source, options...)
}

// text reads the one argument of an option.
func text(into *string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		if !d.AllArgs(into) || *into == "" {
			return errArguments
		}
		return nil
	}
}

// flag reads an option without arguments.
func flag(into *bool) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		*into = true
		if d.NextArg() {
			return errArguments
		}
		return nil
	}
}

// duration reads a duration of a second or more.
func duration(into *caddy.Duration) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		var s string
		if !d.AllArgs(&s) {
			return errArguments
		}
		v, err := caddy.ParseDuration(s)
		if err != nil || v < time.Second {
			return fmt.Errorf("%s is no duration of at least 1s", s)
		}
		*into = caddy.Duration(v)
		return nil
	}
}
