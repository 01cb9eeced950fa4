package token

// The right to fetch for a fleet: the store's lock, and a sign of life, which holds
// where locks do not. A gateway that fetches is waited for as long as it lives.

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"time"
)

const (
	// glanceEvery is how often those who wait look whether a token has been stored,
	// so that they need not take turns.
	glanceEvery = 200 * time.Millisecond

	// A gateway that fetches gives a sign every signEvery, and is taken for dead
	// when it has not given one for signPatience. So is a lock's holder that never
	// gave any.
	signEvery    = time.Second
	signPatience = 3 * time.Second

	// settleTime is how long a claim has to stand before it counts. Who has seen
	// that nobody fetches has written a claim of his own by then, and the last one
	// to write has it. So one gateway fetches even where the lock is good for
	// nothing, as long as writing takes less than this.
	settleTime = 150 * time.Millisecond

	// relockEvery is how often a lock is tried that is refused at once.
	relockEvery = time.Second

	// claimPatience is how long others are waited for that fetch and bring nothing.
	claimPatience = 30 * time.Second
)

// claim is the right to fetch.
type claim struct {
	s    *shelf
	lock *lock
	sign sign
	stop chan struct{}
}

// claim waits for the right to fetch. It comes back without it when another gateway
// has stored a token, with an error when the store fails, and with nothing when ctx
// ends.
func (m *Manager) claim(ctx context.Context, f *flight, s *shelf) (mine *claim, news bool, err error) {
	c := &claim{s: s, lock: s.lock(ctx), sign: sign{ID: rand.Text()}, stop: make(chan struct{})}
	defer func() {
		if mine == nil {
			go c.lock.release()
		}
	}()
	glance := time.NewTicker(glanceEvery)
	defer glance.Stop()
	w := watch{since: time.Now(), own: c.sign.ID}
	for {
		select {
		case err := <-c.lock.done:
			w.locked, w.refused = err == nil, err != nil
			w.refusedAt = time.Now()
		case <-glance.C:
		case <-ctx.Done():
			return nil, false, nil
		}
		stands, news, err := m.tryClaim(ctx, f, c, &w)
		switch {
		case err != nil || news:
			return nil, news, err
		case stands:
			go c.live()
			return c, false, nil
		case w.refused && time.Since(w.refusedAt) >= relockEvery:
			w.refused = false
			c.lock = s.lock(ctx)
		}
	}
}

// tryClaim looks around, and claims if nobody else fetches.
func (m *Manager) tryClaim(ctx context.Context, f *flight, c *claim, w *watch) (stands, news bool, err error) {
	if news, err = m.look(ctx, c.s); err != nil || news && !f.strict(m) {
		return false, news, err
	}
	if err = w.look(ctx, c.s); err != nil {
		return false, false, m.noted(&m.fleet.readErr, err)
	}
	if !w.mayClaim() {
		return false, false, nil
	}
	if stands, err = c.settle(ctx); err != nil || !stands {
		return false, false, m.noted(&m.fleet.writeErr, err)
	}
	if news, err = m.look(ctx, c.s); err != nil || news && !f.strict(m) {
		c.end()
		return false, news, err
	}
	return true, false, nil
}

// watch is what is known of who else fetches.
type watch struct {
	own     string
	since   time.Time // when the waiting began
	last    sign
	changed time.Time // when last was first seen

	locked, refused bool // the lock
	refusedAt       time.Time
}

// look reads the sign of life.
func (w *watch) look(ctx context.Context, s *shelf) error {
	raw, found, err := s.load(ctx, "alive")
	if err != nil {
		return err
	}
	var now sign
	if found {
		_ = json.Unmarshal(raw, &now) // what makes no sense is nobody's
	}
	if now != w.last {
		w.last, w.changed = now, time.Now()
	}
	return nil
}

// mayClaim reports whether nobody else fetches who is alive.
func (w *watch) mayClaim() bool {
	if time.Since(w.since) >= claimPatience {
		return true
	}
	fetches := w.last.ID != "" && w.last.ID != w.own && !w.last.Done
	if fetches {
		return time.Since(w.changed) >= signPatience
	}
	return w.locked || w.refused || time.Since(w.since) >= signPatience
}

// settle claims, and reports whether the claim stands.
func (c *claim) settle(ctx context.Context) (stands bool, err error) {
	if err := c.s.save(ctx, "alive", c.sign); err != nil {
		return false, err
	}
	time.Sleep(settleTime)
	raw, found, err := c.s.load(ctx, "alive")
	if err != nil {
		return false, err
	}
	var now sign
	return found && json.Unmarshal(raw, &now) == nil && now.ID == c.sign.ID, nil
}

// live gives signs of life until the claim is released.
func (c *claim) live() {
	tick := time.NewTicker(signEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.sign.Count++
			_ = c.s.save(context.Background(), "alive", c.sign)
		case <-c.stop:
			c.end()
			c.lock.release()
			return
		}
	}
}

// end says that this claim is over.
func (c *claim) end() {
	c.sign.Done = true
	_ = c.s.save(context.Background(), "alive", c.sign)
}

// release gives the right to fetch back. It waits for nothing.
func (c *claim) release() { close(c.stop) }
