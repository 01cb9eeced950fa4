package replay

// One reading of an upload from its beginning.

import "io"

// Attempt is the body of one attempt to send an upload, read by http.Transport: from
// goroutines that may outlive its RoundTrip.
type Attempt struct {
	u      *Upload
	onSent func()
	off    int64
	closed bool
}

// Open starts an attempt, which has to be closed. onSent, if not nil, is called once, when
// the attempt has handed over the last byte: a Read has returned it, or a Write has taken it.
func (u *Upload) Open(onSent func()) *Attempt {
	u.mu.Lock()
	defer u.mu.Unlock()
	a := &Attempt{u: u, onSent: onSent}
	u.open++
	u.current = a
	return a
}

// Read implements io.Reader.
func (a *Attempt) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	from, next, all, err := a.next(len(p))
	n := copy(p, next)
	a.handedOver(from, all)
	return n, err
}

// WriteTo writes what is left of the upload to w; never more than its length. It hands w
// the record's own memory, which stays untouched until w's Write returns even if the
// attempt is closed meanwhile.
func (a *Attempt) WriteTo(w io.Writer) (sent int64, err error) {
	for {
		from, next, all, err := a.next(sizes[len(sizes)-1])
		if err != nil {
			a.handedOver(nil, all)
			if err == io.EOF {
				err = nil
			}
			return sent, err
		}
		n, err := w.Write(next)
		sent += int64(n)
		if err == nil && n < len(next) {
			err = io.ErrShortWrite
		}
		a.handedOver(from, all && err == nil)
		if err != nil {
			return sent, err
		}
	}
}

// next returns what comes next of the upload, limit bytes at most, in the memory of a
// piece, which is to be given back with handedOver; all says that nothing follows.
// It waits if need be.
func (a *Attempt) next(limit int) (from *piece, next []byte, all bool, err error) {
	u := a.u
	u.mu.Lock()
	defer u.mu.Unlock()
	if err = a.await(); err == nil {
		from = u.at(a.off)
		next = from.buf[a.off-from.start:]
		next = next[:min(len(next), limit):min(len(next), limit)]
		from.pins++
		a.off += int64(len(next))
		if !u.ahead && !u.finished && u.err == nil {
			u.ahead = true
			go u.readAhead()
		}
		if u.dropping {
			u.drop()
			u.changed.Broadcast() // to readAhead
		}
	}
	all = u.err == io.EOF && a.off == u.size && (err == nil || err == io.EOF)
	u.sent = u.sent || all // before a byte of it leaves
	return from, next, all, err
}

// await waits until the byte at a.off is in the record, or will not be.
func (a *Attempt) await() error {
	u := a.u
	for {
		switch {
		case a.closed || a.off < u.base:
			return ErrClosed
		case a.off < u.size:
			return nil
		case u.err != nil:
			return u.err
		}
		u.advance()
	}
}

// handedOver gives back a piece, and calls onSent after the last one.
func (a *Attempt) handedOver(p *piece, all bool) {
	u := a.u
	u.mu.Lock()
	if p != nil {
		if p.pins--; p.gone && p.pins == 0 {
			u.budget.release(p)
		}
	}
	onSent := a.onSent
	if all {
		a.onSent = nil
	}
	u.mu.Unlock()
	if all && onSent != nil {
		onSent()
	}
}

// Close ends the attempt, and a Read or WriteTo of it that waits, unless that itself sits in a
// read of the caller's body: it then ends with that.
func (a *Attempt) Close() error {
	u := a.u
	u.mu.Lock()
	defer u.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	u.open--
	u.changed.Broadcast()
	u.freeIfUnused()
	return nil
}

// Interface guards
var (
	_ io.ReadCloser = (*Attempt)(nil)
	_ io.WriterTo   = (*Attempt)(nil)
)
