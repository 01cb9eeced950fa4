package token

import (
	"context"
	"testing"
	"time"
)

// rotating is an issuer that knows one secret.
type rotating struct {
	*issuer
	secret string
}

func (r *rotating) Fetch(ctx context.Context, req Request) (Reply, error) {
	reply, err := r.issuer.Fetch(ctx, req)
	if err == nil && req.AppSecret != r.secret {
		return Reply{}, &ErrcodeError{40125, "invalid appsecret"}
	}
	return reply, err
}

func (r *rotating) bind(m *Manager, secret string, observe func(Event)) *Attachment {
	a := m.Attach(Binding{Source: r, Request: Request{AppSecret: secret}, Observe: observe})
	a.Start()
	return a
}

// A reload with another secret keeps the token and tries the secret soon. A typo in
// it is an alarm, with the old token still serving until its end.
func TestSecretChanges(t *testing.T) {
	for _, typo := range []bool{false, true} {
		inBubble(t, func(t *testing.T) {
			src := &rotating{newIssuer(), "old"}
			m := NewManager(testIdentity, Traits{})
			defer m.Close()
			a := src.bind(m, "old", nil)
			tok := mustToken(t, m)
			pass(time.Hour)
			src.secret = "new"
			written := "new"
			if typo {
				written = "typo"
			}
			log := keepEvents(m)
			b := src.bind(m, written, log.observe)
			defer b.Detach()
			a.Detach()
			if now := mustToken(t, m); now != tok {
				t.Error("the token was dropped")
			}
			pass(10 * time.Second)
			if calls := src.since(time.Time{})[1:]; len(calls) != 1 || calls[0].secret != written {
				t.Fatalf("calls after the reload: %v", calls)
			}
			if !typo {
				if log.kinds() != "refreshed " || m.Status().FailuresInARow != 0 {
					t.Errorf("events %s, status %+v", log.kinds(), m.Status())
				}
				return
			}
			if ev := log.all()[0]; ev.Kind != Failed || ev.Failure != KindSecret || ev.Hint == "" || ev.ExpiresAt.IsZero() {
				t.Errorf("event is %+v", ev)
			}
			for time.Until(tok.ExpiresAt()) > time.Second {
				if mustToken(t, m) != tok {
					t.Fatal("another token")
				}
				pass(time.Second)
			}
			pass(time.Second)
			mustFailAtOnce(t, m)
			// mended: it does not take long
			b.Detach()
			c := src.bind(m, "new", nil)
			defer c.Detach()
			mustToken(t, m)
		})
	}
}

// The typo is seen although the config before still runs, and reloads without a
// change, or many of them, cost next to nothing.
func TestSecretIsTriedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		src := &rotating{newIssuer(), "good"}
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		log := keepEvents(m)
		a := src.bind(m, "good", log.observe)
		defer a.Detach()
		mustToken(t, m)
		for range 100 {
			b := src.bind(m, "good", log.observe)
			pass(time.Second)
			b.Detach()
		}
		if src.count() != 1 {
			t.Errorf("%d calls for reloads that change nothing", src.count())
		}
		b := src.bind(m, "typo", log.observe)
		pass(time.Minute)
		if n := src.count(); n != 3 || log.kinds() != "refreshed failed refreshed " || log.all()[1].Failure != KindSecret {
			t.Errorf("%d calls, events %s", n, log.kinds())
		}
		b.Detach()
		before := src.count()
		for range 66 {
			b := src.bind(m, "typo", nil)
			pass(1500 * time.Millisecond)
			b.Detach()
		}
		if n := src.count() - before; n > 2*11 {
			t.Errorf("%d calls for 100 s of reloads", n)
		}
	})
}

// Bindings with the same wrong secret are not tried one after another.
func TestWrongSecretIsNotTriedTwice(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		src := &rotating{newIssuer(), "good"}
		m := NewManager(testIdentity, Traits{})
		defer m.Close()
		for range 5 {
			defer m.Attach(Binding{Source: src, Request: Request{AppSecret: "typo"}}).Detach()
		}
		for _, a := range m.bindings {
			a.started = true
		}
		_, _ = m.Token(t.Context())
		if src.count() != 1 {
			t.Errorf("%d calls", src.count())
		}
	})
}

// Every gateway of a fleet tries its own secret, and calls with no other one's word.
func TestSecretChangesInAFleet(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		src, s := &rotating{newIssuer(), "old"}, newMemServer(habit{})
		src.answer = func(fetchCall) (Reply, error) { return Reply{AccessToken: "stable", ExpiresIn: 2 * time.Hour}, nil }
		var fleet []*Manager
		for range 3 {
			m := NewManager(testIdentity, Traits{})
			defer m.Close()
			a := m.Attach(Binding{Source: src, Store: s.client(), Request: Request{AppSecret: "old"}})
			defer a.Detach()
			a.Start()
			mustToken(t, m)
			fleet = append(fleet, m)
		}
		if src.count() != 1 {
			t.Fatalf("%d calls", src.count())
		}
		src.secret = "new"
		leader := fleet[0]
		leader.Attach(Binding{Source: src, Store: s.client(), Request: Request{AppSecret: "typo"}}).Start()
		pass(wakeGap + 5*time.Second)
		if s := leader.Status(); s.Failure != KindSecret || !s.HasToken {
			t.Errorf("the typo is not seen: %+v", s)
		}
	})
}
