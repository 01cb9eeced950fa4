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

	// claimPatience is how long others are waited for that fetch and bring nothing.
	claimPatience = 30 * time.Second
)

// claim is the right to fetch, or what is known on the way to it.
type claim struct {
	s     *shelf
	lock  *lock
	sign  sign
	stop  chan struct{}
	since time.Time // when the waiting began

	// who else fetches, and when that was first seen
	other   sign
	changed time.Time
}

// claim waits for the right to fetch. It comes back without it when another gateway
// has stored a token, with an error when the store fails, and with nothing when ctx
// ends.
func (m *Manager) claim(ctx context.Context, f *flight, s *shelf) (mine *claim, news bool, err error) {
	c := &claim{s: s, lock: s.lock(), sign: sign{ID: rand.Text()}, stop: make(chan struct{}), since: time.Now()}
	defer func() {
		if mine == nil {
			go c.lock.release()
		}
	}()
	glance := time.NewTicker(glanceEvery)
	defer glance.Stop()
	answer := c.lock.done
	for {
		select {
		case <-answer:
			answer = nil
		case <-glance.C:
		case <-ctx.Done():
			return nil, false, nil
		}
		if news, err = m.look(s); err != nil || news && f.goal.Load() != toAsk {
			return nil, news, err
		}
		if stands, err := m.stake(c, answer == nil); err != nil {
			return nil, false, err
		} else if !stands {
			continue
		}
		if news, err = m.look(s); err != nil || news && f.goal.Load() != toAsk {
			c.end()
			return nil, news, err
		}
		go c.live()
		return c, false, nil
	}
}

// stake claims if nobody else fetches who is alive, and reports whether the claim
// stands. answered says that the lock is held, or good for nothing.
func (m *Manager) stake(c *claim, answered bool) (stands bool, err error) {
	now, err := m.sign(c.s)
	if err != nil {
		return false, err
	}
	if now != c.other {
		c.other, c.changed = now, time.Now()
	}
	waited := time.Since(c.since)
	free := answered || waited >= signPatience
	if now.ID != "" && now.ID != c.sign.ID && !now.Done {
		free = time.Since(c.changed) >= signPatience
	}
	if !free && waited < claimPatience {
		return false, nil
	}
	if err = m.save(c.s, "alive", c.sign); err != nil {
		return false, err
	}
	time.Sleep(settleTime)
	now, err = m.sign(c.s)
	return now.ID == c.sign.ID, err
}

// sign reads the sign of life. What makes no sense is nobody's.
func (m *Manager) sign(s *shelf) (now sign, err error) {
	raw, found, err := m.load(s, "alive")
	if found {
		_ = json.Unmarshal(raw, &now)
	}
	return now, err
}

// live gives signs of life until the claim is released.
func (c *claim) live() {
	tick := time.NewTicker(signEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.sign.Count++
			_ = c.s.save("alive", c.sign)
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
	_ = c.s.save("alive", c.sign)
}

// release gives the right to fetch back. It waits for nothing.
func (c *claim) release() { close(c.stop) }
