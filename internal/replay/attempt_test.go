package replay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// An attempt is given up while it waits for the caller: what the caller sends
// next belongs to the following attempt.
func TestAnAttemptGivenUpInTheMiddleOfARead(t *testing.T) {
	for _, limit := range []int64{0, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			body := randomBytes(2 * chunk)
			b := NewBudget(limit)
			pr, pw := io.Pipe()
			u := upload(pr, len(body), b)
			first := u.Open(nil)
			var wg sync.WaitGroup
			wg.Go(func() {
				if got, err := io.ReadAll(first); len(got) > 0 || !errors.Is(err, ErrClosed) {
					t.Errorf("given-up attempt ended with %d bytes, %v", len(got), err)
				}
			})
			synctest.Wait() // first sits in a read of the caller's body
			_ = first.Close()
			second := u.Open(nil)
			wg.Go(func() {
				if got, err := io.ReadAll(second); err != nil || !bytes.Equal(got, body) {
					t.Errorf("%d of %d bytes, %v", len(got), len(body), err)
				}
			})
			for piece := range slices.Chunk(body, 100) {
				if _, err := pw.Write(piece); err != nil {
					t.Fatal(err)
				}
			}
			wg.Wait()
			_ = second.Close()
			u.Finish()
			wantEmpty(t, b, fmt.Sprint("limit ", limit))
		})
	}
}

// What is being written stays what it was, although the attempt is given up.
func TestGivenUpInTheMiddleOfAWrite(t *testing.T) {
	for _, limit := range []int64{0, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			body := randomBytes(chunk + 10)
			b := NewBudget(limit)
			u := upload(bytes.NewReader(body), len(body), b)
			a := u.Open(func() { t.Error("all is said to be sent") })
			pr, pw := io.Pipe()
			ended := make(chan error)
			go func() {
				_, err := a.WriteTo(pw)
				ended <- err
			}()
			got := make([]byte, 4*kib)
			if _, err := io.ReadFull(pr, got[:10]); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the first piece is being written, and others are read ahead
			_ = a.Close()
			u.Finish()
			if held := b.InUse() + b.Outside(); held != 4*kib {
				t.Errorf("%d bytes are held while a piece is being written", held)
			}
			other := upload(bytes.NewReader(make([]byte, chunk)), chunk, b)
			reader := other.Open(nil)
			if _, err := io.Copy(io.Discard, reader); err != nil {
				t.Fatal(err)
			}
			_ = reader.Close()
			other.Finish()
			if _, err := io.ReadFull(pr, got[10:]); err != nil || !bytes.Equal(got, body[:4*kib]) {
				t.Errorf("the bytes differ, or %v", err)
			}
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Errorf("ended with %v", err)
			}
			wantEmpty(t, b, fmt.Sprint("limit ", limit))
		})
	}
}

// As http.Transport takes it: some of it read, the rest written, and then a look
// whether there is more.
func TestSomeIsReadAndTheRestWritten(t *testing.T) {
	for _, limit := range []int64{0, 1 << 20} {
		body := randomBytes(3*chunk + 7)
		b := NewBudget(limit)
		u := upload(io.MultiReader(iotest.HalfReader(bytes.NewReader(body)), bytes.NewReader(make([]byte, 100))), len(body), b)
		sent := 0
		a := u.Open(func() { sent++ })
		var got bytes.Buffer
		if _, err := io.CopyN(&got, a, 3000); err != nil {
			t.Fatal(err)
		}
		if u.EverSent() || sent != 0 {
			t.Error("a part of the upload counts as all of it")
		}
		if n, err := a.WriteTo(&got); n != int64(len(body))-3000 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if n, err := a.WriteTo(&got); n != 0 || err != nil {
			t.Errorf("%d bytes more, %v", n, err)
		}
		if !bytes.Equal(got.Bytes(), body) || !u.EverSent() || sent != 1 {
			t.Errorf("the bytes differ, or are not known to be sent: %v, %d", u.EverSent(), sent)
		}
		_ = a.Close()

		if u.Replayable() != (limit > 0) {
			t.Errorf("limit %d: replayable %v", limit, u.Replayable())
		}
		if u.Replayable() {
			a = u.Open(func() { t.Error("all is said to be sent") })
			broken := errors.New("connection reset")
			if _, err := a.WriteTo(brokenWriter{broken}); !errors.Is(err, broken) {
				t.Errorf("a broken connection ended it with %v", err)
			}
			if _, err := a.WriteTo(brokenWriter{}); !errors.Is(err, io.ErrShortWrite) {
				t.Errorf("a short write ended it with %v", err)
			}
			_ = a.Close()
		}
		u.Finish()

		u = upload(bytes.NewReader(body[:10]), 10, b)
		a = u.Open(func() { t.Error("all is said to be sent") })
		if _, err := a.WriteTo(brokenWriter{io.ErrClosedPipe}); !errors.Is(err, io.ErrClosedPipe) || !u.EverSent() {
			t.Errorf("ended with %v, sent %v", err, u.EverSent())
		}
		_ = a.Close()
		u.Finish()
		wantEmpty(t, b, fmt.Sprint("limit ", limit))
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

func TestCloseEndsAReadThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		pr, pw := io.Pipe()
		u := upload(pr, 100, b)
		a := u.Open(nil)
		go func() { _, _ = pw.Write(make([]byte, 10)) }()
		if _, err := io.ReadFull(a, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the rest is read ahead
		ended := make(chan error, 1)
		go func() {
			_, err := a.Read(make([]byte, 10))
			ended <- err
		}()
		synctest.Wait()
		_ = a.Close()
		synctest.Wait()
		select {
		case err := <-ended:
			if !errors.Is(err, ErrClosed) {
				t.Errorf("ended with %v", err)
			}
		default:
			t.Error("the read goes on")
		}
		u.Abandon(func() { _ = pw.Close() })
		wantEmpty(t, b, "closed")
	})
}

// A caller that leaves while the other side takes no more must be noticed, which takes
// reading from him.
func TestReadingAhead(t *testing.T) {
	for _, limit := range []int64{0, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			size := 2 * chunk
			if limit == 0 {
				size = 6 * kib // a piece is taken, another one begun
			}
			body := randomBytes(size)
			left := errors.New("caller has left")
			b := NewBudget(limit)
			pr, pw := io.Pipe()
			u := upload(pr, 3*chunk, b)
			a := u.Open(nil)
			written := 0
			var caller sync.WaitGroup
			caller.Go(func() {
				for piece := range slices.Chunk(body, 1000) {
					n, _ := pw.Write(piece)
					written += n
				}
				_ = pw.CloseWithError(left)
			})
			synctest.Wait()
			if written != 0 {
				t.Errorf("%d bytes were taken from the caller before an attempt asked", written)
			}
			got := make([]byte, 10)
			if _, err := io.ReadFull(a, got); err != nil {
				t.Fatal(err)
			}
			caller.Wait()
			synctest.Wait()
			if err := u.CallerErr(); !errors.Is(err, left) || u.Replayable() || u.Unread() {
				t.Errorf("the caller's leaving is not known while the attempt stands still: %v", err)
			}
			rest, err := io.ReadAll(a)
			if !errors.Is(err, left) || !bytes.Equal(append(got, rest...), body) {
				t.Errorf("%d bytes, %v", len(got)+len(rest), err)
			}
			_ = a.Close()
			u.Finish()
			wantEmpty(t, b, fmt.Sprint("limit ", limit))
		})
	}
}

// The first bytes may be there because of Head: reading ahead begins all the same.
func TestReadingAheadBehindHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		b := NewBudget(1 << 20)
		u := upload(pr, 10*kib, b)
		go func() { _, _ = pw.Write(make([]byte, 10*kib)) }()
		if _, err := u.Head(1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !u.Unread() {
			t.Error("all was read for its first byte")
		}
		a := u.Open(nil)
		if _, err := a.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if u.Unread() {
			t.Error("nothing is read ahead")
		}
		_ = a.Close()
		u.Finish()
		wantEmpty(t, b, "after all")
	})
}

// What is not kept is read ahead by a piece, each time that an attempt begins one.
func TestReadingAheadByAPiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(0)
		pr, pw := io.Pipe()
		u := upload(pr, 1<<20, b)
		a := u.Open(nil)
		caller := &counter{}
		var all sync.WaitGroup
		all.Go(func() {
			n, _ := pw.Write(make([]byte, 1<<20))
			caller.n = int64(n)
		})
		for i, want := range []int64{20 * kib, 84 * kib} {
			if _, err := io.CopyN(io.Discard, a, []int64{1, 4 * kib}[i]); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			u.mu.Lock()
			if u.size != want {
				t.Errorf("%d bytes are read when %d are wanted; want %d", u.size, a.off, want)
			}
			u.mu.Unlock()
		}
		u.Abandon(func() { t.Error("nothing was being read") })
		_ = a.Close()
		_ = pr.Close()
		all.Wait()
		if caller.n != 84*kib {
			t.Errorf("%d bytes were read", caller.n)
		}
		wantEmpty(t, b, "after all")
	})
}

// The memory that a read under way brings bytes into is nobody else's.
func TestMemoryStaysWhileItIsReadInto(t *testing.T) {
	for _, limit := range []int64{0, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			b := NewBudget(limit)
			pr, pw := io.Pipe()
			u := upload(pr, chunk, b)
			a := u.Open(nil)
			go func() { _, _ = pw.Write(make([]byte, 10)) }()
			if _, err := a.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the next read waits
			_ = a.Close()
			u.Finish()
			if held := b.InUse() + b.Outside(); held != 4*kib {
				t.Errorf("%d bytes are held by a read under way", held)
			}
			_, _ = pw.Write(make([]byte, 10))
			synctest.Wait()
			wantEmpty(t, b, fmt.Sprint("limit ", limit))
		})
	}
}

func TestNothingIsReadAheadOnceItIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		pr, pw := io.Pipe()
		u := upload(pr, 3*chunk, b)
		a := u.Open(nil)
		written := 0
		var caller sync.WaitGroup
		caller.Go(func() {
			for {
				n, err := pw.Write(make([]byte, 1000))
				if written += n; err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		if _, err := a.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		_ = a.Close()
		u.Finish()
		time.Sleep(time.Minute)
		_ = pr.Close()
		caller.Wait()
		if written > 2000 {
			t.Errorf("%d bytes were read", written)
		}
		wantEmpty(t, b, "finished")
	})
}

// An answer can come before all of the upload has been sent, which then goes on.
func TestAnAttemptGoesOnOnceItIsFinished(t *testing.T) {
	for _, limit := range []int64{0, 1 << 20} {
		body := randomBytes(3 * chunk)
		b := NewBudget(limit)
		u := upload(bytes.NewReader(body), len(body), b)
		a := u.Open(nil)
		u.Finish()
		if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		_ = a.Close()
		wantEmpty(t, b, fmt.Sprint("limit ", limit))
	}
}
