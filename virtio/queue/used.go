package queue

import (
	"encoding/binary"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

// Push returns the chain of head to the driver, with the number of bytes that
// the device wrote to the beginning of its writable buffers, §2.7.8. Chains
// may be pushed in any order. The driver sees it after Flush.
func (q *Queue) Push(head uint16, written uint32) error {
	if q.err != nil {
		return q.err
	}
	if q.nextUsed == q.nextAvail || head >= q.cfg.Size {
		return ErrMisuse
	}
	slot := int(q.nextUsed & (q.cfg.Size - 1))
	elem := uint64(written)<<32 | uint64(head)
	binary.LittleEndian.PutUint64(q.used[usedRing+usedElemSize*slot:], elem)
	q.nextUsed++
	return nil
}

// Flush makes the pushed chains visible to the driver and tells whether it
// asked to be interrupted for them. Without pushed chains it does nothing.
func (q *Queue) Flush() (interrupt bool, err error) {
	if q.err != nil {
		return false, q.err
	}
	old := q.published
	if old == q.nextUsed {
		return false, nil
	}
	q.published = q.nextUsed
	q.storeUsed()
	// The mirror of the fence in EnableNotify: used.idx is visible before
	// the driver's wish is read.
	guestmem.Fence()
	if q.cfg.EventIdx {
		usedEvent := load16(q.avail, availRing+2*int(q.cfg.Size))
		return needEvent(usedEvent, q.published, old), nil
	}
	return load16(q.avail, availFlagsOff)&noInterrupt == 0, nil
}

// needEvent tells whether the index event was passed on the way from old to
// now, §2.7.7.2 and §2.7.10, modulo 2^16.
func needEvent(event, now, old uint16) bool {
	return now-event-1 < now-old
}

// storeUsed publishes used.flags and used.idx, both ours, in one store. The
// elements were written before it, and amd64 keeps stores in order.
func (q *Queue) storeUsed() {
	store32(q.used, 0, uint32(q.published)<<16|uint32(q.usedFlags))
}
