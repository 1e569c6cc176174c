package queue_test

import (
	"errors"
	"math"
	"testing"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio/queue"
	qt "github.com/agentkernel/agentkernel/virtio/queue/queuetest"
)

const memSize = 1 << 20

func TestConfigRefused(t *testing.T) {
	mem := qt.NewMemory(t, memSize)
	good := queue.Config{Size: 16, Desc: 0x1000, Avail: 0x2000, Used: 0x3000}
	if _, err := queue.New(mem, good); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		edit func(*queue.Config)
	}{
		{"Q14 size 0", func(c *queue.Config) { c.Size = 0 }},
		{"Q14 size 3", func(c *queue.Config) { c.Size = 3 }},
		{"Q14 size 65535", func(c *queue.Config) { c.Size = 65535 }},
		{"Q14 size 32769", func(c *queue.Config) { c.Size = 32769 }},
		{"Q13 desc at 0", func(c *queue.Config) { c.Desc = 0 }},
		{"Q13 avail at 0", func(c *queue.Config) { c.Avail = 0 }},
		{"Q13 used at 0", func(c *queue.Config) { c.Used = 0 }},
		{"Q13 desc misaligned", func(c *queue.Config) { c.Desc += 8 }},
		{"Q13 avail misaligned", func(c *queue.Config) { c.Avail++ }},
		{"Q13 used misaligned", func(c *queue.Config) { c.Used += 2 }},
		{"Q13 desc over the end", func(c *queue.Config) { c.Desc = memSize - 15*16 }},
		{"Q13 avail over the end", func(c *queue.Config) { c.Avail = memSize - 6 - 2*15 }},
		{"Q13 used over the end", func(c *queue.Config) { c.Used = memSize - 8 - 8*15 }},
		{"Q13 desc outside RAM", func(c *queue.Config) { c.Desc = memSize }},
		{"Q13 avail outside RAM", func(c *queue.Config) { c.Avail = 1 << 40 }},
		{"Q13 used wraps 64 bits", func(c *queue.Config) { c.Used = math.MaxUint64 - 3 }},
		{"Q13 size does not fit the last page", func(c *queue.Config) { c.Size = 32768; c.Desc = memSize - 4096 }},
	} {
		cfg := good
		tt.edit(&cfg)
		if q, err := queue.New(mem, cfg); !errors.Is(err, queue.ErrConfig) {
			t.Errorf("%s: New = %v, %v", tt.name, q, err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, o := range []qt.Options{
		{}, {EventIdx: true}, {Indirect: true}, {EventIdx: true, Indirect: true},
		{Base: 0x10002}, // an available ring that is not on a 4-byte boundary
	} {
		d := qt.New(t, qt.NewMemory(t, memSize), o)
		q := d.Queue()
		in, out := d.AllocBytes([]byte("question")), []queue.Buffer{d.Alloc(3), d.Alloc(5)}
		add := d.Add
		if o.Indirect {
			add = d.AddIndirect
		}
		head := add([]queue.Buffer{in}, out)

		var c queue.Chain
		ok, err := q.Pop(&c)
		if !ok || err != nil {
			t.Fatalf("%+v: Pop = %v, %v", o, ok, err)
		}
		if c.Head != head || c.ReadableLen != 8 || c.WritableLen != 8 || len(c.Readable) != 1 || len(c.Writable) != 2 ||
			c.Readable[0] != in || c.Writable[0] != out[0] || c.Writable[1] != out[1] {
			t.Errorf("%+v: chain %+v", o, c)
		}
		if err := q.Push(c.Head, 7); err != nil {
			t.Fatal(err)
		}
		if _, ok := d.Used(); ok {
			t.Error("a pushed chain is visible before Flush")
		}
		if interrupt, err := q.Flush(); !interrupt || err != nil {
			t.Errorf("Flush = %v, %v", interrupt, err)
		}
		if u := d.MustUsed(); u != (qt.Used{ID: uint32(head), Len: 7}) {
			t.Errorf("used element %+v", u)
		}
		if ok, err := q.Pop(&c); ok || err != nil {
			t.Errorf("Pop on an empty queue = %v, %v", ok, err)
		}
		if interrupt, err := q.Flush(); interrupt || err != nil {
			t.Errorf("Flush of nothing = %v, %v", interrupt, err)
		}
	}
}

func TestUndo(t *testing.T) {
	d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{})
	q := d.Queue()
	var heads []uint16
	for range 3 {
		heads = append(heads, d.Add([]queue.Buffer{d.Alloc(4)}, nil))
	}
	q.Undo() // nothing popped: no effect
	var c queue.Chain
	pop := func(want uint16) {
		t.Helper()
		if ok, err := q.Pop(&c); !ok || err != nil || c.Head != want {
			t.Fatalf("Pop = %v, %v, head %d; want %d", ok, err, c.Head, want)
		}
	}
	pop(heads[0])
	q.Undo()
	pop(heads[0])
	pop(heads[1])
	pop(heads[2])
	q.Undo()
	q.Undo()
	pop(heads[1])
	if more, err := q.Pending(); !more || err != nil {
		t.Errorf("Pending = %v, %v", more, err)
	}
	if err := q.Push(heads[0], 0); err != nil {
		t.Fatal(err)
	}
	q.Undo()
	q.Undo() // heads[0] is pushed: no effect
	pop(heads[1])
	pop(heads[2])
	if more, err := q.Pending(); more || err != nil {
		t.Errorf("Pending = %v, %v", more, err)
	}
}

func TestMisuse(t *testing.T) {
	d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{})
	q := d.Queue()
	if err := q.Push(0, 0); !errors.Is(err, queue.ErrMisuse) {
		t.Errorf("Push of nothing = %v", err)
	}
	d.Add([]queue.Buffer{d.Alloc(1)}, nil)
	var c queue.Chain
	if ok, err := q.Pop(&c); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := q.Push(16, 0); !errors.Is(err, queue.ErrMisuse) {
		t.Errorf("Push of head 16 of 16 = %v", err)
	}
	if err := q.Push(c.Head, 0); err != nil {
		t.Errorf("misuse broke the queue: %v", err)
	}
}

// Q10: free-running indices wrap with chains in flight, and 200,000 chains
// come and go in order although they are pushed out of order.
func TestQ10IndexWrap(t *testing.T) {
	const total, size = 200_000, 8
	d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{Size: size, EventIdx: true})
	q := d.Queue()
	buf := []queue.Buffer{d.Alloc(4)}
	var c queue.Chain
	var expect, inFlight []uint16 // heads as added; heads popped
	for added, done := 0, 0; done < total; {
		for ; added < total && d.Free() > 0; added++ {
			expect = append(expect, d.Add(buf, nil))
		}
		for len(expect) > 0 {
			if ok, err := q.Pop(&c); !ok || err != nil || c.Head != expect[0] {
				t.Fatalf("after %d: Pop = %v, %v, head %d, want %d", done, ok, err, c.Head, expect[0])
			}
			inFlight, expect = append(inFlight, c.Head), expect[1:]
		}
		// All but the first, last first; so one is always in flight.
		for n := len(inFlight); n > 1 || (n == 1 && added == total); n-- {
			head := inFlight[n-1]
			inFlight = inFlight[:n-1]
			if err := q.Push(head, uint32(done)); err != nil {
				t.Fatal(err)
			}
			if _, err := q.Flush(); err != nil {
				t.Fatal(err)
			}
			if u := d.MustUsed(); u != (qt.Used{ID: uint32(head), Len: uint32(done)}) {
				t.Fatalf("after %d: used %+v", done, u)
			}
			done++
		}
	}
}

func TestState(t *testing.T) {
	mem := qt.NewMemory(t, memSize)
	d := qt.New(t, mem, qt.Options{Size: 4})
	q := d.Queue()
	var heads []uint16
	for range 3 {
		heads = append(heads, d.Add([]queue.Buffer{d.Alloc(1)}, nil))
	}
	var c queue.Chain
	for range 2 {
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if err := errors.Join(q.Push(heads[0], 1), q.DisableNotify()); err != nil {
		t.Fatal(err)
	}

	// Another queue, of another size, takes it over: one pushed and not
	// published, one in flight, one not popped.
	other := qt.New(t, mem, qt.Options{Size: 8, Base: 0x80000}).Queue()
	if err := other.Restore(q.State()); err != nil {
		t.Fatal(err)
	}
	if other.State() != q.State() {
		t.Errorf("state %+v, want %+v", other.State(), q.State())
	}
	if ok, err := other.Pop(&c); !ok || err != nil || c.Head != heads[2] {
		t.Errorf("Pop = %v, %v, head %d", ok, err, c.Head)
	}
	if err := errors.Join(other.Push(heads[2], 3), other.Push(heads[1], 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Flush(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 2, 1} {
		if u := d.MustUsed(); u.ID != uint32(heads[want]) || u.Len != uint32(want+1) {
			t.Errorf("used %d: %+v", i, u)
		}
	}
	if d.UsedFlags() != 1 {
		t.Error("the restored queue wants kicks")
	}

	for name, edit := range map[string]func(*queue.State){
		"in flight > size": func(s *queue.State) { s.NextAvail = s.NextUsed + 5 },
		"used > avail":     func(s *queue.State) { s.NextUsed = s.NextAvail + 1 },
		"size 0":           func(s *queue.State) { *s = queue.State{} },
		"ring outside RAM": func(s *queue.State) { s.Config.Used = memSize },
	} {
		s := q.State()
		edit(&s)
		before := other.State()
		if err := other.Restore(s); !errors.Is(err, queue.ErrConfig) {
			t.Errorf("%s: Restore = %v", name, err)
		}
		if other.State() != before {
			t.Errorf("%s: a failed Restore changed the queue", name)
		}
	}
	s := q.State()
	s.Broken = true
	if err := other.Restore(s); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Pop(&c); !errors.Is(err, queue.ErrBroken) {
		t.Errorf("Pop on a restored broken queue = %v", err)
	}
}

func TestNoAllocations(t *testing.T) {
	for _, o := range []qt.Options{{EventIdx: true}, {}, {EventIdx: true, Indirect: true}} {
		d := qt.New(t, qt.NewMemory(t, memSize), o)
		q := d.Queue()
		roundTrip := offer(d, o.Indirect)
		var c queue.Chain
		serve(t, q, &c, roundTrip)
		if n := testing.AllocsPerRun(1000, func() { serve(t, q, &c, roundTrip) }); n != 0 {
			t.Errorf("%+v: %v allocations per chain", o, n)
		}
	}
}

// offer fills the descriptor table and returns a function that makes one
// chain of two buffers available, in one store and without allocating.
func offer(d *qt.Driver, indirect bool) func() {
	readable, writable := []queue.Buffer{d.Alloc(64)}, []queue.Buffer{d.Alloc(64)}
	var head uint16
	if indirect {
		head = d.StageIndirect(readable, writable)
	} else {
		head = d.Stage(readable, writable)
	}
	for i := range d.Config().Size {
		d.SetAvail(i, head)
	}
	var idx uint16
	return func() {
		idx++
		d.SetAvailIdx(idx)
	}
}

func serve(tb testing.TB, q *queue.Queue, c *queue.Chain, offer func()) {
	offer()
	if ok, err := q.Pop(c); !ok || err != nil {
		tb.Fatal(ok, err)
	}
	if err := q.Push(c.Head, 64); err != nil {
		tb.Fatal(err)
	}
	if _, err := q.Flush(); err != nil {
		tb.Fatal(err)
	}
	if more, err := q.EnableNotify(); more || err != nil {
		tb.Fatal(more, err)
	}
}

func BenchmarkPop(b *testing.B) {
	for name, o := range map[string]qt.Options{"direct": {Size: 256}, "indirect": {Size: 256, Indirect: true}} {
		b.Run(name, func(b *testing.B) {
			d := qt.New(b, qt.NewMemory(b, memSize), o)
			q := d.Queue()
			offer(d, o.Indirect)()
			var c queue.Chain
			b.ReportAllocs()
			for b.Loop() {
				if ok, err := q.Pop(&c); !ok || err != nil {
					b.Fatal(ok, err)
				}
				q.Undo()
			}
		})
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	d := qt.New(b, qt.NewMemory(b, memSize), qt.Options{Size: 256, EventIdx: true})
	q := d.Queue()
	next := offer(d, false)
	var c queue.Chain
	b.ReportAllocs()
	for b.Loop() {
		serve(b, q, &c, next)
	}
}

// gapMemory is RAM that goes on above the gap, for buffers at its edges.
func gapMemory(tb testing.TB) *guestmem.Memory {
	return qt.NewMemory(tb, guestmem.GapStart+4*guestmem.PageSize)
}
