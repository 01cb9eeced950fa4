// Package load is the callers: a fixed number of them, each on a connection of its
// own, sending the next request when the last is answered.
package load

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Options says what is sent where, and for how long.
type Options struct {
	URL         string        // of the gateway or, with https, of the upstream
	CA          string        // for https: PEM of the certificate's issuer
	Token       string        // for https: what a caller without a gateway needs
	Control     string        // URL of the upstream's control side
	Method      string        // GET or POST
	Size        int           // of the picture, in bytes
	Concurrency int           // callers
	WarmUp      time.Duration // at least; every caller's first request belongs to it too
	Duration    time.Duration // of the measurement
	Window      time.Duration // to cut it into; 0: one
	Gateway     []int         // processes whose CPU time is measured
	Upstream    int           // another

	// Cold has the callers wait for a gateway that is being started, and send their
	// first requests all at once, with no other request before.
	Cold bool

	// Started, if not nil, is called when the measurement begins.
	Started func() `json:"-"`
}

// Run measures. Any reply that is not what it must be is an error.
func Run(o Options) (*Result, error) {
	if err := prepare(o); err != nil {
		return nil, err
	}
	callers := make([]*caller, o.Concurrency)
	for i := range callers {
		exchange, err := connect(o)
		if err != nil {
			return nil, fmt.Errorf("connecting: %w", err)
		}
		defer exchange.Close()
		callers[i] = &caller{exchange: exchange}
	}
	return measure(o, callers)
}

// prepare sees to it that there is a gateway, and that it does what it should.
func prepare(o Options) error {
	if o.Cold {
		return waitForListener(o.URL)
	}
	if err := verify(o); err != nil {
		return fmt.Errorf("comparing bytes: %w", err)
	}
	return nil
}

// measure lets the callers loose, all at once.
func measure(o Options, callers []*caller) (*Result, error) {
	var (
		first, all sync.WaitGroup
		stop       atomic.Bool
		failures   = make(chan error, len(callers))
		zero       = time.Now()
	)
	first.Add(len(callers))
	for _, c := range callers {
		all.Go(func() {
			if err := c.run(zero, &stop, first.Done); err != nil {
				stop.Store(true)
				failures <- err
			}
		})
	}
	first.Wait()
	time.Sleep(o.WarmUp - time.Since(zero))

	if o.Window == 0 {
		o.Window = o.Duration
	}
	if o.Started != nil {
		o.Started()
	}
	marks := []mark{newMark(o, zero)}
	for i := range windows(o) {
		if stop.Load() {
			break
		}
		time.Sleep(marks[0].at + time.Duration(i+1)*o.Window - time.Since(zero))
		marks = append(marks, newMark(o, zero))
	}
	stop.Store(true)
	all.Wait()
	close(failures)
	if err := <-failures; err != nil {
		return nil, fmt.Errorf("measuring: %w", err)
	}
	return newResult(callers, marks), nil
}

// windows is how many there are; none if all that matters are the first requests.
func windows(o Options) int {
	if o.Window == 0 {
		return 0
	}
	return int(o.Duration / o.Window)
}

// mark is the end of a window, or the begin of the first.
type mark struct {
	at  time.Duration
	cpu CPU
}

func newMark(o Options, zero time.Time) mark { return mark{time.Since(zero), readClocks(o)} }

// exchange is a connection that sends the request and takes the reply, whole.
type exchange interface {
	Do() error
	Close() error
}

func connect(o Options) (exchange, error) {
	if isTLS(o.URL) {
		return dialTLS(o)
	}
	return dialPlain(o)
}

// caller remembers how long each request took.
type caller struct {
	exchange exchange
	samples  []sample
}

type sample struct{ end, took time.Duration }

// run calls first after the first request, or when there will be none.
func (c *caller) run(zero time.Time, stop *atomic.Bool, first func()) error {
	done := sync.OnceFunc(first)
	defer done()
	for !stop.Load() {
		start := time.Since(zero)
		if err := c.exchange.Do(); err != nil {
			return err
		}
		end := time.Since(zero)
		c.samples = append(c.samples, sample{end: end, took: end - start})
		done()
	}
	return nil
}

var errShort = errors.New("the reply is shorter than it says")
