package queue_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio/queue"
	qt "github.com/agentkernel/agentkernel/virtio/queue/queuetest"
)

// chainOf writes descs to the table one after the other, starting at entry 0,
// and makes the chain that starts there available.
func chainOf(descs ...qt.Desc) func(*qt.Driver) {
	return func(d *qt.Driver) {
		for i, desc := range descs {
			d.SetDesc(uint16(i), desc)
		}
		d.SetAvail(0, 0)
		d.SetAvailIdx(1)
	}
}

// table writes descs as an indirect table at 0x80001, of any alignment, and
// offers one descriptor that refers to it with the given length and flags.
func table(length uint32, flags uint16, descs ...qt.Desc) func(*qt.Driver) {
	return func(d *qt.Driver) {
		for i, desc := range descs {
			d.Write(0x80001+16*uint64(i), desc.Bytes())
		}
		chainOf(qt.Desc{Addr: 0x80001, Len: length, Flags: flags})(d)
	}
}

func TestHostileRingBreaks(t *testing.T) {
	const size = 16
	const end = guestmem.GapEnd + 4*guestmem.PageSize
	buf := qt.Desc{Addr: 0x40000, Len: 16}
	next := func(i uint16) qt.Desc { return qt.Desc{Addr: 0x40000, Len: 16, Flags: qt.Next, Next: i} }
	at := func(addr uint64, n uint32) func(*qt.Driver) { return chainOf(qt.Desc{Addr: addr, Len: n}) }
	direct := qt.Options{Size: size}
	for _, tt := range []struct {
		name string
		o    qt.Options
		set  func(*qt.Driver)
	}{
		{"Q1 descriptor points at itself", direct, chainOf(next(0))},
		{"Q1 A to B to A", direct, chainOf(next(1), next(0))},
		{"Q1 loop that starts later", direct, chainOf(next(1), next(2), next(3), next(2))},
		{"Q1 loop of empty buffers", direct, chainOf(qt.Desc{Flags: qt.Next})},
		{"Q1 loop in an indirect table", qt.Options{Indirect: true}, table(32, qt.Indirect, next(1), next(0))},
		{"Q2 next is the queue size", direct, chainOf(next(size))},
		{"Q2 next is 65535", direct, chainOf(next(65535))},
		{"Q2 next is the table's length", qt.Options{Indirect: true}, table(32, qt.Indirect, next(1), next(2))},
		{"Q3 buffer outside RAM", direct, at(1<<40, 1)},
		{"Q3 buffer in the gap", direct, at(guestmem.GapStart, 1)},
		{"Q3 buffer over the end", direct, at(end-1, 2)},
		{"Q4 address and length overflow", direct, at(math.MaxUint64-3, 8)},
		{"Q4 length 0xffffffff", direct, at(0x40000, 0xffffffff)},
		{"Q4 total of 2^32", direct, chainOf(
			qt.Desc{Addr: 0x1000, Len: 1 << 31, Flags: qt.Next, Next: 1}, qt.Desc{Addr: 0x1000, Len: 1 << 31})},
		{"Q4 total of 2^32 over both directions", direct, chainOf(
			qt.Desc{Addr: 0x1000, Len: 1 << 31, Flags: qt.Next, Next: 1}, qt.Desc{Addr: 0x1000, Len: 1 << 31, Flags: qt.Write})},
		{"Q6 buffer straddles the gap's start", direct, at(guestmem.GapStart-8, 16)},
		{"Q6 buffer spans the gap", direct, at(guestmem.GapStart-8, guestmem.GapEnd-guestmem.GapStart+16)},
		{"Q7 indirect, not negotiated", direct, table(16, qt.Indirect, buf)},
		{"Q7 nested indirect", qt.Options{Indirect: true}, table(16, qt.Indirect, qt.Desc{Addr: 0x80001, Len: 16, Flags: qt.Indirect})},
		{"Q7 indirect and next", qt.Options{Indirect: true}, table(16, qt.Indirect|qt.Next, buf)},
		{"Q7 table of no entry", qt.Options{Indirect: true}, table(0, qt.Indirect)},
		{"Q7 table of 15 bytes", qt.Options{Indirect: true}, table(15, qt.Indirect, buf)},
		{"Q7 table of 17 bytes", qt.Options{Indirect: true}, table(17, qt.Indirect, buf)},
		{"Q7 table of 65536 entries", qt.Options{Indirect: true}, table(65536*16, qt.Indirect, buf)},
		{"Q7 table outside RAM", qt.Options{Indirect: true}, chainOf(qt.Desc{Addr: end - 8, Len: 16, Flags: qt.Indirect})},
		{"Q7 indirect chain longer than the queue", qt.Options{Size: 2, Indirect: true},
			table(48, qt.Indirect, next(1), next(2), buf)},
		{"Q8 avail.idx jumps by size+1", direct, func(d *qt.Driver) { d.SetAvailIdx(size + 1) }},
		{"Q8 avail.idx goes backwards", direct, func(d *qt.Driver) { d.SetAvailIdx(65535) }},
		{"Q9 head is the queue size", direct, func(d *qt.Driver) { d.SetAvail(0, size); d.SetAvailIdx(1) }},
		{"Q9 head is 65535", direct, func(d *qt.Driver) { d.SetAvail(0, 65535); d.SetAvailIdx(1) }},
		{"Q11 readable after writable", direct, chainOf(
			qt.Desc{Addr: 0x40000, Len: 1, Flags: qt.Write | qt.Next, Next: 1}, buf)},
		{"Q11 readable after empty writable", direct, chainOf(
			qt.Desc{Flags: qt.Write | qt.Next, Next: 1}, buf)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := qt.New(t, gapMemory(t), tt.o)
			q := d.Queue()
			tt.set(d)
			var c queue.Chain
			ok, first := q.Pop(&c)
			if ok || !errors.Is(first, queue.ErrBroken) {
				t.Fatalf("Pop = %v, %v", ok, first)
			}
			checkSticky(t, d, q, first)
		})
	}
}

// checkSticky makes sure that nothing works on a broken queue, even after the
// driver mended it, and that its rings are left alone.
func checkSticky(t *testing.T, d *qt.Driver, q *queue.Queue, first error) {
	t.Helper()
	used := queue.Buffer{Addr: d.Config().Used, Len: 6 + 8*uint32(d.Config().Size)}
	before := string(d.Read(used))
	d.SetAvailIdx(0)
	d.Add([]queue.Buffer{d.Alloc(1)}, nil)
	var c queue.Chain
	_, pop := q.Pop(&c)
	_, pending := q.Pending()
	_, flush := q.Flush()
	_, enable := q.EnableNotify()
	for name, err := range map[string]error{
		"Pop": pop, "Pending": pending, "Push": q.Push(0, 0), "Flush": flush,
		"EnableNotify": enable, "DisableNotify": q.DisableNotify(), "Err": q.Err(),
	} {
		if err != first {
			t.Errorf("%s on the broken queue = %v, want %v", name, err, first)
		}
	}
	q.Undo()
	if !q.State().Broken {
		t.Error("State does not say that the queue is broken")
	}
	if string(d.Read(used)) != before {
		t.Error("the used ring was written after the queue broke")
	}
}

func TestUnusualRingServed(t *testing.T) {
	const end = guestmem.GapEnd + 4*guestmem.PageSize
	indirect := qt.Options{Indirect: true}
	long := make([]qt.Desc, 16)
	for i := range long {
		long[i] = qt.Desc{Addr: 0x40000, Len: 1, Flags: qt.Next, Next: uint16(i + 1)}
	}
	long[15].Flags = 0
	for _, tt := range []struct {
		name               string
		o                  qt.Options
		set                func(*qt.Driver)
		readable, writable []queue.Buffer
	}{
		{"Q5 empty buffers are left out", qt.Options{}, chainOf(
			qt.Desc{Addr: 1 << 60, Flags: qt.Next, Next: 1},
			qt.Desc{Addr: 0x40000, Len: 3, Flags: qt.Next, Next: 2},
			qt.Desc{Addr: math.MaxUint64, Flags: qt.Write}),
			[]queue.Buffer{{Addr: 0x40000, Len: 3}}, nil},
		{"Q5 nothing but empty buffers", qt.Options{}, chainOf(
			qt.Desc{Flags: qt.Next, Next: 1}, qt.Desc{Flags: qt.Write}), nil, nil},
		{"§2.7.5.3.2 direct descriptors before an indirect one", indirect, func(d *qt.Driver) {
			table(16, qt.Indirect, qt.Desc{Addr: 0x50000, Len: 2, Flags: qt.Write})(d)
			chainOf(qt.Desc{Addr: 0x40000, Len: 1, Flags: qt.Next, Next: 1},
				qt.Desc{Addr: 0x80001, Len: 16, Flags: qt.Indirect})(d)
		}, []queue.Buffer{{Addr: 0x40000, Len: 1}}, []queue.Buffer{{Addr: 0x50000, Len: 2}}},
		{"§2.7.5.3.2 WRITE on an indirect descriptor is ignored", indirect,
			table(16, qt.Indirect|qt.Write, qt.Desc{Addr: 0x40000, Len: 1}),
			[]queue.Buffer{{Addr: 0x40000, Len: 1}}, nil},
		{"table with more entries than the queue, short chain", qt.Options{Size: 2, Indirect: true},
			table(16*64, qt.Indirect, qt.Desc{Addr: 0x40000, Len: 1, Flags: qt.Next, Next: 1},
				qt.Desc{Addr: 0x50000, Len: 1, Flags: qt.Write}),
			[]queue.Buffer{{Addr: 0x40000, Len: 1}}, []queue.Buffer{{Addr: 0x50000, Len: 1}}},
		{"reserved flags are ignored", qt.Options{}, chainOf(qt.Desc{Addr: 0x40000, Len: 1, Flags: 0xfff8}),
			[]queue.Buffer{{Addr: 0x40000, Len: 1}}, nil},
		{"Q3 the last byte of RAM", qt.Options{}, chainOf(qt.Desc{Addr: end - 1, Len: 1}),
			[]queue.Buffer{{Addr: end - 1, Len: 1}}, nil},
		{"Q4 total of 2^32 - 1", qt.Options{}, chainOf(
			qt.Desc{Addr: 0x1000, Len: 1 << 31, Flags: qt.Next, Next: 1}, qt.Desc{Addr: 0x1000, Len: 1<<31 - 1}),
			[]queue.Buffer{{Addr: 0x1000, Len: 1 << 31}, {Addr: 0x1000, Len: 1<<31 - 1}}, nil},
		{"Q6 up to the gap and from its end", qt.Options{}, chainOf(
			qt.Desc{Addr: guestmem.GapStart - 8, Len: 8, Flags: qt.Next, Next: 1}, qt.Desc{Addr: guestmem.GapEnd, Len: 8}),
			[]queue.Buffer{{Addr: guestmem.GapStart - 8, Len: 8}, {Addr: guestmem.GapEnd, Len: 8}}, nil},
		{"Q22 the rings themselves", qt.Options{}, chainOf(qt.Desc{Addr: 0x10000, Len: 4096, Flags: qt.Write}),
			nil, []queue.Buffer{{Addr: 0x10000, Len: 4096}}},
		{"a chain as long as the queue", qt.Options{}, chainOf(long...), nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := qt.New(t, gapMemory(t), tt.o)
			q := d.Queue()
			tt.set(d)
			var c queue.Chain
			if ok, err := q.Pop(&c); !ok || err != nil {
				t.Fatalf("Pop = %v, %v", ok, err)
			}
			if tt.name == "a chain as long as the queue" {
				if len(c.Readable) != 16 || c.ReadableLen != 16 {
					t.Errorf("chain %+v", c)
				}
				return
			}
			if !equal(c.Readable, tt.readable) || !equal(c.Writable, tt.writable) {
				t.Errorf("chain %+v", c)
			}
			checkChain(t, d.Memory(), q, &c)
			if err := q.Push(c.Head, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

func equal(a, b []queue.Buffer) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// checkChain checks what every chain promises.
func checkChain(tb testing.TB, mem *guestmem.Memory, q *queue.Queue, c *queue.Chain) {
	tb.Helper()
	if n := len(c.Readable) + len(c.Writable); n > int(q.Size()) {
		tb.Fatalf("chain of %d in a queue of %d", n, q.Size())
	}
	var sums [2]uint64
	for i, list := range [][]queue.Buffer{c.Readable, c.Writable} {
		for _, b := range list {
			if _, err := mem.Bytes(b.Addr, uint64(b.Len)); err != nil || b.Len == 0 {
				tb.Fatalf("buffer %+v: %v", b, err)
			}
			sums[i] += uint64(b.Len)
		}
	}
	if sums[0] != uint64(c.ReadableLen) || sums[1] != uint64(c.WritableLen) || sums[0]+sums[1] > math.MaxUint32 {
		tb.Fatalf("totals %v, chain says %d and %d", sums, c.ReadableLen, c.WritableLen)
	}
	if c.Head >= q.Size() {
		tb.Fatalf("head %d in a queue of %d", c.Head, q.Size())
	}
}

// Q9: the same head twice is two requests.
func TestQ9SameHeadTwice(t *testing.T) {
	d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{})
	q := d.Queue()
	chainOf(qt.Desc{Addr: 0x40000, Len: 16})(d)
	d.SetAvail(1, 0)
	d.SetAvailIdx(2)
	var c queue.Chain
	for range 2 {
		if ok, err := q.Pop(&c); !ok || err != nil || c.Head != 0 {
			t.Fatalf("Pop = %v, %v, head %d", ok, err, c.Head)
		}
	}
	if err := errors.Join(q.Push(0, 0), q.Push(0, 0)); err != nil {
		t.Fatal(err)
	}
}

// Q12: rings that lie on top of each other hurt nobody but the guest.
func TestQ12OverlappingRings(t *testing.T) {
	mem := qt.NewMemory(t, memSize)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		cfg := queue.Config{Size: 4, Desc: 0x1000, Avail: 0x1000 + 2*rng.Uint64N(40), Used: 0x1000 + 4*rng.Uint64N(20), EventIdx: i%2 == 0, Indirect: true}
		ring := make([]byte, 256)
		for j := range ring {
			ring[j] = byte(rng.Uint32() & rng.Uint32() & rng.Uint32())
		}
		if err := mem.WriteAt(ring, 0x1000); err != nil {
			t.Fatal(err)
		}
		q, err := queue.New(mem, cfg)
		if err != nil {
			t.Fatal(err)
		}
		u := user{tb: t, mem: mem, q: q}
		for range 32 {
			if u.step(rng.Uint64()) != nil {
				break
			}
		}
	}
}

// user uses a queue as a device might, and checks what it gets.
type user struct {
	tb    testing.TB
	mem   *guestmem.Memory
	q     *queue.Queue
	chain queue.Chain
	heads []uint16 // in flight
}

// step makes the call that choice names. It returns the error that broke the
// queue, if one did.
func (u *user) step(choice uint64) (err error) {
	n := len(u.heads)
	switch choice % 8 {
	case 0, 1, 2:
		var ok bool
		if ok, err = u.q.Pop(&u.chain); ok {
			checkChain(u.tb, u.mem, u.q, &u.chain)
			u.heads = append(u.heads, u.chain.Head)
		}
	case 3, 4:
		if n > 0 {
			err = u.q.Push(u.heads[n-1], uint32(choice))
			u.heads = u.heads[:n-1]
		}
	case 5:
		_, err = u.q.Flush()
	case 6:
		_, err = u.q.EnableNotify()
	case 7:
		if n > 0 {
			u.q.Undo()
			u.heads = u.heads[:n-1]
		}
		err = u.q.DisableNotify()
	}
	if len(u.heads) > int(u.q.Size()) {
		u.tb.Fatalf("%d chains in flight in a queue of %d", len(u.heads), u.q.Size())
	}
	if err != nil && !errors.Is(err, queue.ErrBroken) {
		u.tb.Fatal(err)
	}
	return err
}

// Q16: another vCPU rewrites a chain while it is walked. Whatever Pop returns
// is what it checked.
func TestQ16DoubleFetch(t *testing.T) {
	for _, indirect := range []bool{false, true} {
		mem := qt.NewMemory(t, memSize)
		d := qt.New(t, mem, qt.Options{Size: 4, Indirect: true})
		base := d.Config().Desc
		if indirect {
			base = 0x80008
			d.SetDesc(0, qt.Desc{Addr: base, Len: 64, Flags: qt.Indirect})
		}
		var stop atomic.Bool
		var flips sync.WaitGroup
		flips.Go(func() { flip(t, mem, base, &stop) })
		var c queue.Chain
		var served, broken int
		for range 100_000 {
			q := d.Queue()
			d.SetAvailIdx(1)
			switch ok, err := q.Pop(&c); {
			case ok:
				served++
				checkChain(t, mem, q, &c)
			case err != nil:
				broken++
			}
		}
		stop.Store(true)
		flips.Wait()
		t.Logf("indirect %v: %d served, %d broken", indirect, served, broken)
	}
}

// flip keeps changing the four fields of two descriptors between good and bad.
func flip(t *testing.T, mem *guestmem.Memory, base uint64, stop *atomic.Bool) {
	words := [...][2]uint64{
		{0x40000, 1 << 50}, // addr
		{16 | 1<<32 | 1<<48, 0xffffffff | 3<<32 | 9<<48}, // len, flags, next
		{0x50000, memSize - 8},
		{8, 16 | 2<<32},
	}
	for i := uint64(0); !stop.Load(); i++ {
		w := i * 0x9e3779b97f4a7c15 >> 60 & 3
		if err := mem.StoreUint64(base+8*w, words[w][i>>2&1]); err != nil {
			t.Error(err)
			return
		}
	}
}

// Q20: chains that a device holds are bounded by the queue size, even if the
// driver makes more available than it has descriptors.
func TestQ20InFlightIsBounded(t *testing.T) {
	const size = 8
	d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{Size: size})
	q := d.Queue()
	chainOf(qt.Desc{Addr: 0x40000, Len: 16})(d) // every ring entry says head 0
	var c queue.Chain
	for i := range uint16(size) {
		d.SetAvailIdx(i + 1)
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	d.SetAvailIdx(size + 1)
	if ok, err := q.Pop(&c); ok || !errors.Is(err, queue.ErrBroken) {
		t.Errorf("Pop of chain %d in a queue of %d = %v, %v", size+1, size, ok, err)
	}
}

// Q20: what was pushed and not published counts as well.
func TestQ20UnpublishedIsBounded(t *testing.T) {
	const size = 8
	d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{Size: size})
	q := d.Queue()
	chainOf(qt.Desc{Addr: 0x40000, Len: 16})(d)
	var c queue.Chain
	var n int
	for i := range uint16(2 * size) {
		d.SetAvailIdx(i + 1)
		if ok, _ := q.Pop(&c); !ok {
			break
		}
		if err := q.Push(c.Head, 0); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != size {
		t.Errorf("%d chains pushed without Flush in a queue of %d", n, size)
	}
}
