// Package replay holds the bodies of uploads on their way: each is passed on as it
// arrives, and kept within a budget of memory, so that it can be sent again.
package replay

// The record of one upload: what has arrived of it and is still held.

import (
	"cmp"
	"errors"
	"io"
	"math"
	"slices"
	"sort"
	"sync"
	"time"
)

// What goes wrong with an upload, apart from its caller's own errors.
var (
	ErrTooLarge = errors.New("upload is larger than allowed")
	ErrNoMemory = errors.New("the memory for uploads is used up")
	ErrClosed   = errors.New("upload is not read any more")
)

// MaxHead is how much Head shows at the most, in bytes.
const MaxHead = 3 << 10

// minRead is the least room, in bytes, that is worth a read unless less is to come.
// With MaxHead it fits into the smallest piece.
const minRead = 1 << 10

// kickAgain is how long Abandon waits for a read to end before it kicks once more: the
// reader below may have set a deadline of its own after the first kick.
const kickAgain = 20 * time.Millisecond

// Options say what is known of an upload beforehand.
type Options struct {
	Length int64   // bytes that the caller announced; -1 if unknown. Bytes beyond are not read.
	Most   int64   // the most bytes that an upload of unknown length may have
	Budget *Budget // which it is kept within; required

	// Beside is how much memory, in bytes, the upload may take beside the budget and
	// Reserve while it is on its way: two pieces of 4, 16, 64 or 128 KiB, as large as
	// fit. Default: DefaultBeside.
	Beside int64
}

// Upload is one caller's body. Any number of attempts may read it, each from its
// beginning, as long as it is kept; bytes are read from the caller once. Memory is
// taken as bytes arrive: a caller who has sent nothing costs 4 KiB, and after that pieces
// become as large as his reads make worth while, up to 128 KiB.
//
// When the budget is used up, the upload is no longer kept: what the last attempt opened has
// passed is given back, and the rest goes through at most two pieces, of which one is on its way
// out and one is read ahead. They are as large as Options.Beside allows, or larger as far as
// Reserve goes. So a caller holds half of Beside at the most, outside of the budget and of Reserve,
// while he is waited for, and all of it while the other side is; one who drips less than 1 KiB at a
// time, 4 KiB.
//
// An attempt that is given up may still sit in a read of the caller's body. What
// that read brings goes into the record, so that nothing is lost to the next attempt.
//
// All methods may be called from any goroutine, except that Head and Gather come
// before the first attempt is read.
type Upload struct {
	src    io.Reader
	most   int64 // limit of an upload of unknown length
	sure   int   // the largest size of pieces that it gets without Reserve
	budget *Budget

	mu      sync.Mutex
	changed sync.Cond
	length  int64    // -1 if unknown
	pieces  []*piece // what is held: from the offset base to size
	base    int64    // above 0: the beginning is gone
	size    int64    // bytes read from the caller
	err     error    // nothing more is read: how the caller's body ended, or why
	ended   bool     // the caller's body has ended, or broken
	want    int      // size of the next piece

	dropping bool     // not kept: what the current attempt has passed goes
	current  *Attempt // the last one opened
	open     int      // attempts that have not been closed
	filling  bool     // somebody is reading the caller's body
	ahead    bool     // readAhead runs
	finished bool     // there will be no further attempt
	sent     bool     // an attempt handed over the last byte
}

// New wraps a caller's body. Nothing is read yet. In the end the upload has to be told: Finish or Abandon.
func New(src io.Reader, o Options) *Upload {
	u := &Upload{src: src, length: max(o.Length, -1), most: o.Most, budget: o.Budget}
	u.changed.L = &u.mu
	beside := cmp.Or(o.Beside, DefaultBeside)
	for u.sure+1 < len(sizes) && 2*int64(sizes[u.sure+1]) <= beside {
		u.sure++
	}
	if u.length == 0 {
		u.err, u.ended = io.EOF, true
	}
	return u
}

// Head waits until the first n bytes have arrived, or the body has ended, and returns
// what there is of them; n is MaxHead at the most. The bytes must not be changed; they
// stay what they are. The error is the caller's, other than io.EOF.
func (u *Upload) Head(n int) ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n = min(n, MaxHead)
	for u.size < int64(n) && u.err == nil {
		u.advance()
	}
	if u.base > 0 || len(u.pieces) == 0 {
		return nil, u.failure()
	}
	p := u.pieces[0]
	p.shown = true
	if n = min(n, len(p.buf)); n < len(p.buf) {
		return p.buf[:n:n], nil
	}
	return p.buf[:n:n], u.failure()
}

// Gather reads a body of unknown length to its end and keeps all of it, after
// which its length is known. It fails with ErrTooLarge, with ErrNoMemory beyond the budget,
// and with the caller's error; the upload is then over, and its memory given back.
func (u *Upload) Gather() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.length < 0 && u.err == nil && !u.dropping {
		u.advance()
	}
	if u.length < 0 && u.dropping && (u.err == nil || u.err == io.EOF) {
		u.err = ErrNoMemory
	}
	if u.err != nil && u.err != io.EOF {
		u.finished = true
		u.freeIfUnused()
		return u.err
	}
	if u.length < 0 {
		u.length = u.size
	}
	return nil
}

// left is how much may still be read from the caller.
func (u *Upload) left() int64 {
	switch {
	case u.length >= 0:
		return u.length - u.size
	case u.most < math.MaxInt64:
		return u.most + 1 - u.size // one more tells that it is too large
	}
	return math.MaxInt64
}

// room returns a piece of the record to read into, or nil if there is none to be
// had before the current attempt goes on.
func (u *Upload) room() *piece {
	left, tail := u.left(), (*piece)(nil)
	if n := len(u.pieces); n > 0 {
		tail = u.pieces[n-1]
		if !tail.sealed && int64(cap(tail.buf)-len(tail.buf)) >= min(minRead, left) {
			return tail
		}
	}
	size, in := u.want, loose
	for size > smallest && int64(sizes[size-1]) >= left {
		size--
	}
	switch {
	case !u.dropping: // the smallest is taken from the budget when something arrives
		for ; size > smallest; size-- {
			if u.budget.keep(int64(sizes[size])) {
				in = fromBudget
				break
			}
		}
	case tail != nil && (u.current == nil || u.current.off <= tail.start):
		return nil
	default:
		for ; size > u.sure; size-- {
			if take(&u.budget.reserved, int64(sizes[size]), Reserve) {
				in = fromReserve
				break
			}
		}
	}
	p := u.budget.newPiece(size, in, u.size)
	u.pieces = append(u.pieces, p)
	return p
}

// advance reads once from the caller, or waits for something to change if that cannot be.
func (u *Upload) advance() {
	if !u.filling {
		if p := u.room(); p != nil {
			u.fill(p)
			return
		}
	}
	u.changed.Wait()
}

// fill reads once from the caller into p, which is the record's last piece.
func (u *Upload) fill(p *piece) {
	at := len(p.buf)
	dst := p.buf[at : at+int(min(int64(cap(p.buf)-at), u.left()))]
	n, err := u.readCaller(dst)
	p.buf = p.buf[:at+n]
	u.size += int64(n)
	if u.want = smallest; n == len(dst) {
		u.want = p.size + 1
	}
	for u.want < len(sizes)-1 && sizes[u.want] <= n {
		u.want++
	}
	u.want = min(u.want, len(sizes)-1)
	switch {
	case u.dropping:
		p.sealed = p.size > smallest && n < sizes[smallest] // not to wait in so much for a caller who drips
	case n > 0 && p.in == loose && !u.budget.adopt(p):
		u.dropping = true
	}
	u.ended = u.ended || err != nil || u.size == u.length // no need to wait for the caller to say so
	switch {
	case u.err != nil:
	case u.length < 0 && u.size > u.most:
		u.err = ErrTooLarge
		p.buf, u.size = p.buf[:len(p.buf)-1], u.most
	case u.size == u.length:
		u.err = io.EOF
	case err == io.EOF && u.length >= 0:
		u.err = io.ErrUnexpectedEOF
	default:
		u.err = err
	}
	if u.dropping {
		u.drop()
	}
	u.freeIfUnused()
}

// readCaller reads once from the caller without holding u.mu meanwhile.
func (u *Upload) readCaller(p []byte) (int, error) {
	u.filling = true
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		u.filling = false
		u.changed.Broadcast()
	}()
	return u.src.Read(p)
}

// readAhead reads the caller's body, however slowly the other side takes it: all of it if it is
// kept, or else a piece. net/http learns that an HTTP/1.1 caller has left only by
// reading from him: without it, an upload to a server that stands still would go on
// without its caller.
func (u *Upload) readAhead() {
	u.mu.Lock()
	defer u.mu.Unlock()
	defer func() {
		u.ahead = false
		u.changed.Broadcast()
	}()
	for !u.finished && u.err == nil {
		u.advance()
	}
}

// drop gives back what the current attempt has passed of an upload that is not kept.
func (u *Upload) drop() {
	for len(u.pieces) > 0 && u.current != nil {
		p := u.pieces[0]
		end := p.start + int64(len(p.buf))
		if u.current.off < end || u.filling && len(u.pieces) == 1 {
			return
		}
		u.base = end
		u.pieces = slices.Delete(u.pieces, 0, 1)
		u.remove(p)
	}
}

// remove ends a piece's place in the record; its memory goes back when no writer has it.
func (u *Upload) remove(p *piece) {
	p.gone = true
	if p.pins == 0 {
		u.budget.release(p)
	}
}

func (u *Upload) freeIfUnused() {
	if !u.finished || u.open > 0 || u.filling {
		return
	}
	for _, p := range u.pieces {
		u.remove(p)
	}
	u.pieces, u.base = nil, math.MaxInt64
}

// at returns the piece with the byte at off, which is in the record.
func (u *Upload) at(off int64) *piece {
	return u.pieces[sort.Search(len(u.pieces), func(i int) bool { return u.pieces[i].start > off })-1]
}

// Length is the upload's length in bytes, or -1 as long as it is unknown.
func (u *Upload) Length() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.length
}

// Replayable reports whether the upload can be sent from its beginning. It has to be
// asked before each attempt but the first, a request's GetBody included: what Open
// returns otherwise fails with ErrClosed. An earlier attempt that has not been closed
// may change the answer of an upload that the budget has no room for.
func (u *Upload) Replayable() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.finished && u.base == 0 && (u.err == nil || u.err == io.EOF)
}

// CallerErr is what went wrong on the caller's side, if anything did: his body's
// error, io.ErrUnexpectedEOF if it was short, or ErrTooLarge.
func (u *Upload) CallerErr() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == ErrNoMemory || u.err == ErrClosed {
		return nil
	}
	return u.failure()
}

func (u *Upload) failure() error {
	if u.err == io.EOF {
		return nil
	}
	return u.err
}

// Unread reports whether there is more to come from the caller.
func (u *Upload) Unread() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.ended
}

// EverSent reports whether some attempt was given the whole upload, so that the
// other side may have taken it whatever became of the reply.
func (u *Upload) EverSent() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent
}

// Finish says that no further attempt follows. Memory goes back when the last
// attempt is closed, which http.Transport may do some time after its answer. Nothing is
// read ahead any more; a read under way ends when the caller's body does, or by Abandon.
func (u *Upload) Finish() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.finished = true
	u.changed.Broadcast()
	u.freeIfUnused()
}

// Abandon ends the upload for good: the caller's body is not touched any more
// once it returns. kick must make a read under way return; it must not call u's methods.
func (u *Upload) Abandon(kick func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.finished = true
	if u.err == nil {
		u.err = ErrClosed
	}
	u.changed.Broadcast()
	for u.filling || u.ahead {
		if u.filling {
			kick()
		}
		again := time.AfterFunc(kickAgain, func() {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.changed.Broadcast()
		})
		u.changed.Wait()
		again.Stop()
	}
	u.freeIfUnused()
}
