package mmio

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// model is what the registers should do, said as briefly as possible and
// without looking at the implementation: plain fields, no locks, no device.
type model struct {
	status, deviceSel, driverSel, queueSel, interrupts uint32
	features                                           uint64
	needsReset, active                                 bool
	kicks                                              int64
	queues                                             [2]struct {
		num, ready uint32
		addr       [3]uint64 // desc, driver, device
	}
}

var modelMax = [2]uint32{16, 64}

func (m *model) write(off uint64, v uint32) {
	sane := m.status&128 == 0 && !m.needsReset
	stage := m.status & 15 // 1, 3, 11, 15
	switch off {
	case 0x14:
		m.deviceSel = v
	case 0x24:
		m.driverSel = v
	case 0x30:
		m.queueSel = v
	case 0x64:
		m.interrupts &^= v
	case 0x50:
		if m.active && v < 2 {
			m.kicks++
		}
	case 0x20:
		if sane && stage == 3 && m.driverSel == 0 {
			m.features = m.features>>32<<32 | uint64(v)
		} else if sane && stage == 3 && m.driverSel == 1 {
			m.features = uint64(v)<<32 | m.features&0xffffffff
		}
	case 0x70:
		m.writeStatus(v)
	}
	if !sane || stage != 11 || m.queueSel >= 2 {
		return
	}
	q := &m.queues[m.queueSel]
	switch {
	case off == 0x44:
		q.ready = v & 1
	case q.ready == 0 && off == 0x38:
		q.num = v
	case q.ready == 0 && off >= 0x80 && off <= 0xa4 && off&0xb == 0:
		a := &q.addr[off>>4-8]
		if off&4 == 0 {
			*a = *a>>32<<32 | uint64(v)
		} else {
			*a = uint64(v)<<32 | *a&0xffffffff
		}
	}
}

func (m *model) writeStatus(v uint32) {
	if v == 0 {
		*m = model{kicks: m.kicks}
		return
	}
	if m.status&^v != 0 {
		return
	}
	m.status |= v & 128
	if m.status&128 != 0 || m.needsReset {
		return
	}
	const version1, offered = 1 << 32, 1<<40 | 1<<32 | 1<<29 | 1<<28
	if m.status&15 == 0 && v&1 != 0 {
		m.status = 1
	}
	if m.status&15 == 1 && v&2 != 0 {
		m.status = 3
	}
	if m.status&15 == 3 && v&8 != 0 && m.features&^offered == 0 && m.features&version1 != 0 {
		m.status = 11
	}
	if m.status&15 == 11 && v&4 != 0 {
		m.status = 15
		m.active = m.queueValid(0) && m.queueValid(1)
		m.needsReset = !m.active
		if m.needsReset {
			m.interrupts |= 2
		}
	}
}

func (m *model) queueValid(i int) bool {
	q := m.queues[i]
	n := uint64(q.num)
	if q.ready == 0 {
		return true
	}
	fits := func(addr, align, size uint64) bool {
		return addr != 0 && addr%align == 0 && addr < 1<<20 && addr+size <= 1<<20
	}
	return n != 0 && n&(n-1) == 0 && q.num <= modelMax[i] &&
		fits(q.addr[0], 16, 16*n) && fits(q.addr[1], 2, 6+2*n) && fits(q.addr[2], 4, 6+8*n)
}

func (m *model) read(off uint64) uint32 {
	switch {
	case off == 0x00:
		return 0x74726976
	case off == 0x04:
		return 2
	case off == 0x08:
		return 42
	case off == 0x0c:
		return vendorID
	case off == 0x10 && m.deviceSel == 0:
		return 1<<28 | 1<<29
	case off == 0x10 && m.deviceSel == 1:
		return 1<<0 | 1<<8
	case off == 0x34 && m.queueSel < 2:
		return modelMax[m.queueSel]
	case off == 0x44 && m.queueSel < 2:
		return m.queues[m.queueSel].ready
	case off == 0x60:
		return m.interrupts
	case off == 0x70 && m.needsReset:
		return m.status | 64
	case off == 0x70:
		return m.status
	case off >= 0xb0 && off <= 0xbc:
		return 0xffffffff
	}
	return 0
}

// values are the likely ones; a program picks from them or gives its own.
var values = [...]uint32{0, 1, 2, 3, 11, 15, 128, 0xffffffff, 1 << 28, 1<<8 | 1, 16, 0x10000, 0x10000000, 64, 0xfffff, 7}

// runProgram runs a register program on a transport and on the model: per
// instruction an opcode, then what it asks for.
func runProgram(t *testing.T, g *guest, program []byte) {
	var m model
	next := func() (b byte) {
		if len(program) > 0 {
			b, program = program[0], program[1:]
		}
		return b
	}
	for len(program) > 0 {
		op := next()
		switch {
		case op >= 0xfc: // the device speaks
			a := g.dev.activation()
			if (a != nil) != m.active {
				t.Fatalf("active: %v, the model says %v", a != nil, m.active)
			}
			if a == nil {
				break
			}
			switch op {
			case 0xfc:
				a.Interrupt.NeedsReset()
				if !m.needsReset {
					m.interrupts |= 2
				}
				m.needsReset = true
			case 0xfd:
				a.Interrupt.ConfigChange()
				m.interrupts |= 2
			default:
				a.Interrupt.UsedBuffer()
				m.interrupts |= 1
			}
		case op >= 0xf0: // a short cut to a running device
			g.start()
			for _, d := range startProgram(g) {
				m.write(d[0], uint32(d[1]))
			}
		default:
			off := uint64(next()&0x3f) * 4
			v := values[op&0xf]
			if op&0x40 != 0 {
				v = uint32(next()) | uint32(next())<<8 | uint32(next())<<16 | uint32(next())<<24
			}
			g.set(off, v)
			m.write(off, v)
		}
		for _, off := range []uint64{0x10, 0x34, 0x44, 0x60, 0x70} {
			if got, want := g.get(off), m.read(off); got != want {
				t.Fatalf("register %#x reads %#x, the model says %#x: %+v", off, got, want, m)
			}
		}
	}
	for off := uint64(0); off < 0xfc; off += 4 {
		if got, want := g.get(off), m.read(off); got != want {
			t.Fatalf("register %#x reads %#x, the model says %#x: %+v", off, got, want, m)
		}
	}
	if got := g.dev.kicks.Load(); got != m.kicks {
		t.Fatalf("%d kicks, the model says %d", got, m.kicks)
	}
}

// startProgram is what guest.start writes, for the model.
func startProgram(g *guest) (writes [][2]uint64) {
	w := func(off, v uint64) { writes = append(writes, [2]uint64{off, v}) }
	for _, v := range []uint64{1, 3} {
		w(0x70, v)
	}
	for sel := range uint64(2) {
		w(0x24, sel)
		w(0x20, allFeatures>>(32*sel)&0xffffffff)
	}
	w(0x70, uint64(0x8|0x3))
	for i, d := range g.rings {
		c := d.Config()
		w(0x30, uint64(i))
		w(0x38, uint64(c.Size))
		for i, addr := range [...]uint64{c.Desc, c.Avail, c.Used} {
			reg := 0x80 + 0x10*uint64(i)
			w(reg, addr&0xffffffff)
			w(reg+4, addr>>32)
		}
		w(0x44, 1)
	}
	w(0x70, 15)
	return writes
}

// FuzzMMIO (M2): whatever registers a driver writes, in whatever order, the
// transport reads like the model.
func FuzzMMIO(f *testing.F) {
	f.Add([]byte{1, 0x1c, 3, 0x1c, 0xf0, 0x00, 0x14, 0xfc, 0, 0x1c})
	f.Add([]byte{0xf0, 0xfd, 0xfe, 1, 0x19, 0x80, 0x1c, 0, 0x1c, 0xf0})
	f.Add([]byte{1, 0x1c, 3, 0x1c, 1, 9, 9, 8, 5, 0x1c, 0, 0x0c, 10, 0x0e, 11, 0x20, 1, 0x11, 5, 0x1c})
	f.Fuzz(func(t *testing.T, program []byte) {
		runProgram(t, newGuest(t), program)
	})
}

// The same with many seeded random programs, for a plain go test.
func TestM2RandomPrograms(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		program := make([]byte, 400)
		for i := 0; i < len(program); i += 8 {
			binary.LittleEndian.PutUint64(program[i:], rng.Uint64())
		}
		// More of what matters: Status, Sel, Ready.
		for i := range program {
			if rng.Uint32N(4) == 0 {
				program[i] = [...]byte{0x1c, 0x0c, 0x11, 0x08, 0x09, 1, 3, 4, 5, 0xf0, 0xfe, 0}[rng.Uint32N(12)]
			}
		}
		runProgram(t, newGuest(t), program)
		if t.Failed() {
			return
		}
	}
}
