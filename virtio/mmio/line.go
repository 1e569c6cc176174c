package mmio

import (
	"sync/atomic"

	"github.com/agentkernel/agentkernel/virtio"
)

// line is the virtio.Interrupter of one life of a device, from reset to reset.
// It is all atomics: a device calls it while a vCPU holds the transport's
// mutex and waits, in Reset, for that very device. What a late call does to
// the line of a former life, nobody sees.
type line struct {
	t          *Transport
	interrupts atomic.Uint32 // InterruptStatus
	needsReset atomic.Bool
	active     atomic.Bool // kicks are passed on
}

// UsedBuffer implements virtio.Interrupter.
func (l *line) UsedBuffer() { l.raise(intUsedBuffer) }

// ConfigChange implements virtio.Interrupter.
func (l *line) ConfigChange() { l.raise(intConfigChange) }

// NeedsReset implements virtio.Interrupter: §2.1.2 wants a configuration
// change notification with it. It notifies once.
func (l *line) NeedsReset() {
	if !l.needsReset.Swap(true) {
		l.raise(intConfigChange)
	}
}

// raise sets bits of InterruptStatus, then pulses the interrupt. It pulses
// even if the bits were set: the driver may have read the register before.
func (l *line) raise(bits uint32) {
	if l.t.line.Load() != l {
		return
	}
	l.interrupts.Or(bits)
	l.t.irq()
}

// status returns the line's part of the Status register.
func (l *line) status() uint32 {
	if l.needsReset.Load() {
		return virtio.StatusNeedsReset
	}
	return 0
}
