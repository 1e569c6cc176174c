package queuetest

import (
	"sync/atomic"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

// SetDesc writes entry i of the descriptor table, whatever it holds.
func (d *Driver) SetDesc(i uint16, desc Desc) {
	d.write(d.cfg.Desc+16*uint64(i), desc.Bytes())
}

// SetAvail writes the available ring's entry for position i, taken modulo the
// queue size.
func (d *Driver) SetAvail(i, head uint16) {
	d.store16(d.cfg.Avail+4+2*uint64(i&(d.cfg.Size-1)), head)
}

// SetAvailIdx writes avail.idx. The next Publish goes on from where the driver
// was, not from v.
func (d *Driver) SetAvailIdx(v uint16) {
	d.store16(d.cfg.Avail+2, v)
}

// SetNoInterrupt writes VIRTQ_AVAIL_F_NO_INTERRUPT, §2.7.7.
func (d *Driver) SetNoInterrupt(on bool) {
	var flags uint16
	if on {
		flags = 1
	}
	d.store16(d.cfg.Avail, flags)
}

// SetUsedEvent writes used_event, §2.7.7.
func (d *Driver) SetUsedEvent(v uint16) {
	d.store16(d.cfg.Avail+4+2*uint64(d.cfg.Size), v)
}

// ArmInterrupt asks for an interrupt at the next used element and tells
// whether one is there already, so that a driver must not wait.
func (d *Driver) ArmInterrupt() (pending bool) {
	if d.cfg.EventIdx {
		d.SetUsedEvent(d.usedIdx)
	} else {
		d.SetNoInterrupt(false)
	}
	guestmem.Fence()
	return d.usedIdx != d.UsedIdx()
}

// AvailEvent reads avail_event, §2.7.10.
func (d *Driver) AvailEvent() uint16 {
	return d.load16(d.cfg.Used + 4 + 8*uint64(d.cfg.Size))
}

// UsedFlags reads used.flags.
func (d *Driver) UsedFlags() uint16 {
	return d.load16(d.cfg.Used)
}

// UsedIdx reads used.idx.
func (d *Driver) UsedIdx() uint16 {
	return d.load16(d.cfg.Used + 2)
}

func (d *Driver) load16(addr uint64) uint16 {
	v, err := d.mem.LoadUint16(addr)
	if err != nil {
		d.tb.Helper()
		d.tb.Fatalf("queuetest: read at %#x: %v", addr, err)
	}
	return v
}

func (d *Driver) store16(addr uint64, v uint16) {
	if err := d.mem.StoreUint16(addr, v); err != nil {
		d.tb.Helper()
		d.tb.Fatalf("queuetest: write at %#x: %v", addr, err)
	}
}

// Interrupts is a virtio.Interrupter that counts. Each call also makes Wake
// readable.
type Interrupts struct {
	Used, Config, Reset atomic.Int64

	wake chan struct{}
}

// NewInterrupts returns a counter at zero.
func NewInterrupts() *Interrupts { return &Interrupts{wake: make(chan struct{}, 1)} }

// UsedBuffer implements virtio.Interrupter.
func (i *Interrupts) UsedBuffer() { i.count(&i.Used) }

// ConfigChange implements virtio.Interrupter.
func (i *Interrupts) ConfigChange() { i.count(&i.Config) }

// NeedsReset implements virtio.Interrupter.
func (i *Interrupts) NeedsReset() { i.count(&i.Reset) }

// Wake is readable after one or more interrupts.
func (i *Interrupts) Wake() <-chan struct{} { return i.wake }

func (i *Interrupts) count(n *atomic.Int64) {
	n.Add(1)
	select {
	case i.wake <- struct{}{}:
	default:
	}
}
