// Package virtio declares what every paravirtual device shares, whatever its
// transport: the [Device] contract, status and feature bits, device ids.
// Clause numbers in this folder are those of VIRTIO 1.2.
//
// # The life of a device
//
//	created ── Activate (DRIVER_OK) ──▶ active ── Reset ──▶ created ── …
//
// The transport owns the register state machine and calls [Device.Activate]
// and [Device.Reset] strictly in turn, one at a time. Only an active device
// may touch queues or guest memory. A device that meets a broken ring calls
// [Interrupter.NeedsReset] and leaves the rings alone until Reset.
//
// Whatever the guest writes is hostile. A guest can bring its own device to
// NEEDS_RESET, never the host to a panic, a wait or unbounded work.
package virtio

import (
	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio/queue"
)

// Device ids, §5.
const (
	IDBlock   = 2
	IDConsole = 3
	IDEntropy = 4
	IDBalloon = 5
	IDVsock   = 19
	IDFS      = 26
)

// Device status bits, §2.1.
const (
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
	StatusNeedsReset  = 64
	StatusFailed      = 128
)

// Feature bits that belong to the transport and the rings, §6.
const (
	FeatureIndirectDesc = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	FeatureEventIdx     = 1 << 29 // VIRTIO_F_EVENT_IDX
	FeatureVersion1     = 1 << 32 // VIRTIO_F_VERSION_1

	// TransportFeatures are offered by the transport for every device.
	TransportFeatures = FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1
)

// Device is one virtio device, seen from its transport.
//
// ReadConfig, WriteConfig, Activate and Reset are called from vCPU threads,
// one at a time. Notify may be called at any moment, even during Reset or
// when the device is not active.
type Device interface {
	// ID returns the device id, §5.
	ID() uint32

	// Features returns the feature bits of the device type that are
	// offered. The transport adds [TransportFeatures] by itself. The answer
	// never changes.
	Features() uint64

	// QueueSizes returns the maximum size of each queue: powers of two, at
	// most [queue.MaxSize]. The answer never changes.
	QueueSizes() []uint16

	// ReadConfig fills p with the configuration space at off. Bytes beyond
	// the space read as 0. It must not block and must not call the
	// Interrupter.
	ReadConfig(off uint32, p []byte)

	// WriteConfig stores p to the configuration space at off. Bytes that
	// are read-only or beyond the space are ignored.
	WriteConfig(off uint32, p []byte)

	// Activate hands the device its queues at DRIVER_OK. From then until
	// Reset the device owns them. On an error the device stays inactive
	// and the guest sees NEEDS_RESET. It must not block.
	Activate(a Activation) error

	// Notify says that the driver made buffers available in queue q, when
	// no ioeventfd caught the write to QueueNotify. It must not block.
	Notify(q int)

	// Reset makes the device inactive. It returns once the device touches
	// rings and guest memory no more, and forgets everything that the
	// driver set. On an inactive device it does nothing.
	Reset()
}

// Activation is what a device gets at DRIVER_OK.
type Activation struct {
	Features  uint64         // as negotiated, TransportFeatures included
	Queues    []*queue.Queue // one per QueueSizes; nil where the driver left one unready
	Memory    *guestmem.Memory
	Interrupt Interrupter
}

// Interrupter tells the driver about the device. Its methods may be called
// from any goroutine, take no lock that is held over a call into the device,
// and do nothing once the device was reset.
type Interrupter interface {
	UsedBuffer()   // used buffer notification, §2.3
	ConfigChange() // configuration change notification, §2.3
	NeedsReset()   // sets DEVICE_NEEDS_RESET and notifies, §2.1.2
}
