package wire

// Connections made ahead. For each destination there are to be as many at hand,
// idle in the caller's pool or here, as recent requests would have needed in order
// not to wait; which is none where connections are reused and one is alive.

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"syscall"
	"time"
)

const (
	// demandLasts is for how long after the last request a connection is kept ready: a minute, and
	// some time for who comes a little later.
	demandLasts = 75 * time.Second

	// demandWindow is how often it is looked at how many spares were too many.
	demandWindow = 5 * time.Second

	// Where there has been no request for lullBegins, as many connections are kept
	// ready as were in use before or closed within what it takes to replace one, about
	// replaceTakes, and maxLull at the most: what they
	// cost, a new one every IdleTimeout, is paid before it is known whether anybody comes.
	lullBegins   = 2 * time.Second
	maxLull      = 32
	replaceTakes = 100 * time.Millisecond

	// makeTimeout is how long a spare may take to be made.
	makeTimeout = 30 * time.Second

	// A spare that cannot be made, or dies younger than retryFirst, is tried again after retryFirst, then after twice
	// that, and so on.
	retryFirst = 2 * time.Second
	retryMost  = 15 * time.Second

	// replaceAhead is how long before its end a spare is replaced.
	replaceAhead = time.Second
)

// errUnasked is what ends a connection whose peer speaks first.
var errUnasked = errors.New("bytes arrived that nobody asked for")

// destination is where connections of one key lead. Its Dialer's mu guards it.
type destination struct {
	d     *Dialer
	route route
	ctx   context.Context // detached from the last request that dialed; nil before that

	lent     int // connections handed out and not closed
	requests int // under way
	making   int // spares
	waiters  []chan net.Conn
	spares   []*spare // the oldest first
	last     time.Time
	timer    *time.Timer
	alarm    time.Time // when timer fires

	want   int       // spares that would have been enough lately
	least  int       // connections that were idle throughout the window
	closed [2]int    // connections that were closed in this window and the one before
	peak   [2]int    // the most connections in use or being replaced at once, in this window and in those before
	window time.Time // when this window began
	reused bool      // a request began with a connection idle
	lately [2]int    // connections closed in this replaceTakes and in the one before
	since  time.Time // when this one began

	failures int
	retry    time.Time // no spare is made before
}

// spare is a connection that waits to be taken, watched by a goroutine.
type spare struct {
	net.Conn
	made  time.Time
	old   bool       // to be replaced
	ended chan error // of the watch, once it has been taken
}

// to returns the destination of r. mu is held.
func (d *Dialer) to(r route) *destination {
	dst := d.destinations[r.key]
	if dst == nil {
		dst = &destination{d: d, route: r, want: 1, window: time.Now()}
		d.destinations[r.key] = dst
	}
	dst.last = time.Now()
	return dst
}

// counts reports whether spares are made for r. mu is held.
func (d *Dialer) counts(r route) bool {
	return !d.closed && d.options.MaxSpares > 0 && r.key != ""
}

func (d *Dialer) begin(r route) Use {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.counts(r) {
		return Use{}
	}
	dst := d.to(r)
	dst.reused = dst.reused || dst.idle() > 0
	dst.requests++
	dst.peak[0] = max(dst.peak[0], dst.requests+dst.closedLately(0))
	dst.maintain()
	return Use{d, dst}
}

// lend hands conn out, which was made for a request.
func (d *Dialer) lend(r route, conn net.Conn) *Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.counts(r) {
		return &Conn{Conn: conn}
	}
	dst := d.to(r)
	c := dst.lend(conn, false)
	dst.maintain()
	return c
}

func (dst *destination) lend(conn net.Conn, waited bool) *Conn {
	dst.lent++
	return &Conn{Conn: conn, waited: waited, dest: dst}
}

// returned says that a connection which was handed out is closed.
func (dst *destination) returned() {
	dst.d.mu.Lock()
	defer dst.d.mu.Unlock()
	dst.lent--
	dst.turn()
	dst.closed[0]++
	dst.closedLately(1)
	dst.maintain()
}

// take returns a spare, or one that is being made; nil if the request has to make
// its own connection.
func (d *Dialer) take(ctx context.Context, r route) (*Conn, error) {
	detached := d.options.Detach(ctx)
	d.mu.Lock()
	if !d.counts(r) {
		d.mu.Unlock()
		return nil, nil
	}
	dst := d.to(r)
	first := dst.ctx == nil
	dst.ctx, dst.route = detached, r
	for len(dst.spares) > 0 {
		s := dst.spares[0]
		dst.spares = dst.spares[1:]
		dst.failures, dst.retry = 0, time.Time{}
		c := dst.lend(s.Conn, true)
		dst.maintain()
		d.mu.Unlock()
		if s.wake() {
			d.options.Observe(SpareTaken)
			return c, nil
		}
		d.options.Observe(SpareExpired)
		_ = c.Close()
		d.mu.Lock()
	}
	waiter := dst.miss(first)
	d.mu.Unlock()
	d.options.Observe(SpareMissed)
	if waiter == nil {
		return nil, nil
	}
	return dst.wait(ctx, r, waiter)
}

// miss learns from a request that finds no spare, and lets it wait for one that is
// being made, if one is left. mu is held.
func (dst *destination) miss(first bool) (waiter chan net.Conn) {
	if !first {
		dst.turn()
		dst.want = min(dst.want+1, dst.d.options.MaxSpares)
	}
	if dst.making > len(dst.waiters) && !dst.d.closed {
		waiter = make(chan net.Conn, 1)
		dst.waiters = append(dst.waiters, waiter)
	}
	dst.maintain()
	return waiter
}

// wait waits for a connection that is being made.
func (dst *destination) wait(ctx context.Context, r route, waiter chan net.Conn) (*Conn, error) {
	var conn net.Conn
	select {
	case conn = <-waiter:
	case <-ctx.Done():
		dst.d.mu.Lock()
		defer dst.d.mu.Unlock()
		if i := slices.Index(dst.waiters, waiter); i >= 0 {
			dst.waiters = slices.Delete(dst.waiters, i, i+1)
		} else if conn = <-waiter; conn != nil {
			dst.park(conn)
		}
		dst.maintain()
		return nil, ctx.Err()
	}
	if conn == nil {
		return nil, nil
	}
	return dst.d.lend(r, conn), nil
}

// turn ends a window that is over: what was idle throughout was too much, and half of
// that is given up.
func (dst *destination) turn() {
	for now := time.Now(); now.Sub(dst.window) >= demandWindow; dst.window = dst.window.Add(demandWindow) {
		dst.want = max(1, dst.want-dst.least/2)
		dst.least = dst.ready()
		dst.closed[1], dst.closed[0] = dst.closed[0], 0
		if dst.peak[0] > 0 { // a lull tells nothing
			dst.peak[1] = max(dst.peak[0], (dst.peak[0]+dst.peak[1])/2)
			dst.peak[0] = dst.requests
		}
	}
}

// closedLately counts n more connections that were closed, and returns how many were in
// the time that it takes to replace one, or twice that.
func (dst *destination) closedLately(n int) int {
	switch passed := time.Since(dst.since); {
	case passed >= 2*replaceTakes:
		dst.lately, dst.since = [2]int{}, time.Now()
	case passed >= replaceTakes:
		dst.lately = [2]int{0, dst.lately[0]}
		dst.since = dst.since.Add(replaceTakes)
	}
	dst.lately[0] += n
	return dst.lately[0] + dst.lately[1]
}

// idle is how many connections wait in the caller's pool.
func (dst *destination) idle() int { return max(0, dst.lent-dst.requests) }

func (dst *destination) ready() int { return dst.idle() + len(dst.spares) }

// target is how many connections should be ready.
func (dst *destination) target() int {
	closed, lull := dst.closed[0]+dst.closed[1], time.Since(dst.last)
	switch {
	case dst.ctx == nil || lull >= demandLasts:
		return 0
	case dst.requests == 0 && lull >= lullBegins:
		return min(max(dst.peak[0], dst.peak[1]), maxLull, dst.d.options.MaxSpares)
	case dst.lent > 0 && dst.reused && closed == 0:
		return 0
	}
	return min(dst.want, 1+closed)
}

// maintain has spares made that are missing, and forgets what nobody asks for. mu
// is held.
func (dst *destination) maintain() {
	d, now := dst.d, time.Now()
	if d.closed {
		return
	}
	dst.turn()
	supply := dst.ready() + dst.making - len(dst.waiters)
	for _, s := range dst.spares {
		if s.old {
			supply--
		}
	}
	for ; supply < dst.target() && !now.Before(dst.retry) && d.hasRoom(d.open.Load()+int64(dst.making)); supply++ {
		dst.making++
		ctx, r := dst.ctx, dst.route
		d.background.Go(func() { dst.makeOne(ctx, r) })
	}
	dst.least = min(dst.least, dst.ready())

	next := dst.last.Add(demandLasts)
	if lull := dst.last.Add(lullBegins); dst.requests == 0 && now.Before(lull) {
		next = lull
	}
	if now.Before(dst.retry) && dst.retry.Before(next) {
		next = dst.retry
	}
	switch {
	case now.Before(next):
		dst.wakeAt(next)
	case dst.lent+dst.requests+dst.making+len(dst.spares) == 0:
		delete(d.destinations, dst.route.key)
	}
}

// wakeAt has maintain called again, not later than then.
func (dst *destination) wakeAt(then time.Time) {
	if !dst.alarm.IsZero() && !then.Before(dst.alarm) {
		return
	}
	if dst.timer != nil {
		dst.timer.Stop()
	}
	dst.alarm = then
	dst.timer = time.AfterFunc(time.Until(then), func() {
		dst.d.mu.Lock()
		defer dst.d.mu.Unlock()
		dst.alarm = time.Time{}
		dst.maintain()
	})
}

// makeOne makes a spare. That it cannot be made is nobody's failure.
func (dst *destination) makeOne(ctx context.Context, r route) {
	d := dst.d
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, spareKey{}, true), makeTimeout)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	conn, err := d.connect(ctx, r)

	d.mu.Lock()
	defer d.mu.Unlock()
	dst.making--
	if err != nil {
		dst.backOff()
		if dst.making < len(dst.waiters) { // who waits too much makes its own
			dst.waiters[0] <- nil
			dst.waiters = dst.waiters[1:]
		}
	} else {
		dst.park(conn)
	}
	dst.maintain()
}

// backOff is for when spares cannot be made, or do not last.
func (dst *destination) backOff() {
	dst.retry = time.Now().Add(min(retryFirst<<min(dst.failures, 10), retryMost))
	dst.failures++
}

// park gives conn to who waits for one, or keeps it. mu is held.
func (dst *destination) park(conn net.Conn) {
	d := dst.d
	switch {
	case len(dst.waiters) > 0:
		dst.waiters[0] <- conn
		dst.waiters = dst.waiters[1:]
	case d.closed:
		_ = conn.Close()
	default:
		s := &spare{Conn: conn, made: time.Now(), ended: make(chan error, 1)}
		dst.spares = append(dst.spares, s)
		_ = s.SetReadDeadline(time.Now().Add(d.options.IdleTimeout - d.replaceAhead()))
		d.background.Go(func() { dst.watch(s) })
	}
}

func (d *Dialer) replaceAhead() time.Duration {
	return min(replaceAhead, d.options.IdleTimeout/4)
}

// watch waits until a deadline of reads passes, or the peer closes s or says
// something, which would be an error of its. It takes in TLS's own messages, such as
// session tickets.
func (s *spare) watch() error {
	var p [1]byte
	n, err := s.Read(p[:])
	if n > 0 {
		return errUnasked
	}
	return err
}

// watch sees to a spare until it is taken, dead or too old.
func (dst *destination) watch(s *spare) {
	d := dst.d
	for {
		err := s.watch()
		d.mu.Lock()
		i := slices.Index(dst.spares, s)
		if i < 0 { // taken
			d.mu.Unlock()
			s.ended <- err
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !s.old {
			s.old = true
			_ = s.SetReadDeadline(time.Now().Add(d.replaceAhead()))
			dst.maintain()
			d.mu.Unlock()
			continue
		}
		dst.spares = slices.Delete(dst.spares, i, i+1)
		if time.Since(s.made) < retryFirst {
			dst.backOff()
		}
		dst.maintain()
		d.mu.Unlock()
		d.options.Observe(SpareExpired)
		_ = s.Close()
		return
	}
}

// wake ends the watch of a spare that has been taken, and reports whether it is
// alive.
func (s *spare) wake() bool {
	_ = s.SetReadDeadline(time.Unix(1, 0))
	if err := <-s.ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	_ = s.SetReadDeadline(time.Time{})
	for socket := socketOf(s.Conn); socket != nil && !quiet(socket); {
		// the watch has not heard of it, or it is a session ticket
		_ = s.SetReadDeadline(time.Now().Add(time.Millisecond))
		if err := s.watch(); !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		_ = s.SetReadDeadline(time.Time{})
	}
	return true
}

// socketOf returns what conn runs on in the end, or nil.
func socketOf(conn net.Conn) syscall.Conn {
	switch c := conn.(type) {
	case *tlsConn:
		return socketOf(c.records.Conn)
	case *stallConn:
		return socketOf(c.Conn)
	case *admittedConn:
		return socketOf(c.Conn)
	case syscall.Conn:
		return c
	}
	return nil
}

// Spares returns how many connections are ready.
func (d *Dialer) Spares() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, dst := range d.destinations {
		n += len(dst.spares)
	}
	return n
}

// Close closes all spares and waits for those that are being made. Connections that
// were handed out stay; those that are asked for later are made as without spares.
func (d *Dialer) Close() {
	d.mu.Lock()
	d.closed = true
	var spares []*spare
	for _, dst := range d.destinations {
		if dst.timer != nil {
			dst.timer.Stop()
		}
		spares = append(spares, dst.spares...)
		dst.spares = nil
	}
	clear(d.destinations)
	d.cancel()
	d.mu.Unlock()
	for _, s := range spares {
		_ = s.Close()
	}
	d.background.Wait()
}
