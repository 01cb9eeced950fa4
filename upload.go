package wechatmedia

// The body of an upload on its way to WeChat: passed on as it arrives, and kept
// within a budget of memory, so that it can be sent again when WeChat refuses
// the access token or a connection turns out to be dead.

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// uploadChunk is the unit in which uploads are kept, read and written, in bytes: each
// chunk costs a system call on either side, and every upload has one at the least.
const uploadChunk = 128 << 10

var uploadChunks = sync.Pool{New: func() any { return new([uploadChunk]byte) }}

// budget is an amount of memory, in bytes, that all uploads share.
type budget struct {
	limit int64
	used  atomic.Int64
}

// reserve takes n bytes of the budget if they are there.
func (b *budget) reserve(n int64) bool {
	for {
		used := b.used.Load()
		if n > b.limit-used {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			keptBytes.Add(n)
			return true
		}
	}
}

func (b *budget) release(n int64) {
	b.used.Add(-n)
	keptBytes.Add(-n)
}

// keptBytes is what all budgets of the process have in use.
var keptBytes atomic.Int64

var (
	errUploadTooLarge = errors.New("upload is larger than max_upload_size")
	errUploadNoMemory = errors.New("replay_buffer is used up")
	errUploadClosed   = errors.New("upload is not read any more")
)

// upload is one caller's body. Any number of attempts may read it, each from its
// beginning, as long as it is kept; bytes are read from the caller once.
//
// An attempt that is given up may still sit in a read of the caller's body. What
// that read brings goes into the record, not into the attempt's own buffer, so
// that nothing is lost to the next attempt.
type upload struct {
	src    io.Reader
	length int64 // what the caller announced; -1 when unknown
	budget *budget

	// readDeadline, if not nil, is told before each read of the caller's body
	// (true) and when no more will follow (false)
	readDeadline func(reading bool)

	mu       sync.Mutex
	changed  *sync.Cond
	kept     bool // chunks hold everything that was read
	chunks   []*[uploadChunk]byte
	size     int64 // bytes read from the caller
	err      error // how the caller's body ended
	filling  bool  // somebody is reading the caller's body
	ahead    bool  // readAhead has been started
	readers  int   // attempts that have not been closed
	finished bool  // there will be no further attempt
	sent     bool  // an attempt handed over the last byte
	reserved int64
}

// newUpload wraps a body of known length. It is kept if the budget allows.
func newUpload(src io.Reader, length int64, b *budget) *upload {
	u := &upload{src: src, length: length, budget: b}
	u.changed = sync.NewCond(&u.mu)
	if size := chunked(length); b.reserve(size) {
		u.kept, u.reserved = true, size
	}
	return u
}

// chunked rounds n up to whole chunks, which is what it costs to keep n bytes.
func chunked(n int64) int64 {
	return (n + uploadChunk - 1) / uploadChunk * uploadChunk
}

// gatherUpload reads a body of unknown length to its end and keeps all of it.
// It fails with errUploadTooLarge beyond limit bytes, with errUploadNoMemory
// beyond the budget, and with the caller's error.
func gatherUpload(src io.Reader, limit int64, b *budget, readDeadline func(bool)) (*upload, error) {
	u := &upload{src: src, length: -1, budget: b, readDeadline: readDeadline, kept: true}
	u.changed = sync.NewCond(&u.mu)
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.err == nil {
		if u.size == u.reserved {
			if !b.reserve(uploadChunk) {
				u.discard()
				return nil, errUploadNoMemory
			}
			u.reserved += uploadChunk
		}
		u.fill()
		if u.size > limit {
			u.discard()
			return nil, errUploadTooLarge
		}
	}
	if u.err != io.EOF {
		err := u.err
		u.discard()
		return nil, err
	}
	u.length = u.size
	return u, nil
}

// fill reads once from the caller into the record. u.mu is held, except while
// the caller is waited for.
func (u *upload) fill() {
	off := int(u.size % uploadChunk)
	if off == 0 && int64(len(u.chunks))*uploadChunk == u.size {
		u.chunks = append(u.chunks, uploadChunks.Get().(*[uploadChunk]byte))
	}
	dst := u.chunks[len(u.chunks)-1][off:]
	n, err := u.readCaller(dst)
	u.size += int64(n)
	u.ended(err)
}

// readAhead reads the caller's body to its end, however slowly WeChat takes it.
// net/http learns that an HTTP/1.1 caller has left only by reading from him: without
// it, an upload to a WeChat that stands still would go on without its caller.
func (u *upload) readAhead() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.kept && !u.finished && u.err == nil {
		if u.filling {
			u.changed.Wait()
		} else {
			u.fill()
		}
	}
	u.freeIfUnused()
}

// readCaller reads once from the caller without holding u.mu meanwhile.
func (u *upload) readCaller(p []byte) (int, error) {
	u.filling = true
	if u.readDeadline != nil {
		u.readDeadline(true) // while u.mu is held, or it could undo what abandon does to end the read
	}
	u.mu.Unlock()
	n, err := u.src.Read(p)
	u.mu.Lock()
	u.filling = false
	u.changed.Broadcast()
	return n, err
}

// ended notes how the caller's body ended, if it did. u.mu is held.
func (u *upload) ended(err error) {
	if err == nil && u.size == u.length {
		err = io.EOF // no need to wait for the caller to say so
	}
	if err == nil {
		return
	}
	if err == io.EOF && u.length >= 0 && u.size < u.length {
		err = io.ErrUnexpectedEOF
	}
	u.err = err
	if u.readDeadline != nil {
		u.readDeadline(false)
	}
}

// replayable reports whether the upload can be sent from its beginning.
func (u *upload) replayable() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.finished && (u.kept || u.size == 0 && !u.filling) && (u.err == nil || u.err == io.EOF)
}

// callerErr is what went wrong on the caller's side, if anything did.
func (u *upload) callerErr() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == io.EOF {
		return nil
	}
	return u.err
}

// unread reports whether there is more to come from the caller.
func (u *upload) unread() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err == nil
}

// everSent reports whether some attempt was given the whole upload, so that
// WeChat may have stored it whatever became of the reply.
func (u *upload) everSent() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent
}

// open starts an attempt. The caller must have seen that u is replayable, or
// that this is the first one.
func (u *upload) open(w *watchdog) *uploadAttempt {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.readers++
	return &uploadAttempt{u: u, watchdog: w}
}

// finish says that no further attempt follows. Memory goes back when the last
// attempt is closed, which http.Transport may do some time after its answer.
func (u *upload) finish() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.finished = true
	u.freeIfUnused()
}

// abandon ends the upload for good: the caller's body is not touched any more
// once it returns. kick must make a read under way return.
func (u *upload) abandon(kick func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.finished = true
	if u.err == nil {
		u.err = errUploadClosed
	}
	if u.filling {
		kick()
	}
	for u.filling {
		u.changed.Wait()
	}
	u.changed.Broadcast()
	u.freeIfUnused()
}

func (u *upload) freeIfUnused() {
	if u.finished && u.readers == 0 && !u.filling {
		u.discard()
	}
}

// discard gives the memory back. u.mu is held.
func (u *upload) discard() {
	for _, c := range u.chunks {
		uploadChunks.Put(c)
	}
	u.budget.release(u.reserved)
	u.chunks, u.reserved, u.kept = nil, 0, false
}

// uploadAttempt is the body of one attempt, read by http.Transport.
type uploadAttempt struct {
	u        *upload
	watchdog *watchdog // runs while WeChat's side is waited for; may be nil
	off      int64
	closed   bool
}

func (a *uploadAttempt) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	a.u.mu.Lock()
	defer a.u.mu.Unlock()
	next, err := a.next(int64(len(p)), p)
	return copy(p, next), err // next may be p
}

// sendTo writes what is left of the upload, at most limit bytes, to w. It hands w the
// record's own memory, which stays untouched as long as w has it even if the attempt
// is closed meanwhile.
func (a *uploadAttempt) sendTo(w io.Writer, limit int64) (sent int64, err error) {
	u := a.u
	u.mu.Lock()
	defer u.mu.Unlock()
	u.readers++
	defer func() {
		u.readers--
		u.freeIfUnused()
	}()
	var buf []byte
	if !u.kept {
		chunk := uploadChunks.Get().(*[uploadChunk]byte)
		defer uploadChunks.Put(chunk)
		buf = chunk[:]
	}
	for sent < limit && err == nil {
		var next []byte
		if next, err = a.next(limit-sent, buf); err != nil {
			break
		}
		u.mu.Unlock()
		var n int
		n, err = w.Write(next)
		sent += int64(n)
		u.mu.Lock()
	}
	if err == io.EOF {
		err = nil
	}
	return sent, err
}

// next returns what comes next of the upload, limit bytes at most: a part of the
// record or, if the upload is not kept, of buf. It waits if need be. u.mu is held.
func (a *uploadAttempt) next(limit int64, buf []byte) ([]byte, error) {
	a.watchdog.callersTurn()
	next, err := a.await(limit, buf)
	a.off += int64(len(next))
	a.u.sent = a.u.sent || a.u.length >= 0 && a.off >= a.u.length
	if err == io.EOF {
		a.watchdog.replysTurn()
	} else {
		a.watchdog.wechatsTurn()
	}
	return next, err
}

func (a *uploadAttempt) await(limit int64, buf []byte) ([]byte, error) {
	u := a.u
	for {
		switch {
		case a.closed:
			u.freeIfUnused()
			return nil, errUploadClosed
		case u.kept && a.off < u.size:
			chunk := u.chunks[a.off/uploadChunk]
			begin := a.off % uploadChunk
			return chunk[begin:min(uploadChunk, begin+min(limit, u.size-a.off))], nil
		case u.err != nil:
			return nil, u.err
		case u.filling:
			u.changed.Wait()
		case u.kept:
			u.fill()
			if u.err == nil && !u.ahead {
				u.ahead = true
				go u.readAhead()
			}
		default: // streamed once, unrecorded
			n, err := u.readCaller(buf[:min(limit, int64(len(buf)))])
			u.size += int64(n)
			u.ended(err)
			if n > 0 {
				return buf[:n], nil
			}
		}
	}
}

func (a *uploadAttempt) Close() error {
	u := a.u
	u.mu.Lock()
	defer u.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	u.readers--
	u.changed.Broadcast()
	u.freeIfUnused()
	return nil
}
