package replay

// Uploads in every order of events, what many slow callers hold, and what a fast one costs.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// caller is a body that comes in pieces of any size, with pauses, and may break.
type caller struct {
	r      *rand.Rand
	body   []byte
	breaks int // after so many bytes; -1: never
	off    int
	kicked chan struct{}
	most   int
}

var errBroken = errors.New("broken")

func (c *caller) Read(p []byte) (int, error) {
	if c.off == c.breaks {
		return 0, errBroken
	}
	if c.off == len(c.body) {
		return 0, io.EOF
	}
	if c.r.IntN(4) == 0 {
		select {
		case <-time.After(time.Duration(c.r.IntN(2000)) * time.Millisecond):
		case <-c.kicked:
			return 0, io.ErrClosedPipe
		}
	}
	n := min(len(p), 1+c.r.IntN(c.most), len(c.body)-c.off)
	if c.breaks >= c.off {
		n = min(n, c.breaks-c.off)
	}
	n = copy(p[:n], c.body[c.off:])
	c.off += n
	if c.off == len(c.body) && c.r.IntN(2) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// taker takes an attempt as a connection does that is slow and may fail, and
// compares what it is given.
type taker struct {
	t     *testing.T
	r     *rand.Rand
	want  []byte
	off   int
	fails int
}

func (w *taker) Write(p []byte) (int, error) {
	before := bytes.Clone(p)
	if w.r.IntN(4) == 0 {
		time.Sleep(time.Duration(w.r.IntN(2000)) * time.Millisecond)
	}
	if !bytes.Equal(p, before) {
		w.t.Error("memory has changed while it was written")
	}
	if w.off+len(p) > len(w.want) || !bytes.Equal(p, w.want[w.off:w.off+len(p)]) {
		w.t.Errorf("wrong bytes at %d", w.off)
		return 0, errBroken
	}
	w.off += len(p)
	if w.off > w.fails {
		return 0, errBroken
	}
	return len(p), nil
}

// readOut reads an attempt to its end, one way or the other.
func readOut(a *Attempt, w *taker) (err error) {
	if w.r.IntN(2) == 0 {
		_, err = io.CopyN(w, struct{ io.Reader }{a}, int64(w.r.IntN(6*kib)))
		if err == io.EOF {
			return nil
		}
	}
	if err == nil && w.r.IntN(2) == 0 {
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{a}, make([]byte, 1+w.r.IntN(40*kib)))
	} else if err == nil {
		_, err = a.WriteTo(w)
	}
	return err
}

func TestUploadsInAnyOrderOfEvents(t *testing.T) {
	body := randomBytes(600 * kib)
	for seed := range uint64(150) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			b := NewBudget([]int64{0, 10 * kib, 300 * kib, 2 << 20}[r.IntN(4)])
			var all sync.WaitGroup
			for range 3 {
				c := &caller{r: rand.New(rand.NewPCG(r.Uint64(), 2)), body: body[:r.IntN(len(body))], breaks: -1, kicked: make(chan struct{}), most: 1 + r.IntN(200*kib)}
				if c.most < 100 {
					c.body = c.body[:len(c.body)/100]
				}
				length := int64(len(c.body))
				switch r.IntN(6) {
				case 0:
					c.breaks = r.IntN(len(c.body) + 1)
				case 1:
					length = int64(r.IntN(len(c.body) + 1)) // more comes than was announced
				case 2:
					length += 10 // and less
				case 3:
					length = -1
				}
				own := rand.New(rand.NewPCG(r.Uint64(), 3))
				all.Go(func() { oneUpload(t, own, b, c, length) })
			}
			all.Wait()
			wantEmpty(t, b, fmt.Sprint("seed ", seed))
		})
	}
}

// oneUpload sends an upload until it arrives, cannot be sent any more, or is abandoned.
func oneUpload(t *testing.T, r *rand.Rand, b *Budget, c *caller, length int64) {
	u := New(c, Options{Length: length, Most: int64(len(c.body) - r.IntN(2)), Budget: b})
	var attempts sync.WaitGroup
	if r.IntN(4) == 0 {
		after := time.Duration(r.IntN(10_000)) * time.Millisecond
		attempts.Go(func() {
			time.Sleep(after)
			u.Abandon(sync.OnceFunc(func() { close(c.kicked) }))
		})
	}
	if r.IntN(2) == 0 {
		head, err := u.Head(r.IntN(4 * kib))
		if !bytes.HasPrefix(c.body, head) {
			t.Errorf("wrong head of %d bytes, %v", len(head), err)
		}
	}
	if length < 0 {
		if err := u.Gather(); err != nil {
			if u.Length() >= 0 || u.Replayable() {
				t.Errorf("length %d after %v", u.Length(), err)
			}
			attempts.Wait()
			return
		}
	}
	for try := 0; try == 0 || u.Replayable(); try++ {
		said := false
		a := u.Open(func() { said = true })
		w := &taker{t: t, r: rand.New(rand.NewPCG(r.Uint64(), 4)), want: c.body[:min(int(u.Length()), len(c.body))], fails: len(c.body)}
		if r.IntN(2) == 0 {
			w.fails = r.IntN(len(c.body) + 1)
		}
		ended := make(chan error, 1)
		attempts.Go(func() {
			err := readOut(a, w)
			_ = a.Close()
			if err == nil && (int64(w.off) != u.Length() || !said || !u.EverSent()) {
				t.Errorf("%d of %d bytes passed for all of it; said %v", w.off, u.Length(), said)
			}
			ended <- err
		})
		var err error
		select {
		case err = <-ended:
		case <-time.After(time.Duration(r.IntN(20_000)) * time.Millisecond):
			_ = a.Close() // given up, and still in a read or a write
			err = errBroken
		}
		if err == nil && try > r.IntN(3) {
			break
		}
	}
	u.Finish()
	attempts.Wait()
	u.Abandon(sync.OnceFunc(func() { close(c.kicked) }))
}

// What slow callers hold beside the budget, whether it is used up or not.
func TestDrippingCallersHoldLittle(t *testing.T) {
	const callers = 1000
	sent := make([]byte, 100*kib)
	for name, tc := range map[string]struct {
		budget int64
		beside int64 // which is allowed
		first  int   // bytes that each sends at once
		then   int   // bytes at a time after that, ten times
		stuck  bool
		want   int64 // bytes held beside the budget
	}{
		"silent":                               {1 << 20, 0, 0, 0, false, callers * 4 * kib},
		"dripping":                             {0, 0, 1, 100, false, callers * 4 * kib},
		"dripping into a small budget":         {1 << 20, 0, 1, 100, false, callers * 4 * kib},
		"a burst, then silent":                 {0, 0, 100 * kib, 0, false, callers*16*kib + Reserve},
		"a burst, then dripping":               {0, 0, 100 * kib, 10, false, callers * 4 * kib},
		"a burst that is not taken":            {0, 0, 100 * kib, 0, true, callers*32*kib + Reserve},
		"the same, with less allowed":          {0, 20 * kib, 100 * kib, 0, true, callers*8*kib + Reserve},
		"a burst that is not taken, in budget": {64 << 20, 0, 100 * kib, 0, true, callers*32*kib + Reserve},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBudget(tc.budget)
				var all sync.WaitGroup
				var end []func()
				for range callers {
					pr, pw := io.Pipe()
					u := New(pr, Options{Length: 10 << 20, Budget: b, Beside: tc.beside})
					a := u.Open(nil)
					to := &gate{open: make(chan struct{})}
					if !tc.stuck {
						close(to.open)
					}
					all.Go(func() {
						_, _ = a.WriteTo(to)
						_ = a.Close()
					})
					all.Go(func() {
						_, _ = pw.Write(sent[:tc.first])
						for range 10 {
							time.Sleep(time.Second)
							if tc.then > 0 {
								_, _ = pw.Write(sent[:tc.then])
							}
						}
					})
					end = append(end, func() {
						if tc.stuck {
							close(to.open)
						}
						u.Abandon(func() { _ = pr.CloseWithError(errBroken) })
						_ = pr.Close()
					})
				}
				most := int64(0)
				for range 12 {
					synctest.Wait()
					most = max(most, b.Outside())
					if b.InUse() > tc.budget || b.reserved.Load() > Reserve {
						t.Errorf("%d bytes of a budget of %d, %d of the reserve", b.InUse(), tc.budget, b.reserved.Load())
					}
					time.Sleep(time.Second)
				}
				synctest.Wait()
				t.Logf("at most %d bytes, in the end %d, and %d in the budget", most, b.Outside(), b.InUse())
				if b.Outside() > tc.want || most > callers*DefaultBeside+Reserve {
					t.Errorf("%d callers hold %d bytes beside the budget, %d at most; want %d", callers, b.Outside(), most, tc.want)
				}
				for _, f := range end {
					f()
				}
				all.Wait()
				wantEmpty(t, b, "after all")
			})
		})
	}
}

// A large piece that a slow caller brings little for is not held until he has filled it.
func TestTheNextPieceOfASlowCallerIsSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(0)
		pr, pw := io.Pipe()
		u := upload(pr, 1<<20, b)
		a := u.Open(nil)
		to := &gate{open: make(chan struct{})}
		var all sync.WaitGroup
		all.Go(func() {
			_, _ = a.WriteTo(to)
			_ = a.Close()
		})
		_, _ = pw.Write(make([]byte, 4*kib))
		_, _ = pw.Write(make([]byte, 10)) // into a larger piece, which is read ahead
		synctest.Wait()
		if held := b.Outside(); held != 20*kib {
			t.Errorf("%d bytes are held of two pieces", held)
		}
		close(to.open)
		synctest.Wait()
		if held := b.Outside(); held != 4*kib {
			t.Errorf("%d bytes are held to wait for a slow caller", held)
		}
		u.Abandon(func() { _ = pr.CloseWithError(errBroken) })
		all.Wait()
		wantEmpty(t, b, "after all")
	})
}

// gate takes everything once it is open.
type gate struct{ open chan struct{} }

func (g *gate) Write(p []byte) (int, error) { <-g.open; return len(p), nil }

// A fast upload moves in large pieces, kept or not.
func TestAFastUploadMovesInLargePieces(t *testing.T) {
	const size = 2 << 20
	for _, limit := range []int64{0, 4 << 20} {
		b := NewBudget(limit)
		src := &counter{Reader: bytes.NewReader(make([]byte, size))}
		u := upload(src, size, b)
		a := u.Open(nil)
		if n, err := a.WriteTo(io.Discard); n != size || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		_ = a.Close()
		u.Finish()
		if want := size/chunk + 4; src.reads > want {
			t.Errorf("limit %d: %d reads for %d", limit, src.reads, want)
		}
		wantEmpty(t, b, "after all")
	}
}

// Pieces are as large as reads make worth while, and no larger than what is left.
func TestThePiecesOfAnUpload(t *testing.T) {
	for _, tc := range []struct {
		size, read int // bytes, and how many come at a time
		want       []int
	}{
		{4*kib + 1, chunk, []int{4 * kib, 4 * kib}},
		{20*kib + 1, chunk, []int{4 * kib, 16 * kib, 4 * kib}},
		{10 * kib, 100, []int{4 * kib, 4 * kib, 4 * kib}},
		{340 * kib, chunk, []int{4 * kib, 16 * kib, 64 * kib, chunk, chunk}},
		{340 * kib, 62 * kib, []int{4 * kib, 16 * kib, 64 * kib, chunk, chunk}}, // the last read into one is short
	} {
		b := NewBudget(1 << 20)
		src := bytes.NewReader(make([]byte, tc.size))
		u := upload(readerFunc(func(p []byte) (int, error) { return src.Read(p[:min(len(p), tc.read)]) }), tc.size, b)
		a := u.Open(nil)
		if _, err := a.WriteTo(io.Discard); err != nil {
			t.Error(err)
		}
		var got []int
		for _, p := range u.pieces {
			got = append(got, cap(p.buf))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%d bytes, %d at a time, are in pieces of %v", tc.size, tc.read, got)
		}
		_ = a.Close()
		u.Finish()
		wantEmpty(t, b, "after all")
	}
}

func TestTheBudgetIsNeverExceeded(t *testing.T) {
	b := NewBudget(25 * kib)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 1000 {
				if p := b.newPiece(smallest, loose, 0); b.adopt(p) {
					if b.InUse() > b.Limit() {
						t.Error("budget exceeded")
					}
					b.release(p)
				} else {
					b.release(p)
				}
			}
		})
	}
	wg.Wait()
	wantEmpty(t, b, "after all")
}

// Whatever the sizes of reads and the amounts are, an upload comes out as it went in.
func FuzzUpload(f *testing.F) {
	f.Add(uint16(10), uint32(1000), uint32(0), uint16(5))
	f.Add(uint16(5000), uint32(300_000), uint32(100_000), uint16(40_000))
	f.Add(uint16(65535), uint32(600_000), uint32(1<<20), uint16(0))
	body := randomBytes(600_000)
	f.Fuzz(func(t *testing.T, pieces uint16, size, budget uint32, reads uint16) {
		body := body[:min(int(size), len(body))]
		if reads > 0 && reads < 100 || pieces < 100 {
			body = body[:min(len(body), 20*kib)]
		}
		b := NewBudget(int64(budget))
		u := upload(readerFunc(func(src io.Reader) func(p []byte) (int, error) {
			return func(p []byte) (int, error) { return src.Read(p[:min(len(p), int(pieces)+1)]) }
		}(bytes.NewReader(body))), len(body), b)
		for try := 0; try == 0 || try < 3 && u.Replayable(); try++ {
			a := u.Open(nil)
			var got bytes.Buffer
			var err error
			if reads == 0 {
				_, err = a.WriteTo(&got)
			} else {
				_, err = io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{a}, make([]byte, reads))
			}
			if err != nil || !bytes.Equal(got.Bytes(), body) {
				t.Errorf("%d of %d bytes, %v", got.Len(), len(body), err)
			}
			_ = a.Close()
		}
		u.Finish()
		wantEmpty(t, b, "after all")
	})
}

// An upload of 2 MiB from a caller and to a server that are never waited for.
func BenchmarkUpload(b *testing.B) {
	const size = 2 << 20
	body := make([]byte, size)
	for name, limit := range map[string]int64{"kept": 4 << 20, "unkept": 0} {
		b.Run(name, func(b *testing.B) {
			budget := NewBudget(limit)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				u := upload(bytes.NewReader(body), size, budget)
				a := u.Open(nil)
				if n, err := a.WriteTo(struct{ io.Writer }{io.Discard}); n != size || err != nil {
					b.Fatal(n, err)
				}
				_ = a.Close()
				u.Finish()
			}
		})
	}
}
