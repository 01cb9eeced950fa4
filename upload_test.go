package wechatmedia

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func randomBytes(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUploadIsReadFromItsBeginningByEachAttempt(t *testing.T) {
	for _, size := range []int{1, uploadChunk - 1, uploadChunk, uploadChunk + 1, 5*uploadChunk + 7} {
		body := randomBytes(t, size)
		b := &budget{limit: 1 << 20}
		u := newUpload(iotest.HalfReader(bytes.NewReader(body)), int64(size), b)

		first := u.open(nil)
		got := make([]byte, size/2)
		if _, err := io.ReadFull(first, got); err != nil || !bytes.Equal(got, body[:size/2]) {
			t.Fatalf("size %d: first half: %v", size, err)
		}
		if u.everSent() {
			t.Errorf("size %d: half of the upload counts as all of it", size)
		}
		for range 2 {
			if !u.replayable() {
				t.Fatalf("size %d: not replayable within the budget", size)
			}
			a := u.open(nil)
			if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, body) {
				t.Fatalf("size %d: %d bytes, %v", size, len(got), err)
			}
			a.Close()
		}
		if !u.everSent() {
			t.Errorf("size %d: was sent and is not known to be", size)
		}
		u.finish()
		if b.used.Load() == 0 {
			t.Errorf("size %d: memory given back while an attempt may read it", size)
		}
		first.Close()
		first.Close()
		if used := b.used.Load(); used != 0 {
			t.Errorf("size %d: %d bytes of the budget are lost", size, used)
		}
	}
}

func TestUploadBeyondTheBudgetIsStreamedOnce(t *testing.T) {
	body := randomBytes(t, 3*uploadChunk)
	b := &budget{limit: 2 * uploadChunk}
	u := newUpload(bytes.NewReader(body), int64(len(body)), b)
	if used := b.used.Load(); used != 0 {
		t.Fatalf("%d bytes reserved for nothing", used)
	}
	if !u.replayable() {
		t.Error("not replayable before the first byte")
	}
	a := u.open(nil)
	if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if u.replayable() {
		t.Error("replayable without a record")
	}
	a.Close()
	u.finish()
	if used := b.used.Load(); used != 0 {
		t.Errorf("budget has %d bytes in use", used)
	}
}

// An attempt is given up while it waits for the caller: what the caller sends
// next belongs to the following attempt.
func TestUploadAttemptGivenUpInTheMiddleOfARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := randomBytes(t, 2*uploadChunk)
		pr, pw := io.Pipe()
		u := newUpload(pr, int64(len(body)), &budget{limit: 1 << 20})
		first, second := u.open(nil), u.open(nil)

		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := io.ReadAll(first)
			if !errors.Is(err, errUploadClosed) {
				t.Errorf("given-up attempt ended with %v", err)
			}
		})
		if _, err := pw.Write(body[:100]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // first sits in a read of the caller's body
		first.Close()
		wg.Go(func() {
			if got, err := io.ReadAll(second); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d of %d bytes, %v", len(got), len(body), err)
			}
		})
		synctest.Wait()
		if _, err := pw.Write(body[100:]); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		second.Close()
		u.finish()
	})
}

// What is being written stays what it was, although the attempt is given up.
func TestUploadGivenUpInTheMiddleOfAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := randomBytes(t, uploadChunk+10)
		b := &budget{limit: 2 * uploadChunk}
		u := newUpload(bytes.NewReader(body), int64(len(body)), b)
		a := u.open(nil)
		pr, pw := io.Pipe()
		ended := make(chan error)
		go func() {
			_, err := a.sendTo(pw, int64(len(body)))
			ended <- err
		}()
		got := make([]byte, uploadChunk)
		if _, err := io.ReadFull(pr, got[:10]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // all is read from the caller, and the first chunk is being written
		a.Close()
		u.finish()
		if used := b.used.Load(); used != 2*uploadChunk {
			t.Errorf("%d bytes of the budget are in use while a chunk is being written", used)
		}
		other := newUpload(bytes.NewReader(make([]byte, uploadChunk)), uploadChunk, &budget{limit: uploadChunk})
		defer other.finish()
		reader := other.open(nil)
		defer reader.Close()
		if _, err := io.Copy(io.Discard, reader); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(pr, got[10:]); err != nil || !bytes.Equal(got, body[:uploadChunk]) {
			t.Errorf("the bytes differ, or %v", err)
		}
		if err := <-ended; !errors.Is(err, errUploadClosed) {
			t.Errorf("ended with %v", err)
		}
		if used := b.used.Load(); used != 0 {
			t.Errorf("%d bytes of the budget are lost", used)
		}
	})
}

// As a transport with bulkConns takes it: some of it read, the rest sent.
func TestUploadIsSent(t *testing.T) {
	for _, limit := range []int64{0, 1 << 20} { // streamed or kept
		body := randomBytes(t, 3*uploadChunk+7)
		u := newUpload(iotest.HalfReader(bytes.NewReader(body)), int64(len(body)), &budget{limit: limit})
		defer u.finish()
		a := u.open(nil)
		var got bytes.Buffer
		if _, err := io.CopyN(&got, a, 3000); err != nil {
			t.Fatal(err)
		}
		if n, err := a.sendTo(&got, uploadChunk); n != uploadChunk || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if u.everSent() {
			t.Error("a part of the upload counts as all of it")
		}
		if n, err := a.sendTo(&got, 1<<30); n != int64(len(body))-3000-uploadChunk || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if !bytes.Equal(got.Bytes(), body) || !u.everSent() {
			t.Errorf("the bytes differ, or are not known to be sent: %v", u.everSent())
		}

		a.Close()

		broken := errors.New("connection reset")
		if u.replayable() {
			a = u.open(nil)
			defer a.Close()
			if _, err := a.sendTo(brokenWriter{broken}, 10); !errors.Is(err, broken) {
				t.Errorf("a broken connection ended it with %v", err)
			}
		}
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

// A caller that leaves while WeChat takes no more must be noticed, which takes
// reading from him.
func TestUploadIsReadAheadOnceItsFirstBytesAreWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := randomBytes(t, 3*uploadChunk)
		left := errors.New("caller has left")
		b := &budget{limit: 1 << 20}
		pr, pw := io.Pipe()
		u := newUpload(pr, int64(len(body)), b)
		a := u.open(nil)
		written := 0
		var caller sync.WaitGroup
		caller.Go(func() {
			for piece := range slices.Chunk(body[:2*uploadChunk], 1000) {
				n, _ := pw.Write(piece)
				written += n
			}
			pw.CloseWithError(left)
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
		if err := u.callerErr(); !errors.Is(err, left) {
			t.Errorf("the caller's leaving is not known while the attempt stands still: %v", err)
		}
		rest, err := io.ReadAll(a)
		if !errors.Is(err, left) || !bytes.Equal(append(got, rest...), body[:2*uploadChunk]) {
			t.Errorf("%d bytes, %v", len(got)+len(rest), err)
		}
		a.Close()
		u.finish()
		if used := b.used.Load(); used != 0 {
			t.Errorf("budget has %d bytes in use", used)
		}
	})
}

func TestUploadIsNotReadAheadOnceItIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget{limit: 1 << 20}
		pr, pw := io.Pipe()
		u := newUpload(pr, 3*uploadChunk, b)
		a := u.open(nil)
		go func() {
			for {
				if _, err := pw.Write(make([]byte, 1000)); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		if _, err := a.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		a.Close()
		u.finish()
		time.Sleep(time.Minute)
		u.mu.Lock()
		defer u.mu.Unlock()
		if used := b.used.Load(); used != 0 || u.size > 2000 {
			t.Errorf("%d bytes were read, and %d of the budget are in use", u.size, used)
		}
		pr.Close()
	})
}

func TestUploadEndsWithTheCallersError(t *testing.T) {
	for _, limit := range []int64{0, 1 << 20} {
		broken := errors.New("caller reset")
		u := newUpload(io.MultiReader(bytes.NewReader(make([]byte, 10)), iotest.ErrReader(broken)), 20, &budget{limit: limit})
		a := u.open(nil)
		if n, err := io.Copy(io.Discard, a); n != 10 || !errors.Is(err, broken) {
			t.Errorf("got %d bytes, %v", n, err)
		}
		if !errors.Is(u.callerErr(), broken) || u.replayable() {
			t.Errorf("callerErr %v, replayable %v", u.callerErr(), u.replayable())
		}
		a.Close()
		u.finish()

		u = newUpload(bytes.NewReader(make([]byte, 10)), 20, &budget{limit: limit})
		a = u.open(nil)
		if _, err := io.ReadAll(a); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a short upload ended with %v", err)
		}
		a.Close()
		u.finish()
	}
}

func TestGatherUpload(t *testing.T) {
	body := randomBytes(t, 3*uploadChunk+5)
	for _, tc := range []struct {
		limit, budget int64
		src           io.Reader
		want          error
	}{
		{limit: int64(len(body)), budget: 1 << 20, src: bytes.NewReader(body)},
		{limit: int64(len(body)) - 1, budget: 1 << 20, src: bytes.NewReader(body), want: errUploadTooLarge},
		{limit: 1 << 20, budget: 3 * uploadChunk, src: bytes.NewReader(body), want: errUploadNoMemory},
		{limit: 1 << 20, budget: 1 << 20, src: io.MultiReader(bytes.NewReader(body), iotest.ErrReader(io.ErrUnexpectedEOF)), want: io.ErrUnexpectedEOF},
	} {
		b := &budget{limit: tc.budget}
		u, err := gatherUpload(tc.src, tc.limit, b, nil)
		if !errors.Is(err, tc.want) {
			t.Fatalf("got %v, want %v", err, tc.want)
		}
		if err == nil {
			if u.length != int64(len(body)) || !u.replayable() {
				t.Errorf("length %d, replayable %v", u.length, u.replayable())
			}
			a := u.open(nil)
			if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			a.Close()
			u.finish()
		}
		if used := b.used.Load(); used != 0 {
			t.Errorf("%v: budget has %d bytes in use", tc.want, used)
		}
	}
}

func TestUploadAbandonWaitsForTheRead(t *testing.T) {
	pr, pw := io.Pipe()
	b := &budget{limit: 1 << 20}
	u := newUpload(pr, 100, b)
	a := u.open(nil)
	done := make(chan error)
	go func() {
		_, err := io.ReadAll(a)
		a.Close()
		done <- err
	}()
	if _, err := pw.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	u.abandon(func() { pw.CloseWithError(io.ErrClosedPipe) })
	if err := <-done; err == nil {
		t.Error("the read of an abandoned upload succeeded")
	}
	if used := b.used.Load(); used != 0 {
		t.Errorf("budget has %d bytes in use", used)
	}
}

// A read that is about to begin does not undo what is done to end it.
func TestUploadAbandonEndsAReadThatBegins(t *testing.T) {
	var passed atomic.Pointer[chan struct{}] // closed when the deadline has passed
	renew := func() { c := make(chan struct{}); passed.Store(&c) }
	renew()
	u := newUpload(readerFunc(func([]byte) (int, error) { <-*passed.Load(); return 0, os.ErrDeadlineExceeded }), 100, &budget{limit: 1 << 20})
	abandoned := make(chan struct{})
	u.readDeadline = func(reading bool) {
		if !reading {
			return
		}
		go func() {
			u.abandon(func() { close(*passed.Load()) })
			close(abandoned)
		}()
		time.Sleep(20 * time.Millisecond)
		renew()
	}
	a := u.open(nil)
	go func() {
		_, _ = a.Read(make([]byte, 10))
		a.Close()
	}()
	select {
	case <-abandoned:
	case <-time.After(10 * time.Second):
		t.Error("the read goes on")
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestBudgetIsNeverExceeded(t *testing.T) {
	b := &budget{limit: 100}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 1000 {
				if b.reserve(7) {
					if b.used.Load() > b.limit {
						t.Error("budget exceeded")
					}
					b.release(7)
				}
			}
		})
	}
	wg.Wait()
	if b.used.Load() != 0 {
		t.Error("budget not given back")
	}
}
