// Package mmio is the virtio transport over memory-mapped registers, version
// 2 (VIRTIO 1.2 §4.2).
//
// # States
//
// The driver walks through the Status register (§3.1.1); every arrow adds one
// bit, and a bit never goes away but by a reset:
//
//	0 ─ ACKNOWLEDGE ─ DRIVER ─ FEATURES_OK ─ DRIVER_OK
//
//	DRIVER       DriverFeatures may be written
//	FEATURES_OK  feature bits are fixed; the queue registers may be written
//	DRIVER_OK    queue registers are fixed, a snapshot of them went to the device
//	FAILED       (from any state) nothing may be written but a reset
//	NEEDS_RESET  set by the device alone
//
// A write that the state does not allow is ignored, as is one that clears or
// skips a bit. Whatever the guest writes, the transport stays inside this
// graph; a ready queue that is invalid, or a device that does not accept its
// activation, ends in NEEDS_RESET.
//
// # Threads
//
// Any vCPU may access registers at any moment: a mutex orders them. A device
// raises interrupts without that mutex, because Reset holds it while it waits
// for the device.
package mmio

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio"
	"github.com/agentkernel/agentkernel/virtio/queue"
)

// Transport is the register window of one device.
type Transport struct {
	dev      virtio.Device
	mem      *guestmem.Memory
	irq      func()
	features uint64 // offered
	max      []uint16

	line atomic.Pointer[line] // replaced by every reset

	mu                sync.Mutex
	status            uint32 // without NEEDS_RESET, which is the line's
	active            bool   // Activate succeeded; Reset is due
	err               error  // why the device needs a reset
	deviceFeaturesSel uint32
	driverFeaturesSel uint32
	driverFeatures    uint64
	queueSel          uint32
	queues            []queueRegs
	generation        uint32
	config, scratch   [configSize]byte // configuration space when last looked at
}

// queueRegs are the registers of one queue as written. They are checked when
// they are used, at DRIVER_OK.
type queueRegs struct {
	num                  uint32
	ready                bool
	desc, driver, device uint64
}

// New returns the transport of dev, in its reset state. irq pulses the
// device's interrupt line once; it may be called from any goroutine and must
// not block. The device is the transport's from now on.
func New(dev virtio.Device, mem *guestmem.Memory, irq func()) *Transport {
	t := &Transport{
		dev: dev, mem: mem, irq: irq,
		features: dev.Features() | virtio.TransportFeatures,
		max:      dev.QueueSizes(),
	}
	dev.ReadConfig(0, t.config[:])
	t.clear()
	return t
}

// Reset does what the driver does by writing 0 to Status. When it returns the
// device touches guest memory no more. The VMM calls it before it unmaps that
// memory, when no vCPU runs.
func (t *Transport) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reset()
}

// Err returns why the device did not accept its last activation, or nil.
func (t *Transport) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Read serves a guest's load of len(p) bytes at off. Bytes that nothing backs
// read as 0, and so does every access to a control register that is not 32
// bits wide and aligned (which §4.2.2.2 forbids).
func (t *Transport) Read(off uint64, p []byte) {
	clear(p)
	switch {
	case off >= Size:
	case off >= regConfig:
		t.mu.Lock()
		defer t.mu.Unlock()
		t.lookAtConfig()
		copy(p, t.config[off-regConfig:])
	case len(p) == 4 && off%4 == 0:
		binary.LittleEndian.PutUint32(p, t.readRegister(off))
	}
}

// Write serves a guest's store of p at off. What nothing backs, and what the
// state does not allow, is ignored.
func (t *Transport) Write(off uint64, p []byte) {
	switch {
	case off >= Size:
	case off >= regConfig:
		t.mu.Lock()
		defer t.mu.Unlock()
		if n := min(uint64(len(p)), Size-off); n > 0 && t.in(virtio.StatusDriver, 0) {
			t.dev.WriteConfig(uint32(off-regConfig), p[:n])
		}
	case len(p) == 4 && off%4 == 0:
		t.writeRegister(off, binary.LittleEndian.Uint32(p))
	}
}

func (t *Transport) readRegister(off uint64) uint32 {
	switch off { // what never changes, or needs no lock
	case regMagicValue:
		return magicValue
	case regVersion:
		return version
	case regDeviceID:
		return t.dev.ID()
	case regVendorID:
		return vendorID
	case regInterruptStatus:
		return t.line.Load().interrupts.Load()
	case regSHMLenLow, regSHMLenHigh, regSHMBaseLow, regSHMBaseHigh:
		return 0xffff_ffff // §4.2.2: no such region
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch off {
	case regDeviceFeatures:
		return word(t.features, t.deviceFeaturesSel)
	case regQueueNumMax:
		if t.selected() != nil {
			return uint32(t.max[t.queueSel])
		}
	case regQueueReady:
		if q := t.selected(); q != nil && q.ready {
			return 1
		}
	case regStatus:
		return t.status | t.line.Load().status()
	case regConfigGeneration:
		t.lookAtConfig()
		return t.generation
	}
	return 0
}

// word returns half sel of the 64 feature bits; there is nothing beyond them.
func word(features uint64, sel uint32) uint32 {
	if sel > 1 {
		return 0
	}
	return uint32(features >> (32 * sel))
}

// setWord replaces half sel, which is 0 or 1, of v.
func setWord(v *uint64, sel, half uint32) {
	shift := 32 * sel
	*v = *v&^(0xffff_ffff<<shift) | uint64(half)<<shift
}

// selected returns the registers of the queue that QueueSel names, or nil.
func (t *Transport) selected() *queueRegs {
	if uint64(t.queueSel) >= uint64(len(t.queues)) {
		return nil
	}
	return &t.queues[t.queueSel]
}

// lookAtConfig refreshes the copy of the configuration space and counts a
// generation when it changed (§2.5.3). Comparing at every look, instead of
// trusting devices to count, leaves no moment at which a driver could read two
// halves of different generations under one number.
func (t *Transport) lookAtConfig() {
	t.dev.ReadConfig(0, t.scratch[:])
	if t.scratch != t.config {
		t.config = t.scratch
		t.generation++
	}
}

func (t *Transport) writeRegister(off uint64, v uint32) {
	switch off { // the data path takes no lock
	case regQueueNotify:
		if l := t.line.Load(); uint64(v) < uint64(len(t.max)) && l.active.Load() {
			t.dev.Notify(int(v))
		}
		return
	case regInterruptACK:
		t.line.Load().interrupts.And(^v)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch off {
	case regDeviceFeaturesSel:
		t.deviceFeaturesSel = v
	case regDriverFeaturesSel:
		t.driverFeaturesSel = v
	case regQueueSel:
		t.queueSel = v
	case regDriverFeatures:
		if t.driverFeaturesSel <= 1 && t.in(virtio.StatusDriver, virtio.StatusFeaturesOK) {
			setWord(&t.driverFeatures, t.driverFeaturesSel, v)
		}
	case regStatus:
		t.writeStatus(v)
	default:
		t.writeQueue(off, v)
	}
}

// in tells whether every bit of has is set in the status, none of hasNot, and
// the device is in working order.
func (t *Transport) in(has, hasNot uint32) bool {
	return t.status&has == has && t.status&(hasNot|virtio.StatusFailed) == 0 && t.line.Load().status() == 0
}

// writeQueue serves the registers of the selected queue. A queue that is ready
// keeps its registers until it is made unready (§4.2.3.2), and after DRIVER_OK
// they all stay as they are.
func (t *Transport) writeQueue(off uint64, v uint32) {
	q := t.selected()
	if q == nil || !t.in(virtio.StatusFeaturesOK, virtio.StatusDriverOK) {
		return
	}
	if off == regQueueReady {
		q.ready = v&1 != 0
		return
	}
	if q.ready {
		return
	}
	switch off {
	case regQueueNum:
		q.num = v
	case regQueueDescLow:
		setWord(&q.desc, 0, v)
	case regQueueDescHigh:
		setWord(&q.desc, 1, v)
	case regQueueDriverLow:
		setWord(&q.driver, 0, v)
	case regQueueDriverHigh:
		setWord(&q.driver, 1, v)
	case regQueueDeviceLow:
		setWord(&q.device, 0, v)
	case regQueueDeviceHigh:
		setWord(&q.device, 1, v)
	}
}

// steps is the order in which a driver sets status bits, §3.1.1.
var steps = [...]uint32{
	virtio.StatusAcknowledge, virtio.StatusDriver, virtio.StatusFeaturesOK, virtio.StatusDriverOK,
}

// writeStatus serves a write to Status: 0 resets, FAILED is always taken, and
// the other bits are taken in order, as far as they are legal.
func (t *Transport) writeStatus(v uint32) {
	if v == 0 {
		t.reset()
		return
	}
	if v&t.status != t.status {
		return // §2.1.1: the driver must not clear a bit
	}
	if v&virtio.StatusFailed != 0 {
		t.status |= virtio.StatusFailed
	}
	for _, bit := range steps {
		switch {
		case t.status&bit != 0:
			continue
		case v&bit == 0 || !t.in(0, 0):
			return
		case bit == virtio.StatusFeaturesOK && !t.acceptable():
			return // §2.2.2: the driver sees the bit unset
		}
		t.status |= bit
		if bit == virtio.StatusDriverOK {
			t.activate()
		}
	}
}

// acceptable tells whether the device can work with the driver's features:
// those offered, and VERSION_1, without which it would be a legacy driver
// (§6.2 lets the device refuse).
func (t *Transport) acceptable() bool {
	return t.driverFeatures&^t.features == 0 && t.driverFeatures&virtio.FeatureVersion1 != 0
}

// activate hands the device its queues, or asks for a reset.
func (t *Transport) activate() {
	l := t.line.Load()
	queues, err := t.buildQueues()
	if err == nil {
		err = t.dev.Activate(virtio.Activation{
			Features: t.driverFeatures, Queues: queues, Memory: t.mem, Interrupt: l,
		})
	}
	if err != nil {
		t.err = err
		l.NeedsReset()
		return
	}
	t.active = true
	l.active.Store(true)
}

// buildQueues validates the registers of every ready queue.
func (t *Transport) buildQueues() ([]*queue.Queue, error) {
	queues := make([]*queue.Queue, len(t.queues))
	for i, r := range t.queues {
		if !r.ready {
			continue
		}
		if r.num > uint32(t.max[i]) {
			return nil, fmt.Errorf("queue %d: size %d is above the maximum %d", i, r.num, t.max[i])
		}
		q, err := queue.New(t.mem, queue.Config{
			Size: uint16(r.num), // ≤ max, so nothing is cut off
			Desc: r.desc, Avail: r.driver, Used: r.device,
			EventIdx: t.driverFeatures&virtio.FeatureEventIdx != 0,
			Indirect: t.driverFeatures&virtio.FeatureIndirectDesc != 0,
		})
		if err != nil {
			return nil, fmt.Errorf("queue %d: %w", i, err)
		}
		queues[i] = q
	}
	return queues, nil
}

func (t *Transport) reset() {
	if t.active {
		t.dev.Reset()
	}
	t.clear()
}

// clear sets every register to its value after a reset, §4.2.3.1.
func (t *Transport) clear() {
	t.line.Store(&line{t: t})
	t.status, t.active, t.err = 0, false, nil
	t.deviceFeaturesSel, t.driverFeaturesSel, t.driverFeatures = 0, 0, 0
	t.queueSel, t.queues = 0, make([]queueRegs, len(t.max))
}
