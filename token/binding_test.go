package token

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// sourceFunc is a source that is a function.
type sourceFunc func(context.Context, Request) (Reply, error)

func (f sourceFunc) Fetch(ctx context.Context, req Request) (Reply, error) { return f(ctx, req) }

func (f sourceFunc) Traits() Traits { return Traits{} }

// works is a source that hands out one token.
func works(secret string) sourceFunc {
	return func(context.Context, Request) (Reply, error) {
		return Reply{AccessToken: secret, ExpiresIn: time.Hour}, nil
	}
}

// breaks is a source that fails, not at once.
func breaks(calls *atomic.Int32, err error) sourceFunc {
	return func(context.Context, Request) (Reply, error) {
		calls.Add(1)
		time.Sleep(10 * time.Millisecond)
		return Reply{}, err
	}
}

var errRefused = &Failure{Kind: KindNetwork, Err: errors.New("connection refused")}

func TestAttachAloneFetchesNothing(t *testing.T) {
	src := newIssuer()
	inTime(t, src, func(t *testing.T, m *Manager, a *Attachment) {
		pass(time.Hour)
		if src.count() != 0 {
			t.Fatal("fetched although nothing has started")
		}
		a.Start()
		a.Start()
		pass(time.Second)
		if src.count() != 1 {
			t.Errorf("%d fetches after start", src.count())
		}
	})
}

// A config that is being loaded while another one runs is not fetched through, and
// observes nothing, whatever refresh lands in between.
func TestAttachedAndNotStartedIsLeftAlone(t *testing.T) {
	src := newIssuer()
	src.life = 10 * time.Second
	begin(t, src, func(t *testing.T, m *Manager) {
		var calls atomic.Int32
		half := m.Attach(Binding{Source: breaks(&calls, errRefused), Observe: func(Event) { panic("half-made") }})
		defer half.Detach()
		tok := mustToken(t, m)
		for range 60 {
			pass(time.Second)
			m.Invalidate(tok, 40001)
			tok = mustToken(t, m)
		}
		src.fail(errRefused)
		pass(time.Minute)
		if calls.Load() != 0 {
			t.Errorf("%d calls through a config that has not started", calls.Load())
		}
	})
}

// A request that comes while the config is only being loaded waits for it to start,
// on its own context and not for ever.
func TestRequestWaitsForStart(t *testing.T) {
	src := newIssuer()
	inTime(t, src, func(t *testing.T, m *Manager, a *Attachment) {
		start := time.Now()
		var unavailable *UnavailableError
		if _, err := m.Token(t.Context()); !errors.As(err, &unavailable) || time.Since(start) != callTimeout {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.AfterFunc(5*time.Second, a.Start)
		mustToken(t, m)
		if src.count() != 1 {
			t.Errorf("%d fetches", src.count())
		}
	})
}

// A config that is loaded may mend what is wrong, and does not wait for it long,
// also when it comes right after a failure of the one before.
func TestStartWakes(t *testing.T) {
	for _, after := range []time.Duration{time.Hour, 100 * time.Millisecond} {
		src := newIssuer()
		src.fail(&ErrcodeError{40164, "invalid ip 203.0.113.9, not in whitelist"})
		begin(t, src, func(t *testing.T, m *Manager) {
			pass(after)
			calls := src.count()
			src.fail(nil)
			start := time.Now()
			for range 100 { // reloads
				m.Attach(Binding{Source: src}).Start()
				pass(100 * time.Millisecond)
			}
			if n := src.count() - calls; n != 1 {
				t.Errorf("%d calls", n)
			}
			mustToken(t, m)
			if at := src.since(start); len(at) != 1 || at[0].at.Sub(start) > startGap {
				t.Errorf("called late")
			}
		})
	}
}

// Reloads that mend nothing do not make calls without measure.
func TestStartsAreBounded(t *testing.T) {
	src := newIssuer()
	src.fail(&ErrcodeError{40164, "invalid ip"})
	begin(t, src, func(t *testing.T, m *Manager) {
		for range 600 {
			m.Attach(Binding{Source: src}).Start()
			pass(100 * time.Millisecond)
		}
		if n := src.count(); n > (startBurst+22)*mostTries {
			t.Errorf("%d calls in a minute of reloads", n)
		}
	})
}

// A request that finds the successor of a broken config trying waits for it.
func TestSuccessorStartsAfresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		var calls atomic.Int32
		old := m.Attach(Binding{Source: breaks(&calls, &ErrcodeError{40125, "invalid appsecret"})})
		old.Start()
		pass(4 * time.Second)
		mustFailAtOnce(t, m)
		src := newIssuer()
		next := m.Attach(Binding{Source: src})
		defer next.Detach()
		next.Start()
		old.Detach()
		mustToken(t, m)
	})
}

func TestDetach(t *testing.T) {
	src := newIssuer()
	src.took = time.Second
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		if mustFailAtOnce(t, m); src.count() != 0 {
			t.Error("fetched with no config")
		}
		(*Attachment)(nil).Start()
		(*Attachment)(nil).Detach()

		// the last one leaves while somebody waits
		a := m.Attach(Binding{Source: src})
		a.Start()
		time.AfterFunc(500*time.Millisecond, a.Detach)
		start := time.Now()
		if _, err := m.Token(t.Context()); err == nil || time.Since(start) > 600*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		a.Start() // too late
		pass(24 * time.Hour)
		if src.count() != 1 {
			t.Error("fetched with no config")
		}
	})
}

// One config leaves, with its network, while somebody waits; another is there. Its
// failure, or its hanging, does not hold the other one up.
func TestDetachInMidFetch(t *testing.T) {
	for name, broken := range map[string]sourceFunc{
		"fails": func(context.Context, Request) (Reply, error) {
			time.Sleep(time.Second)
			return Reply{}, &ErrcodeError{45009, "reach max api daily quota limit"}
		},
		"hangs": func(ctx context.Context, _ Request) (Reply, error) {
			<-ctx.Done()
			return Reply{}, ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := NewManager(testIdentity, Traits{})
				defer m.Close()
				old := m.Attach(Binding{Source: broken})
				old.Start()
				time.AfterFunc(500*time.Millisecond, func() {
					m.Attach(Binding{Source: works("new")}).Start()
					old.Detach()
					old.Detach() // harmless
				})
				start := time.Now()
				if mustToken(t, m); time.Since(start) > 4*time.Second {
					t.Errorf("held up for %v", time.Since(start))
				}
				if s := m.Status(); s.Failures != 0 || s.FailuresInARow != 0 {
					t.Errorf("status is %+v", s)
				}
			})
		})
	}
}

// Two sites use one app, and one of them cannot reach the issuer: the other one does
// for both, in any order of starting.
func TestBrokenNeighbour(t *testing.T) {
	for _, brokenFirst := range []bool{true, false} {
		for _, err := range []error{errRefused, context.DeadlineExceeded, BadReply("no JSON"), &ErrcodeError{40164, "invalid ip"}} {
			synctest.Test(t, func(t *testing.T) {
				m := NewManager(testIdentity, Traits{})
				defer m.Close()
				var calls atomic.Int32
				src := newIssuer()
				src.life = 10 * time.Minute
				sources := []Source{breaks(&calls, err), src}
				if !brokenFirst {
					sources[0], sources[1] = sources[1], sources[0]
				}
				for _, s := range sources {
					a := m.Attach(Binding{Source: s})
					defer a.Detach()
					a.Start()
				}
				for start := time.Now(); time.Since(start) < 6*time.Hour; pass(time.Minute) {
					mustToken(t, m)
				}
				if calls.Load() > 1 {
					t.Errorf("%v: %d calls that are known to fail", err, calls.Load())
				}
				// what WeChat says to all of them is not asked again elsewhere
				src.fail(&ErrcodeError{45009, "quota"})
				before := src.count()
				pass(12 * time.Minute)
				if s := m.Status(); s.Failure != KindQuota || src.count() == before {
					t.Errorf("%v: status is %+v", err, s)
				}
				if calls.Load() > 1 {
					t.Errorf("%v: %d calls that are known to fail", err, calls.Load())
				}
			})
		}
	}
}

// All bindings fail: each is tried once in a fetch, and what is remembered is what
// is waited for the longest.
func TestAllNeighboursFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		var dead, refused atomic.Int32
		events := keepEvents(m)
		for _, s := range []Source{breaks(&refused, &ErrcodeError{40164, "invalid ip"}), breaks(&dead, errRefused)} {
			a := m.Attach(Binding{Source: s, Observe: events.observe})
			a.Start()
			defer a.Detach()
		}
		if _, err := m.Token(t.Context()); err == nil {
			t.Fatal("there is a token")
		}
		synctest.Wait()
		if dead.Load() != 1 || refused.Load() != 1 || m.Status().Failure != KindIP || events.kinds() != "failed failed " {
			t.Errorf("%d and %d calls, status %+v, events %s", dead.Load(), refused.Load(), m.Status(), events.kinds())
		}
		pass(time.Hour)
		if n := refused.Load(); n > 18 {
			t.Errorf("%d calls in an hour", n)
		}
	})
}

// Among many bindings that fail, the one that works has its turn before long.
func TestEveryBindingHasItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		var calls atomic.Int32
		for i := range 3 * mostTries {
			src := Source(breaks(&calls, errRefused))
			if i == 0 {
				src = works("token")
			}
			m.Attach(Binding{Source: src}).Start()
		}
		pass(10 * time.Second)
		if mustToken(t, m); calls.Load() > 3*mostTries {
			t.Errorf("%d calls in vain", calls.Load())
		}
	})
}
