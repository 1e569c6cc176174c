// Package queue is the device side of a split virtqueue (VIRTIO 1.2 §2.7)
// with indirect descriptors and VIRTIO_F_EVENT_IDX.
//
// # How a device uses it
//
//	for more := true; more; {
//		for n := 0; n < batch; n++ {
//			ok, err := q.Pop(&chain)  // err: Interrupter.NeedsReset, stop
//			if !ok { break }
//			…                         // serve chain.Readable, chain.Writable
//			q.Push(chain.Head, written)
//		}
//		interrupt, err := q.Flush()   // interrupt: Interrupter.UsedBuffer
//		more, err = q.EnableNotify()  // false: wait for the next kick
//	}
//
// A driver on another vCPU can make buffers available as fast as they are
// popped: a loop that ends only when Pop finds nothing may never end. Bound
// the batch, and look at everything else between two batches.
//
// # Trust
//
// Rings and descriptors lie in guest memory, which the guest may change at
// any moment. Every field is read once into a local, checked there and used
// from there. Lengths that the guest wrote bound no loop before they are
// checked against the queue size. What no driver may do breaks the queue:
// the call returns an error that wraps [ErrBroken], and so does every later
// call, without touching guest memory.
//
// # Ownership
//
// A Queue has one owner at a time and locks nothing. It keeps live views of
// its rings, so it must not be used once the guest's memory is unmapped: the
// device is Reset before that.
package queue

import (
	"errors"
	"fmt"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

// MaxSize is the largest number of descriptors in a queue, §2.7.
const MaxSize = 32768

// Sizes and offsets of the ring's parts, §2.7.5, §2.7.6, §2.7.8.
const (
	descSize      = 16
	availRing     = 4 // offset of the first head; each is a uint16
	usedRing      = 4 // offset of the first element
	usedElemSize  = 8
	noInterrupt   = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
	noNotify      = 1 // VIRTQ_USED_F_NO_NOTIFY
	descAlign     = 16
	availAlign    = 2
	usedAlign     = 4
	availFlagsOff = 0
	availIdxOff   = 2
)

var (
	// ErrConfig is wrapped by the errors of [New] and [Queue.Restore].
	ErrConfig = errors.New("virtqueue: invalid configuration")

	// ErrBroken is wrapped by every error that the driver caused: the
	// device needs a reset.
	ErrBroken = errors.New("virtqueue: broken by the driver")

	// ErrMisuse is returned for calls that no device may make. The queue
	// is not broken by them.
	ErrMisuse = errors.New("virtqueue: head was not popped")
)

// Config is what the driver programmed into the transport, and which of the
// ring's features were negotiated. Addresses are guest-physical.
type Config struct {
	Size     uint16 // descriptors, a power of two
	Desc     uint64 // descriptor table, §2.7.5
	Avail    uint64 // available ring (driver area), §2.7.6
	Used     uint64 // used ring (device area), §2.7.8
	EventIdx bool   // VIRTIO_F_EVENT_IDX
	Indirect bool   // VIRTIO_F_INDIRECT_DESC
}

// Queue is the device side of one virtqueue. It is not safe for concurrent
// use.
type Queue struct {
	mem *guestmem.Memory
	cfg Config
	err error // sticky once the ring is broken

	// Live views of the three parts.
	desc, avail, used []byte

	// Free-running ring positions, modulo 2^16. In ring order
	//
	//	published ≤ nextUsed ≤ nextAvail ≤ seenAvail ≤ published + Size
	//
	// which holds for every driver that reuses no descriptor before it got
	// it back. refresh breaks the queue of one that does, so that what a
	// device has in flight is bounded by the queue size.
	published uint16 // used.idx as the driver sees it
	nextUsed  uint16 // where the next Push writes
	nextAvail uint16 // what the next Pop reads
	seenAvail uint16 // avail.idx when last read

	usedFlags uint16   // used.flags, written by us alone
	scratch   [16]byte // copy of one indirect descriptor
}

// New checks cfg against the memory and returns a queue at its start: nothing
// popped, nothing used. It keeps a copy of cfg; what the driver does to the
// transport's registers later does not matter.
func New(mem *guestmem.Memory, cfg Config) (*Queue, error) {
	q := &Queue{mem: mem}
	if err := q.resolve(cfg); err != nil {
		return nil, err
	}
	return q, nil
}

// resolve validates cfg and gets the views of its rings.
func (q *Queue) resolve(cfg Config) error {
	n := uint64(cfg.Size)
	if n == 0 || n > MaxSize || n&(n-1) != 0 {
		return fmt.Errorf("%w: size %d is not a power of two up to %d", ErrConfig, n, MaxSize)
	}
	// The sizes are those of the table in §2.7 and include used_event and
	// avail_event whether negotiated or not. None overflows: n ≤ 32768.
	var err error
	part := func(name string, addr, align, size uint64) (view []byte) {
		switch {
		case err != nil:
			return nil
		case addr == 0 || addr%align != 0:
			// Address 0 is RAM, but it is what a driver that set
			// nothing leaves behind.
			err = fmt.Errorf("%w: %s at %#x, want a multiple of %d and not 0", ErrConfig, name, addr, align)
			return nil
		}
		if view, err = q.mem.Bytes(addr, size); err != nil {
			err = fmt.Errorf("%w: %s at %#x: %w", ErrConfig, name, addr, err)
		}
		return view
	}
	desc := part("descriptor table", cfg.Desc, descAlign, descSize*n)
	avail := part("available ring", cfg.Avail, availAlign, availRing+2*n+2)
	used := part("used ring", cfg.Used, usedAlign, usedRing+usedElemSize*n+2)
	if err != nil {
		return err
	}
	q.cfg, q.desc, q.avail, q.used = cfg, desc, avail, used
	return nil
}

// Size returns the number of descriptors.
func (q *Queue) Size() uint16 { return q.cfg.Size }

// Err returns the error that broke the queue, or nil.
func (q *Queue) Err() error { return q.err }

// fail breaks the queue for good.
func (q *Queue) fail(cause error) error {
	q.err = fmt.Errorf("%w: %w", ErrBroken, cause)
	return q.err
}

// State is a queue at rest, for a snapshot. It holds no pointer and every
// field is plain data. Guest memory holds the rest of the queue.
type State struct {
	Config    Config
	NextAvail uint16
	NextUsed  uint16
	Published uint16
	NoNotify  bool // kicks were disabled without EVENT_IDX
	Broken    bool
}

// State returns what Restore needs. Chains that were popped and not pushed
// stay in flight; a device that forgets them must Undo first.
func (q *Queue) State() State {
	return State{
		Config:    q.cfg,
		NextAvail: q.nextAvail,
		NextUsed:  q.nextUsed,
		Published: q.published,
		NoNotify:  q.usedFlags&noNotify != 0,
		Broken:    q.err != nil,
	}
}

// Restore replaces configuration and positions by those of s, which is checked
// like a driver's. On an error the queue is unchanged.
func (q *Queue) Restore(s State) error {
	unflushed, inFlight := s.NextUsed-s.Published, s.NextAvail-s.NextUsed
	if uint32(unflushed)+uint32(inFlight) > uint32(s.Config.Size) {
		return fmt.Errorf("%w: positions %d, %d, %d do not fit size %d",
			ErrConfig, s.Published, s.NextUsed, s.NextAvail, s.Config.Size)
	}
	if err := q.resolve(s.Config); err != nil {
		return err
	}
	q.published, q.nextUsed, q.nextAvail, q.seenAvail = s.Published, s.NextUsed, s.NextAvail, s.NextAvail
	q.usedFlags, q.err = 0, nil
	if s.NoNotify {
		q.usedFlags = noNotify
	}
	if s.Broken {
		q.err = ErrBroken
	}
	return nil
}
