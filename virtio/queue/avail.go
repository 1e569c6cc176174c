package queue

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

// Descriptor flags, §2.7.5. Others are reserved and ignored.
const (
	flagNext     = 1
	flagWrite    = 2
	flagIndirect = 4
)

// Causes of a broken ring. They are values, so that a hostile driver makes us
// allocate once per breakage and no more.
var (
	errAvailIdx      = errors.New("avail.idx is ahead by more than the queue size")
	errHead          = errors.New("head is not below the queue size")
	errNext          = errors.New("next is not below the table's size")
	errTooLong       = errors.New("chain is longer than the queue size, or a loop")
	errTooMuch       = errors.New("chain holds more than 4 GiB - 1")
	errOrder         = errors.New("device-readable buffer after a device-writable one")
	errNotIndirect   = errors.New("indirect descriptor, but the feature was not negotiated")
	errIndirectNext  = errors.New("indirect descriptor with a next one")
	errNested        = errors.New("indirect descriptor in an indirect table")
	errIndirectTable = errors.New("indirect table's length is not 1 to 32768 descriptors")
)

// Buffer is a run of guest-physical memory that the driver lent the device.
type Buffer struct {
	Addr uint64
	Len  uint32
}

// Chain is one request: the buffers that the device may read, then those that
// it may write. Each lies inside one region of guest RAM, so that
// [guestmem.Memory.Bytes] on it succeeds. Empty buffers are left out; a chain
// may have no buffer at all. The slices are reused by the next Pop.
type Chain struct {
	Head        uint16 // names the chain in Push
	Readable    []Buffer
	Writable    []Buffer
	ReadableLen uint32 // total of Readable, in bytes
	WritableLen uint32 // total of Writable; both together ≤ 2^32 - 1
}

// descriptor is a copy of struct virtq_desc, §2.7.5.
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// Pop takes the next available chain and fills c with it; it returns false
// when there is none. The chain is the device's until Push or Undo. It costs
// time in proportion to the chain, which is at most as long as the queue.
func (q *Queue) Pop(c *Chain) (bool, error) {
	if q.nextAvail == q.seenAvail || q.err != nil {
		if more, err := q.refresh(); !more {
			return false, err
		}
	}
	// Reading the entry after the index is what §2.7.13.2 asks of the
	// driver's side; amd64 keeps loads in order.
	slot := int(q.nextAvail & (q.cfg.Size - 1))
	c.Head = load16(q.avail, availRing+2*slot)
	c.Readable, c.Writable = c.Readable[:0], c.Writable[:0]
	c.ReadableLen, c.WritableLen = 0, 0
	w := walker{q: q, c: c}
	if err := w.walk(); err != nil {
		return false, q.fail(err)
	}
	q.nextAvail++
	return true, nil
}

// Undo gives back the chain that was popped last and not pushed, so that the
// next Pop returns it again (and reads it again: it may differ). Called
// repeatedly it gives back the chains before it. It does nothing when no chain
// is in flight.
func (q *Queue) Undo() {
	if q.nextAvail != q.nextUsed {
		q.nextAvail--
	}
}

// Pending tells whether Pop has something to return.
func (q *Queue) Pending() (bool, error) {
	if q.nextAvail != q.seenAvail && q.err == nil {
		return true, nil
	}
	return q.refresh()
}

// refresh reads avail.idx and tells whether there is something to pop.
func (q *Queue) refresh() (bool, error) {
	if q.err != nil {
		return false, q.err
	}
	idx := load16(q.avail, availIdxOff)
	// What the driver may have outstanding is Size in all; nextAvail -
	// published of it is popped already, and never more than Size. This
	// also catches an index that went backwards.
	if idx-q.nextAvail > q.cfg.Size-(q.nextAvail-q.published) {
		return false, q.fail(errAvailIdx)
	}
	q.seenAvail = idx
	return idx != q.nextAvail, nil
}

// walker follows one chain. It lives on the stack of Pop.
type walker struct {
	q       *Queue
	c       *Chain
	links   uint32 // descriptors seen
	total   uint64 // bytes seen; cannot overflow: 32768 × 2^32 < 2^64
	writing bool   // a device-writable descriptor was seen
}

// walk follows the chain in the descriptor table. §2.7.5.3.2: zero or more
// normal descriptors may stand before one that refers to an indirect table.
func (w *walker) walk() error {
	i := w.c.Head
	if i >= w.q.cfg.Size {
		return errHead
	}
	for {
		d := w.q.direct(i)
		if d.flags&flagIndirect != 0 {
			return w.indirect(d)
		}
		if err := w.add(d); err != nil {
			return err
		}
		if d.flags&flagNext == 0 {
			return nil
		}
		if i = d.next; i >= w.q.cfg.Size {
			return errNext
		}
	}
}

// indirect follows the rest of the chain in the table that d refers to,
// §2.7.5.3. d's WRITE flag is ignored, as §2.7.5.3.2 demands.
func (w *walker) indirect(d descriptor) error {
	n := d.len / descSize
	switch {
	case !w.q.cfg.Indirect:
		return errNotIndirect
	case d.flags&flagNext != 0:
		return errIndirectNext
	case n == 0 || n > MaxSize || d.len%descSize != 0:
		return errIndirectTable
	}
	table, err := w.q.mem.Bytes(d.addr, uint64(d.len))
	if err != nil {
		return err
	}
	for i := uint32(0); ; {
		d = w.q.fromTable(table, i)
		if d.flags&flagIndirect != 0 {
			return errNested
		}
		if err := w.add(d); err != nil {
			return err
		}
		if d.flags&flagNext == 0 {
			return nil
		}
		if i = uint32(d.next); i >= n {
			return errNext
		}
	}
}

// add checks one buffer and appends it to the chain. Counting links is what
// ends a loop.
func (w *walker) add(d descriptor) error {
	if w.links++; w.links > uint32(w.q.cfg.Size) {
		return errTooLong
	}
	if w.total += uint64(d.len); w.total > math.MaxUint32 {
		return errTooMuch
	}
	write := d.flags&flagWrite != 0
	if w.writing && !write {
		return errOrder // §2.7.4.2
	}
	w.writing = write
	if d.len == 0 {
		return nil
	}
	if _, err := w.q.mem.Bytes(d.addr, uint64(d.len)); err != nil {
		return err
	}
	b := Buffer{Addr: d.addr, Len: d.len}
	if write {
		w.c.Writable = append(w.c.Writable, b)
		w.c.WritableLen += d.len
	} else {
		w.c.Readable = append(w.c.Readable, b)
		w.c.ReadableLen += d.len
	}
	return nil
}

// direct copies entry i of the descriptor table, i below the queue size: two
// loads, each field in exactly one of them.
func (q *Queue) direct(i uint16) descriptor {
	off := descSize * int(i)
	lo, hi := load64(q.desc, off), load64(q.desc, off+8)
	return descriptor{addr: lo, len: uint32(hi), flags: uint16(hi >> 32), next: uint16(hi >> 48)}
}

// fromTable copies entry i of an indirect table, whose address may have any
// alignment.
func (q *Queue) fromTable(table []byte, i uint32) descriptor {
	copy(q.scratch[:], table[descSize*i:descSize*(i+1)])
	b := q.scratch[:]
	return descriptor{
		addr:  binary.LittleEndian.Uint64(b),
		len:   binary.LittleEndian.Uint32(b[8:]),
		flags: binary.LittleEndian.Uint16(b[12:]),
		next:  binary.LittleEndian.Uint16(b[14:]),
	}
}

// EnableNotify asks the driver for a kick when it makes the next chain
// available, §2.7.10. more tells that chains came in the meantime: the driver
// may not have seen the request, so pop again before waiting.
func (q *Queue) EnableNotify() (more bool, err error) {
	if q.err != nil {
		return false, q.err
	}
	if q.cfg.EventIdx {
		store16(q.used, usedRing+usedElemSize*int(q.cfg.Size), q.nextAvail) // avail_event
	} else {
		q.usedFlags = 0
		q.storeUsed()
	}
	// The driver stores avail.idx, fences and looks at our request; we
	// store the request, fence and look at avail.idx. One of us sees the
	// other's store.
	guestmem.Fence()
	return q.refresh()
}

// DisableNotify tells the driver that kicks are not needed. It is a hint. With
// EVENT_IDX there is nothing to do: avail_event asks for one kick at a time.
func (q *Queue) DisableNotify() error {
	if q.err != nil {
		return q.err
	}
	if !q.cfg.EventIdx {
		q.usedFlags = noNotify
		q.storeUsed()
	}
	return nil
}
