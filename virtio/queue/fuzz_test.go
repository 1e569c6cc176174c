package queue_test

import (
	"encoding/binary"
	"testing"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio/queue"
	qt "github.com/agentkernel/agentkernel/virtio/queue/queuetest"
)

// FuzzQueue lays out a valid ring, fills it with valid chains, breaks a few
// words of it, before and while a device uses it, and checks what the device
// gets. The input is a program: the first bytes choose the layout, then come
// instructions of the driver and of the device.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{4, 3, 0x21, 0, 0x12, 0, 8, 8, 8, 11, 11, 13, 14})
	f.Add([]byte{2, 0, 0x21, 0x43, 8, 16, 0, 1, 0xff, 0xff, 8, 8})
	f.Add([]byte{0, 2, 0x11, 17, 0, 8, 1, 0, 0, 0, 8, 11, 13, 15})
	f.Add([]byte{5, 1, 0x11, 0x11, 0x11, 18, 1, 0, 0x80, 8, 8, 8})
	f.Fuzz(func(t *testing.T, program []byte) {
		p := reader(program)
		mem := qt.NewMemory(t, 64<<10)
		features := p.next()
		d := qt.New(t, mem, qt.Options{
			Size: 1 << (p.next() % 7), Base: 0x1000,
			EventIdx: features&1 != 0, Indirect: features&2 != 0,
		})
		q := d.Queue()
		bufs := []queue.Buffer{d.Alloc(1), d.Alloc(7), d.Alloc(100), {Addr: 0xfff0, Len: 16}}
		u := user{tb: t, mem: mem, q: q}
		var publish bool
		for len(p) > 0 {
			switch op := p.next(); {
			case op < 4: // offer a chain, in a table if one can
				offerChain(d, op&2 != 0 && features&2 != 0, bufs, p.next())
				publish = true
			case op < 8:
				d.SetUsedEvent(uint16(p.next()))
			case op < 16:
				if publish {
					d.Publish()
					publish = false
				}
				if err := u.step(uint64(op)); err != nil {
					if _, again := q.Pop(new(queue.Chain)); again != err {
						t.Fatalf("broken by %v, then %v", err, again)
					}
					return
				}
				checkState(t, mem, q.State())
			default: // break a word
				breakWord(t, mem, d, op, &p)
			}
		}
	})
}

type reader []byte

func (r *reader) next() byte {
	if len(*r) == 0 {
		return 0
	}
	b := (*r)[0]
	*r = (*r)[1:]
	return b
}

// offerChain stages a chain of shape&3 readable and shape>>4&3 writable
// buffers, if it fits.
func offerChain(d *qt.Driver, indirect bool, bufs []queue.Buffer, shape byte) {
	readable, writable := bufs[:shape&3], bufs[:shape>>4&3]
	n := len(readable) + len(writable)
	switch {
	case n == 0 || n > d.Free():
	case indirect:
		d.StageIndirect(readable, writable)
	default:
		d.Stage(readable, writable)
	}
}

// breakWord writes 16 bits somewhere in the rings or the tables behind them.
func breakWord(t *testing.T, mem *guestmem.Memory, d *qt.Driver, op byte, p *reader) {
	cfg := d.Config()
	base := [...]uint64{cfg.Desc, cfg.Avail, cfg.Used, cfg.Used + 4 + 8*uint64(cfg.Size)}[op%4]
	off := 2 * uint64(p.next())
	word := binary.LittleEndian.AppendUint16(nil, uint16(p.next())|uint16(p.next())<<8)
	if err := mem.WriteAt(word, base+off); err != nil {
		t.Fatal(err)
	}
}

// checkState checks that every state a queue can get into can be restored.
func checkState(t *testing.T, mem *guestmem.Memory, s queue.State) {
	q, err := queue.New(mem, s.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Restore(s); err != nil {
		t.Fatal(err)
	}
	if q.State() != s {
		t.Fatalf("state %+v became %+v", s, q.State())
	}
}
