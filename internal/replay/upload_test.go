package replay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

const (
	kib   = 1 << 10
	chunk = 128 << 10 // the largest piece
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = r.Read(b)
	return b
}

// upload is one of known length.
func upload(src io.Reader, length int, b *Budget) *Upload {
	return New(src, Options{Length: int64(length), Budget: b})
}

// wantEmpty fails if anything is still held.
func wantEmpty(t *testing.T, b *Budget, what string) {
	t.Helper()
	if b.InUse() != 0 || b.Outside() != 0 || b.reserved.Load() != 0 {
		t.Errorf("%s: %d bytes of the budget are lost, %d beside it, %d of the reserve", what, b.InUse(), b.Outside(), b.reserved.Load())
	}
}

func TestEachAttemptReadsFromTheBeginning(t *testing.T) {
	for _, size := range []int{1, 4*kib - 1, 4 * kib, 4*kib + 1, chunk - 1, chunk, chunk + 1, 5*chunk + 7} {
		body := randomBytes(size)
		b := NewBudget(1 << 20)
		u := upload(iotest.HalfReader(bytes.NewReader(body)), size, b)

		first := u.Open(nil)
		got := make([]byte, size/2)
		if _, err := io.ReadFull(first, got); err != nil || !bytes.Equal(got, body[:size/2]) {
			t.Fatalf("size %d: first half: %v", size, err)
		}
		if u.EverSent() {
			t.Errorf("size %d: half of the upload counts as all of it", size)
		}
		for range 2 {
			if !u.Replayable() {
				t.Fatalf("size %d: not replayable within the budget", size)
			}
			a := u.Open(nil)
			if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, body) {
				t.Fatalf("size %d: %d bytes, %v", size, len(got), err)
			}
			_ = a.Close()
			_ = a.Close() // counts once
		}
		if !u.EverSent() || u.Unread() || u.CallerErr() != nil || u.Length() != int64(size) {
			t.Errorf("size %d: sent %v, unread %v, %v, length %d", size, u.EverSent(), u.Unread(), u.CallerErr(), u.Length())
		}
		if held := b.InUse(); held < int64(size) || held > int64(2*size+4*kib) {
			t.Errorf("size %d: %d bytes of the budget are in use", size, held)
		}
		u.Finish()
		if b.InUse() == 0 {
			t.Errorf("size %d: memory given back while an attempt may read it", size)
		}
		if u.Replayable() {
			t.Errorf("size %d: replayable once it is finished", size)
		}
		_ = first.Close()
		_ = first.Close()
		wantEmpty(t, b, fmt.Sprint("size ", size))
	}
}

func TestAnEmptyUploadIsSent(t *testing.T) {
	b := NewBudget(1 << 20)
	u := upload(iotest.ErrReader(errors.New("read although nothing was announced")), 0, b)
	sent := 0
	a := u.Open(func() { sent++ })
	if got, err := io.ReadAll(a); len(got) > 0 || err != nil || sent != 1 || !u.EverSent() || u.Unread() {
		t.Errorf("%d bytes, %v, sent %d times", len(got), err, sent)
	}
	_ = a.Close()
	u.Finish()
	wantEmpty(t, b, "empty")
}

func TestBeyondTheBudgetAnUploadIsStreamedOnce(t *testing.T) {
	body := randomBytes(3 * chunk)
	for _, limit := range []int64{0, 4 * kib, 100 * kib, 2 * chunk} {
		b := NewBudget(limit)
		u := upload(bytes.NewReader(body), len(body), b)
		if !u.Replayable() {
			t.Error("not replayable before the first byte")
		}
		a := u.Open(nil)
		if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("limit %d: %d bytes, %v", limit, len(got), err)
		}
		if u.Replayable() || !u.EverSent() {
			t.Errorf("limit %d: replayable without a record, or not sent", limit)
		}
		if b.InUse() != 0 || b.Outside() != 0 {
			t.Errorf("limit %d: %d and %d bytes are held of what has passed", limit, b.InUse(), b.Outside())
		}
		late := u.Open(nil)
		if n, err := late.Read(make([]byte, 10)); n != 0 || !errors.Is(err, ErrClosed) {
			t.Errorf("limit %d: a second attempt got %d bytes, %v", limit, n, err)
		}
		_ = late.Close()
		_ = a.Close()
		u.Finish()
		wantEmpty(t, b, fmt.Sprint("limit ", limit))
	}
}

// What the budget has no room for is still sent from its beginning as long as no
// attempt has taken that.
func TestAnUploadBeyondTheBudgetIsReplayableUntilItsBeginningIsTaken(t *testing.T) {
	body := randomBytes(10 * kib)
	b := NewBudget(0)
	u := upload(bytes.NewReader(body), len(body), b)
	if head, err := u.Head(100); err != nil || !bytes.Equal(head, body[:100]) {
		t.Fatalf("%d bytes, %v", len(head), err)
	}
	_ = u.Open(nil).Close() // a dial that failed
	if !u.Replayable() {
		t.Fatal("not replayable with its beginning at hand")
	}
	a := u.Open(nil)
	if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	_ = a.Close()
	u.Finish()
	wantEmpty(t, b, "after all")
}

// The budget counts what has arrived. Callers who announce and do not send take
// nothing from it, whatever they announce.
func TestMemoryIsTakenAsBytesArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		before := InUse()
		const callers = 100
		var end []func()
		for range callers {
			pr, pw := io.Pipe()
			u := New(pr, Options{Length: math.MaxInt64, Budget: b})
			a := u.Open(nil)
			ended := make(chan struct{})
			go func() {
				_, _ = a.WriteTo(io.Discard)
				_ = a.Close()
				close(ended)
			}()
			end = append(end, func() {
				_, _ = pw.Write([]byte("hello"))
				synctest.Wait()
				if held := b.InUse(); held < 4*kib || held > 4*kib*callers {
					t.Errorf("%d bytes of the budget are in use", held)
				}
				if u.Length() != math.MaxInt64 || !u.Unread() {
					t.Errorf("length %d, unread %v", u.Length(), u.Unread())
				}
				u.Abandon(func() { _ = pw.Close() })
				<-ended
			})
		}
		synctest.Wait()
		if b.InUse() != 0 || b.Outside() != 4*kib*callers {
			t.Errorf("%d bytes of the budget and %d beside it are held for callers who sent nothing", b.InUse(), b.Outside())
		}
		for _, f := range end {
			f()
		}
		wantEmpty(t, b, "after all")
		if InUse() != before {
			t.Errorf("the process's sum went from %d to %d", before, InUse())
		}
	})
}

func TestTheCallersError(t *testing.T) {
	broken := errors.New("caller reset")
	for _, limit := range []int64{0, 1 << 20} {
		for _, tc := range []struct {
			src  io.Reader
			want error
		}{
			{io.MultiReader(bytes.NewReader(make([]byte, 10)), iotest.ErrReader(broken)), broken},
			{bytes.NewReader(make([]byte, 10)), io.ErrUnexpectedEOF},
			{iotest.DataErrReader(bytes.NewReader(make([]byte, 10))), io.ErrUnexpectedEOF},
		} {
			b := NewBudget(limit)
			u := upload(tc.src, 20, b)
			a := u.Open(func() { t.Error("all is said to be sent") })
			if n, err := io.Copy(io.Discard, a); n != 10 || !errors.Is(err, tc.want) {
				t.Errorf("got %d bytes, %v", n, err)
			}
			if !errors.Is(u.CallerErr(), tc.want) || u.Replayable() || u.Unread() || u.EverSent() {
				t.Errorf("%v, replayable %v, unread %v, sent %v", u.CallerErr(), u.Replayable(), u.Unread(), u.EverSent())
			}
			_ = a.Close()
			u.Finish()
			wantEmpty(t, b, tc.want.Error())
		}
	}
}

func TestHead(t *testing.T) {
	body := randomBytes(10 * kib)
	broken := errors.New("caller reset")
	for name, tc := range map[string]struct {
		src    io.Reader
		length int64
		ask    int
		want   int
		err    error
	}{
		"some":               {iotest.OneByteReader(bytes.NewReader(body)), 10 * kib, 100, 100, nil},
		"none":               {bytes.NewReader(body), 10 * kib, 0, 0, nil},
		"more than there is": {bytes.NewReader(body[:50]), 50, 100, 50, nil},
		"more than is shown": {iotest.HalfReader(bytes.NewReader(body)), 10 * kib, 8 * kib, MaxHead, nil},
		"of unknown length":  {bytes.NewReader(body[:50]), -1, 100, 50, nil},
		"of nothing":         {bytes.NewReader(nil), 0, 100, 0, nil},
		"cut short":          {bytes.NewReader(body[:50]), 100, 100, 50, io.ErrUnexpectedEOF},
		"broken off":         {io.MultiReader(bytes.NewReader(body[:50]), iotest.ErrReader(broken)), 100, 100, 50, broken},
		"broken off later":   {io.MultiReader(bytes.NewReader(body[:50]), iotest.ErrReader(broken)), 100, 50, 50, nil},
	} {
		for _, limit := range []int64{0, 1 << 20} {
			b := NewBudget(limit)
			u := New(tc.src, Options{Length: tc.length, Most: 1 << 20, Budget: b})
			head, err := u.Head(tc.ask)
			if s, ok := tc.src.(io.Seeker); ok && limit == 0 {
				_, _ = s.Seek(0, io.SeekStart)
			} else if limit == 0 {
				tc.src = nil
			}
			if !bytes.Equal(head, body[:tc.want]) || !errors.Is(err, tc.err) || (err != nil) != (tc.err != nil) {
				t.Errorf("%s: %d bytes, %v", name, len(head), err)
			}
			u.Finish()
			wantEmpty(t, b, name)
			next := b.newPiece(smallest, loose, 0) // must not be the one that is shown
			copy(next.buf[:cap(next.buf)], make([]byte, 4*kib))
			if !bytes.Equal(head, body[:tc.want]) {
				t.Errorf("%s: the head has changed", name)
			}
			b.release(next)
			if tc.src == nil {
				break
			}
		}
	}
}

func TestGather(t *testing.T) {
	body := randomBytes(3*chunk + 5)
	broken := io.MultiReader(bytes.NewReader(body), iotest.ErrReader(io.ErrNoProgress))
	for name, tc := range map[string]struct {
		most, budget int64
		src          io.Reader
		want         error
		unread       bool
	}{
		"as large as allowed":    {most: int64(len(body)), budget: 1 << 20, src: bytes.NewReader(body)},
		"without a limit":        {most: math.MaxInt64, budget: 1 << 20, src: bytes.NewReader(body)},
		"in a budget just so":    {most: 1 << 20, budget: 3*chunk + 4*kib, src: bytes.NewReader(body)},
		"larger than allowed":    {most: int64(len(body)) - 1, budget: 1 << 20, src: bytes.NewReader(body), want: ErrTooLarge, unread: true},
		"nothing allowed":        {most: 0, budget: 1 << 20, src: bytes.NewReader(body), want: ErrTooLarge, unread: true},
		"larger than the budget": {most: 1 << 20, budget: 3 * chunk, src: bytes.NewReader(body), want: ErrNoMemory, unread: true},
		"without a budget":       {most: 1 << 20, budget: 0, src: bytes.NewReader(body), want: ErrNoMemory, unread: true},
		"broken":                 {most: 1 << 20, budget: 1 << 20, src: broken, want: io.ErrNoProgress},
	} {
		b := NewBudget(tc.budget)
		counted := &counter{Reader: tc.src}
		u := New(counted, Options{Length: -1, Most: tc.most, Budget: b})
		if _, err := u.Head(10); err != nil && tc.most > 0 || u.Length() != -1 {
			t.Errorf("%s: head %v, length %d", name, err, u.Length())
		}
		err := u.Gather()
		if !errors.Is(err, tc.want) || u.Unread() != tc.unread {
			t.Fatalf("%s: got %v, unread %v", name, err, u.Unread())
		}
		if counted.n-1 > tc.most {
			t.Errorf("%s: %d bytes were read", name, counted.n)
		}
		if err == nil {
			if u.Length() != int64(len(body)) || !u.Replayable() {
				t.Errorf("%s: length %d, replayable %v", name, u.Length(), u.Replayable())
			}
			for range 2 {
				a := u.Open(nil)
				if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, body) {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
				}
				_ = a.Close()
			}
			u.Finish()
		} else if callers := u.CallerErr(); (callers == nil) != errors.Is(err, ErrNoMemory) || u.Replayable() {
			t.Errorf("%s: the caller's error is %v, replayable %v", name, callers, u.Replayable())
		}
		wantEmpty(t, b, name)
	}
}

// Also one that is not gathered ends at its limit.
func TestAnUploadOfUnknownLengthThatIsTooLarge(t *testing.T) {
	body := randomBytes(20)
	b := NewBudget(1 << 20)
	u := New(bytes.NewReader(body), Options{Length: -1, Most: 10, Budget: b})
	a := u.Open(func() { t.Error("all is said to be sent") })
	if got, err := io.ReadAll(a); !bytes.Equal(got, body[:10]) || !errors.Is(err, ErrTooLarge) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	_ = a.Close()
	u.Finish()
	wantEmpty(t, b, "too large")
}

// counter counts what is read.
type counter struct {
	io.Reader
	n     int64
	reads int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	c.reads++
	return n, err
}

func TestAbandonWaitsForTheRead(t *testing.T) {
	for _, limit := range []int64{0, 1 << 20} {
		for _, sent := range []int{0, 1, 10 * kib} {
			synctest.Test(t, func(t *testing.T) {
				pr, pw := io.Pipe()
				b := NewBudget(limit)
				reading := &busy{Reader: pr}
				u := upload(reading, 2*chunk, b)
				a := u.Open(nil)
				done := make(chan error)
				go func() {
					_, err := io.ReadAll(a)
					_ = a.Close()
					done <- err
				}()
				if _, err := pw.Write(make([]byte, sent)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				kicked := false
				u.Abandon(func() { kicked = true; _ = pw.CloseWithError(io.ErrClosedPipe) })
				if reading.now() || !kicked {
					t.Error("the caller's body is still being read")
				}
				if err := <-done; !errors.Is(err, ErrClosed) {
					t.Errorf("the read of an abandoned upload ended with %v", err)
				}
				if u.CallerErr() != nil || u.Replayable() {
					t.Errorf("%v, replayable %v", u.CallerErr(), u.Replayable())
				}
				u.Abandon(func() { t.Error("kicked for nothing") })
				wantEmpty(t, b, fmt.Sprint("limit ", limit))
			})
		}
	}
}

// busy knows whether it is being read.
type busy struct {
	io.Reader
	mu      sync.Mutex
	reading bool
}

func (r *busy) set(reading bool) { r.mu.Lock(); r.reading = reading; r.mu.Unlock() }
func (r *busy) now() bool        { r.mu.Lock(); defer r.mu.Unlock(); return r.reading }

func (r *busy) Read(p []byte) (int, error) {
	r.set(true)
	defer r.set(false)
	return r.Reader.Read(p)
}

// A read that is about to begin may set a deadline of its own, and so undo what
// has been done to end it.
func TestAbandonEndsAReadThatBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		begun, kicks := make(chan struct{}), make(chan struct{}, 1)
		u := upload(readerFunc(func([]byte) (int, error) {
			close(begun)
			time.Sleep(kickAgain / 2) // the first kick comes too early
			select {
			case <-kicks:
			default:
			}
			<-kicks
			return 0, io.ErrClosedPipe
		}), 100, b)
		a := u.Open(nil)
		go func() {
			_, _ = a.Read(make([]byte, 10))
			_ = a.Close()
		}()
		<-begun
		u.Abandon(func() {
			select {
			case kicks <- struct{}{}:
			default:
			}
		})
		synctest.Wait()
		wantEmpty(t, b, "abandoned")
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
