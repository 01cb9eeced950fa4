package replay

// The memory that uploads take: how much of it all of them may keep, what they hold
// beyond that, and the pieces it comes in.

import (
	"sync"
	"sync/atomic"
)

// Reserve is how much memory, in bytes, uploads that a Budget has no room for may take
// beside it, all together, so as to pass on in large pieces what flows fast. Each of
// them may have what Options.Beside says besides.
const Reserve = 8 << 20

// sizes of pieces, in bytes. Each piece costs a system call on either side; but
// what waits for a caller who may never send it is to be small.
var sizes = [...]int{4 << 10, 16 << 10, 64 << 10, 128 << 10}

const smallest = 0 // the size that a caller who has not sent anything costs

// MinBeside is the least that Options.Beside can be, and DefaultBeside what it is if
// nothing is said, in bytes.
const (
	MinBeside     = 8 << 10
	DefaultBeside = 32 << 10
)

// Budget is an amount of memory that uploads share to be kept in.
type Budget struct {
	limit    int64
	kept     atomic.Int64
	outside  atomic.Int64
	reserved atomic.Int64 // of outside
}

// NewBudget makes a budget of limit bytes. With 0, no upload is kept.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Limit is the size of the budget in bytes.
func (b *Budget) Limit() int64 { return b.limit }

// InUse is how many bytes of the budget are taken: by whole pieces, the last of which
// may not be full.
func (b *Budget) InUse() int64 { return b.kept.Load() }

// Outside is how many bytes uploads hold beside the budget: the first piece of each
// while it is waited for, and what is on its way of those that are not kept.
func (b *Budget) Outside() int64 { return b.outside.Load() }

var inUse atomic.Int64

// InUse is how many bytes of all budgets of the process are taken.
func InUse() int64 { return inUse.Load() }

// take adds n to what is used of limit, if it is there.
func take(used *atomic.Int64, n, limit int64) bool {
	for {
		u := used.Load()
		if n > limit-u {
			return false
		}
		if used.CompareAndSwap(u, u+n) {
			return true
		}
	}
}

func (b *Budget) keep(n int64) bool {
	if !take(&b.kept, n, b.limit) {
		return false
	}
	inUse.Add(n)
	return true
}

// account is where a piece is counted.
type account uint8

const (
	loose account = iota
	fromReserve
	fromBudget
)

// piece is a part of an upload.
type piece struct {
	buf    []byte // what has arrived; its capacity is the piece's size
	start  int64  // offset in the upload
	size   int    // index in sizes
	in     account
	pins   int  // writers that have its memory
	gone   bool // from the record
	sealed bool // nothing more is read into it
	shown  bool // somebody may look at its memory for ever
}

var pools [len(sizes)]sync.Pool

// newPiece takes a piece, which the budget has been asked for if it is to be in it.
func (b *Budget) newPiece(size int, in account, start int64) *piece {
	if in != fromBudget {
		b.outside.Add(int64(sizes[size]))
	}
	p, _ := pools[size].Get().(*piece)
	if p == nil {
		p = &piece{buf: make([]byte, 0, sizes[size])}
	}
	*p = piece{buf: p.buf[:0], start: start, size: size, in: in}
	return p
}

// adopt moves a loose piece into the budget, if there is room.
func (b *Budget) adopt(p *piece) bool {
	n := int64(cap(p.buf))
	if !b.keep(n) {
		return false
	}
	b.outside.Add(-n)
	p.in = fromBudget
	return true
}

// release gives a piece back that nobody has any more.
func (b *Budget) release(p *piece) {
	n := int64(cap(p.buf))
	switch p.in {
	case fromBudget:
		b.kept.Add(-n)
		inUse.Add(-n)
	case fromReserve:
		b.reserved.Add(-n)
		b.outside.Add(-n)
	default:
		b.outside.Add(-n)
	}
	if !p.shown {
		pools[p.size].Put(p)
	}
}
