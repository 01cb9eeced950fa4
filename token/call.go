package token

// One call to the issuer: through which binding, within which limits, and what is
// done about a source that hangs or panics.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// mostTries is through how many bindings one fetch goes. The others have their
	// turn at the next: what failed goes last.
	mostTries = 3

	// mostHanging is how many calls through one binding may hang at once that
	// ignore their deadline.
	mostHanging = 4

	// detachedGrace is how long a call goes on through a binding that has been
	// detached, while another binding is there.
	detachedGrace = 3 * time.Second

	// lateAnswer is how long whoever was told to stop is listened to: it says
	// more about what happened than its deadline does.
	lateAnswer = 100 * time.Millisecond
)

var (
	errBudget = errors.New("the gateway's own limit on token calls is reached")
	errHangs  = errors.New("earlier calls of the token source still hang")
)

// call asks the issuer, through one binding after another until one works or the
// failure is not a binding's own.
func (m *Manager) call(ctx context.Context, f *flight, force bool) outcome {
	var tried []*Attachment
	var worst outcome
	for {
		a, start, failure := m.next(f, tried, force)
		if a == nil {
			switch {
			case worst.failure != nil:
			case failure != nil:
				worst.failure = failure
			default:
				worst.orphan = true
			}
			return worst
		}
		tried = append(tried, a)
		req := a.b.Request
		req.Rejected, req.Force = f.rejected, force
		reply, err := a.ask(ctx, req)
		if err == nil {
			m.another(worst, nil)
			return outcome{asked: true, reply: reply, start: start, by: a, forced: force}
		}
		out := outcome{failure: classify(err, a.traits.Hints), start: start, by: a, forced: force}
		if worst = m.another(worst, &out); worst.failure != nil && !traitsOf[out.failure.Kind].own {
			return worst
		}
		force = false
	}
}

// next returns the binding to go through, or nil: then there is none left, or a
// limit is reached, which is returned.
func (m *Manager) next(f *flight, tried []*Attachment, force bool) (*Attachment, time.Time, *Failure) {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := slices.DeleteFunc(m.started(), func(a *Attachment) bool {
		return slices.ContainsFunc(tried, func(b *Attachment) bool { return a == b || b.wrong && a.secret == b.secret })
	})
	if len(left) == 0 || len(tried) >= mostTries || m.closed {
		return nil, time.Time{}, nil
	}
	a, now := left[0], time.Now()
	if slices.Contains(left, f.through) {
		a = f.through
	}
	if !m.calls.take(now) || f.refused && len(tried) == 0 && !m.rejections.take(now) {
		return nil, time.Time{}, budgetFailure(errBudget, a.traits.Hints)
	}
	m.lastTry = now
	m.stats.Fetches++
	if force {
		m.forced = append(m.forced, now)
	}
	return a, now, nil
}

func budgetFailure(err error, hints map[Kind]string) *Failure {
	return classify(&Failure{Kind: KindBudget, Err: err}, hints)
}

// another takes note of a call that failed, if last is not nil, and returns the
// failure that the flight ends with if no binding works: the one that is waited for
// the longest. The other one is told at once. That of a config that has gone counts
// for nothing.
func (m *Manager) another(worst outcome, last *outcome) outcome {
	m.mu.Lock()
	defer m.mu.Unlock()
	tell := worst
	if last != nil {
		last.by.wrong = last.failure.Kind == KindSecret
		if last.by.gone.Err() != nil || m.closed {
			return worst
		}
		m.stats.Failures++
		last.by.failures++
		if traitsOf[last.failure.Kind].own {
			m.putOff(last.by)
		}
		if tell = *last; worst.failure == nil || backOffOf(worst) < backOffOf(*last) {
			tell, worst = worst, *last
		}
	}
	if tell.failure != nil {
		ev := failedEvent(tell.failure, tell.by.failures)
		ev.Forced = tell.forced
		m.emit(ev, tell.by)
	}
	return worst
}

func backOffOf(out outcome) time.Duration { return traitsOf[out.failure.Kind].backOff.first }

// ask calls the source, and stops waiting for it at the deadline whatever it does.
func (a *Attachment) ask(ctx context.Context, req Request) (Reply, error) {
	if a.hangs.Load() >= mostHanging {
		return Reply{}, errHangs
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.gone, func() { time.AfterFunc(detachedGrace, cancel) })()
	reply, err := guarded(ctx, callTimeout, &a.hangs, "the token source", func(ctx context.Context) (Reply, error) {
		return a.b.Source.Fetch(ctx, req)
	})
	if err == nil {
		err = checkReply(&reply)
	}
	return reply, WithoutSecrets(err, req.AppSecret, req.Rejected)
}

// guarded makes a call of code that may panic, which would end the process, and may not
// keep to its context: then it is left behind, and hangs counts it until it returns.
func guarded[T any](ctx context.Context, timeout time.Duration, hangs *atomic.Int32, who string, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	ch := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("%s panicked: %s", who, Redact(fmt.Sprint(p)))
			}
			ch <- r
		}()
		r.value, r.err = call(ctx)
	}()
	select {
	case r := <-ch:
		return r.value, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-ch:
		return r.value, r.err
	case <-time.After(lateAnswer):
	}
	hangs.Add(1)
	go func() {
		<-ch
		hangs.Add(-1)
	}()
	var none T
	return none, ctx.Err()
}
