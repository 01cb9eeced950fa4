package token

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// eventLog is an observer that keeps what it is told.
type eventLog struct {
	m      *Manager
	mu     sync.Mutex
	events []Event
}

func keepEvents(m *Manager) *eventLog { return &eventLog{m: m} }

func (l *eventLog) observe(ev Event) {
	l.m.Status() // no lock is held
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, ev)
}

func (l *eventLog) all() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Event(nil), l.events...)
}

func (l *eventLog) kinds() string {
	var out strings.Builder
	for _, ev := range l.all() {
		out.WriteString(string(ev.Kind) + " ")
	}
	return out.String()
}

func TestEventsAndStatus(t *testing.T) {
	src := newIssuer()
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		log := keepEvents(m)
		m.Attach(Binding{Source: src, Observe: log.observe}).Start()
		tok := mustToken(t, m)
		synctest.Wait()
		src.fail(&ErrcodeError{40164, "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: 1"})
		rejecting := make(chan Status)
		src.mu.Lock()
		src.took = time.Second
		src.mu.Unlock()
		time.AfterFunc(500*time.Millisecond, func() { rejecting <- m.Status() })
		go func() {
			if s := <-rejecting; s.HasToken || !s.ExpiresAt.IsZero() || !s.Fetching || m.Usable() {
				t.Errorf("while it is rejected the status is %+v", s)
			}
		}()
		_, _ = m.Reject(t.Context(), tok, 40001)
		_, _ = m.Reject(t.Context(), tok, 40001)
		synctest.Wait()
		if log.kinds() != "refreshed rejected failed " {
			t.Fatalf("events: %s", log.kinds())
		}
		if ev := log.all()[1]; !ev.ExpiresAt.IsZero() || ev.Errcode != 40001 {
			t.Errorf("event is %+v", ev)
		}
		if ev := log.all()[2]; ev.Failure != KindIP || ev.Errcode != 40164 || ev.Failures != 1 || ev.ExpiresAt.IsZero() || !ev.Called ||
			ev.Hint != "add 203.0.113.9 to the IP whitelist in the WeChat admin" || time.Until(ev.NextTry) < 50*time.Second {
			t.Errorf("event is %+v", ev)
		}
		s := m.Status()
		if !s.HasToken || s.Fetches != 2 || s.Failures != 1 || s.Rejections != 2 || s.Failure != KindIP || s.FailuresInARow != 1 || s.Shared {
			t.Errorf("status is %+v", s)
		}
	})
}

// An observer that sleeps holds nothing up, one that panics ends nothing, and the
// order is kept.
func TestObserversAreNotWaitedFor(t *testing.T) {
	src := newIssuer()
	src.life = 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		wake := make(chan struct{})
		var log eventLog
		log.m = m
		first := true
		a := m.Attach(Binding{Source: src, Observe: func(ev Event) {
			if first {
				first = false
				<-wake
				panic("oops")
			}
			log.observe(ev)
		}})
		a.Start()
		mustToken(t, m)
		for start := time.Now(); time.Since(start) < time.Hour; pass(time.Second) {
			before := time.Now()
			mustToken(t, m)
			if !time.Now().Equal(before) {
				t.Fatal("a request waited")
			}
		}
		before := time.Now()
		b := m.Attach(Binding{Source: src, Observe: log.observe})
		b.Start()
		a.Detach()
		if !time.Now().Equal(before) {
			t.Error("a reload waited")
		}
		close(wake)
		synctest.Wait()
		events := log.all()
		if len(events) != mostEvents || events[0].Missed < 100 || events[1].Missed != 0 {
			t.Fatalf("%d events", len(events))
		}
		for i := 1; i < len(events); i++ {
			if events[i].ExpiresAt.Before(events[i-1].ExpiresAt) {
				t.Errorf("event %d is older than the one before", i)
			}
		}
		b.Detach()
	})
}

// What the gateway's own limits turn down is told like any failure, once per
// back-off, and no call is claimed.
func TestLimitsAreSeen(t *testing.T) {
	src := newIssuer()
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		log := keepEvents(m)
		m.Attach(Binding{Source: src, Observe: log.observe}).Start()
		tok := mustToken(t, m)
		start := time.Now()
		for time.Since(start) < 10*time.Minute {
			next, err := m.Reject(t.Context(), tok, 40001)
			if err != nil {
				t.Fatal(err)
			}
			tok = next
			pass(50 * time.Millisecond)
		}
		synctest.Wait()
		budget := 0
		for _, ev := range log.all() {
			if ev.Kind == Failed && ev.Failure == KindBudget {
				if budget++; ev.Called || ev.Hint == "" || ev.ExpiresAt.IsZero() {
					t.Errorf("event is %+v", ev)
				}
			}
		}
		if budget < 9 || budget > 70 {
			t.Errorf("told %d times in ten minutes", budget)
		}
		if s := m.Status(); s.Failure != KindBudget || s.Hint == "" || !s.HasToken || s.Fetches != int64(src.count()) || s.Failures != 0 {
			t.Errorf("status is %+v", s)
		}
	})
}
