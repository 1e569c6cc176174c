// Package queuetest is a fake driver for tests and fuzzing of the device side
// of virtqueues: it lays out rings in guest memory, offers chains, reads the
// used ring, sets event indices, and writes whatever garbage a test asks for.
//
// A [Driver] touches guest memory as a vCPU would, so that it may run in
// another goroutine than the device. It locks nothing: one goroutine at a time
// calls it, and, as it ends the test on misuse, that is the test's own.
package queuetest

import (
	"encoding/binary"
	"testing"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio/queue"
)

// Descriptor flags, VIRTIO 1.2 §2.7.5.
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Desc is struct virtq_desc, §2.7.5.
type Desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

// Bytes returns the descriptor as it stands in memory.
func (d Desc) Bytes() []byte {
	b := make([]byte, 0, 16)
	b = binary.LittleEndian.AppendUint64(b, d.Addr)
	b = binary.LittleEndian.AppendUint32(b, d.Len)
	b = binary.LittleEndian.AppendUint16(b, d.Flags)
	return binary.LittleEndian.AppendUint16(b, d.Next)
}

// Used is one element of the used ring, §2.7.8.
type Used struct{ ID, Len uint32 }

// NewMemory returns guest memory that lives as long as the test.
func NewMemory(tb testing.TB, size uint64) *guestmem.Memory {
	tb.Helper()
	m, err := guestmem.New(size)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := m.Close(); err != nil {
			tb.Error(err)
		}
	})
	return m
}

// Options lays out one queue. The zero value of a field means its default.
type Options struct {
	Size     uint16 // descriptors; 16
	Base     uint64 // where rings, then the heap of Alloc begin; 0x10000
	Limit    uint64 // end of the heap; end of the low RAM
	EventIdx bool
	Indirect bool
}

// Driver is the driver side of one split virtqueue.
type Driver struct {
	tb  testing.TB
	mem *guestmem.Memory
	cfg queue.Config

	free   []uint16            // descriptors not in a chain
	chains map[uint16][]uint16 // descriptors of each chain by head
	tables map[uint16]queue.Buffer

	heap, limit uint64

	availIdx uint16 // next entry to make available
	kicked   uint16 // avail.idx at the last NeedKick
	usedIdx  uint16 // next used element to read
}

// New lays out a queue, zeroed, in mem.
func New(tb testing.TB, mem *guestmem.Memory, o Options) *Driver {
	tb.Helper()
	if o.Size == 0 {
		o.Size = 16
	}
	if o.Base == 0 {
		o.Base = 0x10000
	}
	if o.Limit == 0 {
		o.Limit = mem.Regions()[0].Size()
	}
	n := uint64(o.Size)
	d := &Driver{tb: tb, mem: mem, heap: o.Base, limit: o.Limit}
	d.cfg = queue.Config{
		Size: o.Size, EventIdx: o.EventIdx, Indirect: o.Indirect,
		Desc:  d.alloc(16*n, 16),
		Avail: d.alloc(6+2*n, 2),
		Used:  d.alloc(6+8*n, 4),
	}
	d.Reset()
	return d
}

// Reset zeroes the rings and forgets all chains, as a driver does before it
// activates a device.
func (d *Driver) Reset() {
	n := uint64(d.cfg.Size)
	d.write(d.cfg.Desc, make([]byte, 16*n))
	d.write(d.cfg.Avail, make([]byte, 6+2*n))
	d.write(d.cfg.Used, make([]byte, 6+8*n))
	d.free = d.free[:0]
	for i := int(d.cfg.Size) - 1; i >= 0; i-- {
		d.free = append(d.free, uint16(i))
	}
	d.chains, d.tables = map[uint16][]uint16{}, map[uint16]queue.Buffer{}
	d.availIdx, d.kicked, d.usedIdx = 0, 0, 0
}

// Config returns what the device is to be activated with.
func (d *Driver) Config() queue.Config { return d.cfg }

// Queue returns a device side of the queue.
func (d *Driver) Queue() *queue.Queue {
	d.tb.Helper()
	q, err := queue.New(d.mem, d.cfg)
	if err != nil {
		d.tb.Fatal(err)
	}
	return q
}

// Memory returns the guest's memory.
func (d *Driver) Memory() *guestmem.Memory { return d.mem }

func (d *Driver) alloc(n, align uint64) uint64 {
	d.tb.Helper()
	addr := (d.heap + align - 1) &^ (align - 1)
	if addr+n > d.limit {
		d.tb.Fatalf("queuetest: %d bytes do not fit the guest's heap", n)
	}
	d.heap = addr + n
	return addr
}

// Alloc returns n bytes of guest memory that are nobody else's. They are never
// freed.
func (d *Driver) Alloc(n int) queue.Buffer {
	d.tb.Helper()
	return queue.Buffer{Addr: d.alloc(uint64(n), 1), Len: uint32(n)}
}

// AllocBytes returns guest memory that holds p.
func (d *Driver) AllocBytes(p []byte) queue.Buffer {
	d.tb.Helper()
	b := d.Alloc(len(p))
	d.write(b.Addr, p)
	return b
}

// Read returns a copy of the buffers' bytes, one after the other.
func (d *Driver) Read(bufs ...queue.Buffer) []byte {
	d.tb.Helper()
	var all []byte
	for _, b := range bufs {
		p := make([]byte, b.Len)
		if err := d.mem.ReadAt(p, b.Addr); err != nil {
			d.tb.Fatalf("queuetest: read %+v: %v", b, err)
		}
		all = append(all, p...)
	}
	return all
}

// Write stores p at addr.
func (d *Driver) Write(addr uint64, p []byte) {
	d.tb.Helper()
	d.write(addr, p)
}

func (d *Driver) write(addr uint64, p []byte) {
	d.tb.Helper()
	if err := d.mem.WriteAt(p, addr); err != nil {
		d.tb.Fatalf("queuetest: write %d bytes at %#x: %v", len(p), addr, err)
	}
}

// Add makes one chain available and returns its head. It ends the test when
// descriptors run out.
func (d *Driver) Add(readable, writable []queue.Buffer) uint16 {
	d.tb.Helper()
	head := d.Stage(readable, writable)
	d.Publish()
	return head
}

// AddIndirect is Add with the chain in an indirect table.
func (d *Driver) AddIndirect(readable, writable []queue.Buffer) uint16 {
	d.tb.Helper()
	head := d.StageIndirect(readable, writable)
	d.Publish()
	return head
}

// Free returns how many descriptors are in no chain.
func (d *Driver) Free() int { return len(d.free) }

// Stage writes a chain to the rings without moving avail.idx: see Publish.
func (d *Driver) Stage(readable, writable []queue.Buffer) uint16 {
	d.tb.Helper()
	n := len(readable) + len(writable)
	if n == 0 || n > len(d.free) {
		d.tb.Fatalf("queuetest: chain of %d, %d descriptors free", n, len(d.free))
	}
	cut := len(d.free) - n
	ids := append([]uint16(nil), d.free[cut:]...)
	d.free = d.free[:cut]
	for i, desc := range descs(readable, writable) {
		if i+1 < n {
			desc.Flags |= Next
			desc.Next = ids[i+1]
		}
		d.SetDesc(ids[i], desc)
	}
	d.stage(ids)
	return ids[0]
}

// StageIndirect is Stage with the chain in an indirect table, §2.7.5.3.
func (d *Driver) StageIndirect(readable, writable []queue.Buffer) uint16 {
	d.tb.Helper()
	if len(d.free) == 0 {
		d.tb.Fatal("queuetest: no descriptor free")
	}
	id := d.free[len(d.free)-1]
	d.free = d.free[:len(d.free)-1]
	all := descs(readable, writable)
	need := uint32(16 * len(all))
	table := d.tables[id]
	if table.Len < need {
		table = queue.Buffer{Addr: d.alloc(uint64(need), 1), Len: need}
		d.tables[id] = table
	}
	for i, desc := range all {
		if i+1 < len(all) {
			desc.Flags |= Next
			desc.Next = uint16(i + 1)
		}
		d.write(table.Addr+16*uint64(i), desc.Bytes())
	}
	d.SetDesc(id, Desc{Addr: table.Addr, Len: need, Flags: Indirect})
	d.stage([]uint16{id})
	return id
}

func descs(readable, writable []queue.Buffer) []Desc {
	all := make([]Desc, 0, len(readable)+len(writable))
	for _, b := range readable {
		all = append(all, Desc{Addr: b.Addr, Len: b.Len})
	}
	for _, b := range writable {
		all = append(all, Desc{Addr: b.Addr, Len: b.Len, Flags: Write})
	}
	return all
}

func (d *Driver) stage(ids []uint16) {
	d.chains[ids[0]] = ids
	d.SetAvail(d.availIdx, ids[0])
	d.availIdx++
}

// Publish makes the staged chains available, §2.7.13.3.
func (d *Driver) Publish() {
	d.SetAvailIdx(d.availIdx)
	guestmem.Fence()
}

// NeedKick tells whether a driver would notify the device now, because of what
// was published since the last call, §2.7.10.
func (d *Driver) NeedKick() bool {
	old := d.kicked
	d.kicked = d.availIdx
	if !d.cfg.EventIdx {
		return d.UsedFlags()&1 == 0 && old != d.availIdx
	}
	return d.availIdx-d.AvailEvent()-1 < d.availIdx-old
}

// Used takes the next element of the used ring and frees its chain.
func (d *Driver) Used() (Used, bool) {
	d.tb.Helper()
	if d.usedIdx == d.UsedIdx() {
		return Used{}, false
	}
	b := d.Read(queue.Buffer{Addr: d.cfg.Used + 4 + 8*uint64(d.usedIdx&(d.cfg.Size-1)), Len: 8})
	d.usedIdx++
	u := Used{ID: binary.LittleEndian.Uint32(b), Len: binary.LittleEndian.Uint32(b[4:])}
	d.free = append(d.free, d.chains[uint16(u.ID)]...)
	delete(d.chains, uint16(u.ID))
	return u, true
}

// MustUsed is Used on a ring that must not be empty.
func (d *Driver) MustUsed() Used {
	d.tb.Helper()
	u, ok := d.Used()
	if !ok {
		d.tb.Fatal("queuetest: no used element")
	}
	return u
}
