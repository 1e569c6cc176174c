package vsock

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/virtio/queue"
	"golang.org/x/sys/unix"
)

func FuzzPacket(f *testing.F) {
	f.Add(make([]byte, headerSize))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < headerSize {
			return
		}
		var h header
		var back [headerSize]byte
		h.decode((*[headerSize]byte)(p))
		h.encode(&back)
		same(t, "header", back[:], p[:headerSize])
	})
}

func TestHeaderLayout(t *testing.T) {
	var p [headerSize]byte
	for i := range p {
		p[i] = byte(i)
	}
	var h header
	h.decode(&p)
	want := header{
		srcCID: 0x0706050403020100, dstCID: 0x0f0e0d0c0b0a0908,
		srcPort: 0x13121110, dstPort: 0x17161514, length: 0x1b1a1918,
		typ: 0x1d1c, op: 0x1f1e, flags: 0x23222120, bufAlloc: 0x27262524, fwdCnt: 0x2b2a2928,
	}
	if h != want {
		t.Errorf("got %+v", h)
	}
}

// reader takes values from fuzz input; zeros behind its end.
type reader []byte

func (r *reader) byte() byte {
	if len(*r) == 0 {
		return 0
	}
	b := (*r)[0]
	*r = (*r)[1:]
	return b
}

func (r *reader) uint32() uint32 {
	return binary.LittleEndian.Uint32([]byte{r.byte(), r.byte(), r.byte(), r.byte()})
}

// pick returns one of a few telling values, or any.
func (r *reader) pick(values ...uint32) uint32 {
	if i := int(r.byte()); i < 8*len(values) {
		return values[i%len(values)]
	}
	return r.uint32()
}

// FuzzDevice lets a guest that is right most of the time, and a host that comes
// and goes, do what the input says. Afterwards the device must hold its own
// invariants, and a reset must leave nothing behind.
func FuzzDevice(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13})
	for seed := range byte(16) {
		f.Add(pattern(400, seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 2000 {
			return
		}
		z := &fuzzRig{in: reader(input)}
		z.rig = newRig(t, rigOptions{rxCount: 6, eventIdx: len(input)%2 == 1, rxSplit: []int{20, 30, 300}, config: Config{
			Limits:    Limits{Connections: 6, BufferTotal: 1 << 16, Window: 16 << 10},
			HostPorts: map[uint32]func() (int, error){1024: func() (int, error) { return socketEnd(t), nil }},
		}})
		for len(z.in) > 0 && z.d.mem != nil {
			z.step()
			z.check()
		}
		z.d.Reset()
		for _, c := range z.conns {
			_ = c.Close()
		}
		z.pump2()
		z.checkEmpty()
	})
}

type fuzzRig struct {
	*rig
	in    reader
	conns []*net.UnixConn
	known []ports
}

func (z *fuzzRig) step() {
	switch op := z.in.byte() % 16; op {
	case 0:
		if len(z.conns) < 12 {
			c := z.dial("CONNECT 7\n"[:10-z.in.byte()/128])
			z.conns = append(z.conns, c)
		}
	case 1, 2, 3:
		if c := z.conn(); c != nil {
			fill(z.t, c, int(z.in.byte())*20)
		}
	case 4:
		if c := z.conn(); c != nil {
			_ = c.CloseWrite()
		}
	case 5:
		if c := z.conn(); c != nil {
			_ = c.Close()
		}
	case 6:
		if c := z.conn(); c != nil {
			_, _ = z.readUntil2(c)
		}
	case 7:
		z.keep = !z.keep
		if !z.keep && z.rx.Free() > 1 {
			z.post([]queue.Buffer{z.rx.Alloc(int(z.in.byte()) + 1)})
			z.kick()
		}
	case 8: // not advance: a guest that posts tiny buffers for ever may spin
		z.pass(time.Duration(z.in.byte()) * 100 * time.Millisecond)
	case 9:
		if z.in.byte() < 4 {
			z.tx.SetAvailIdx(uint16(z.in.uint32()))
		}
	default:
		z.packet()
	}
	z.kick()
	z.fuzzPump()
}

func (z *fuzzRig) conn() *net.UnixConn {
	if len(z.conns) == 0 {
		return nil
	}
	return z.conns[int(z.in.byte())%len(z.conns)]
}

func (z *fuzzRig) readUntil2(c *net.UnixConn) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	_ = raw.Control(func(fd uintptr) { n, _, err = unix.Recvfrom(int(fd), make([]byte, 5000), unix.MSG_DONTWAIT) })
	return n, err
}

func (z *fuzzRig) packet() {
	if len(z.txBuf) == 0 || z.tx.Free() == 0 {
		return
	}
	p := ports{host: 1024, guest: uint32(z.in.byte() % 4)}
	if n := len(z.known); n > 0 && z.in.byte() > 40 {
		p = z.known[int(z.in.byte())%n]
	}
	payload := make([]byte, int(z.in.byte())*int(z.in.byte()%32))
	h := header{srcPort: p.guest, dstPort: p.host,
		op:       uint16(z.in.pick(1, 2, 3, 4, 5, 5, 5, 6, 7)),
		typ:      uint16(z.in.pick(1, 1, 1, 1, 1, 1, 2)),
		flags:    z.in.pick(0, 1, 2, 3),
		length:   z.in.pick(uint32(len(payload)), uint32(len(payload)), 0),
		bufAlloc: z.in.pick(1<<18, 1000, 0),
		fwdCnt:   z.in.pick(0),
	}
	if c := z.d.table[p]; c != nil && z.in.byte() > 60 {
		h.fwdCnt = c.sent // an honest guest that reads at once
	}
	z.put(h, payload)
}

// fuzzPump is pump for rings that may be broken.
func (z *fuzzRig) fuzzPump() {
	z.pump2()
	if z.d.mem == nil {
		return
	}
	z.collect()
	for _, p := range z.seen {
		if p.op == opRequest || p.op == opResponse {
			z.known = append(z.known, ports{host: p.srcPort, guest: p.dstPort})
		}
	}
	if n := len(z.known); n > 8 {
		z.known = z.known[n-8:]
	}
	z.seen = nil
}

// check tests what always holds between two batches.
func (z *fuzzRig) check() {
	d := z.d
	live, committed, chunks := 0, 0, 0
	for i, c := range d.slots {
		if c == nil {
			continue
		}
		live++
		committed += int(c.window)
		if c.out.n > int(c.window) {
			z.t.Errorf("%d bytes in a window of %d", c.out.n, c.window)
		}
		for k := c.out.head; k != nil; k = k.next {
			chunks++
		}
		inTable := d.table[c.ports] == c
		if want := c.state != handshake && c.state != gone; inTable != want {
			z.t.Errorf("state %d, in the table: %v", c.state, inTable)
		}
		if (c.state == closing) && c.fd >= 0 || c.state == gone && c.fd < 0 || c.state <= open && c.fd < 0 {
			z.t.Errorf("state %d with descriptor %d", c.state, c.fd)
		}
		if c.fd >= 0 && c.state > open && c.out.n == 0 {
			z.t.Errorf("state %d: nothing to drain", c.state)
		}
		if c.due != 0 && c.links[linkControl].in == nil {
			z.t.Errorf("state %d: due %#x is forgotten", c.state, c.due)
		}
		if c.state == open && c.readable && !c.hostEOF && !c.starved && c.links[linkData].in == nil {
			z.t.Errorf("data is forgotten")
		}
		if int32(i) != c.slot {
			z.t.Errorf("slot %d says %d", i, c.slot)
		}
	}
	if live != d.connections || committed != d.committed || chunks != d.pool.used || live > d.limits.Connections || committed > d.limits.BufferTotal {
		z.t.Errorf("%d connections of %d, %d committed of %d, %d chunks of %d", live, d.connections, committed, d.committed, chunks, d.pool.used)
	}
}
