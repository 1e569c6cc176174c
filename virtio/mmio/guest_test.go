package mmio

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio"
	"github.com/agentkernel/agentkernel/virtio/queue"
	qt "github.com/agentkernel/agentkernel/virtio/queue/queuetest"
)

// fakeDevice has two queues, 8 bytes of configuration of which the last 4 are
// writable, and one feature, bit 40.
type fakeDevice struct {
	refuse   error
	kicks    atomic.Int64
	onNotify func(q int)
	onReset  func()

	mu     sync.Mutex
	config [8]byte
	act    *virtio.Activation // nil while inactive
	events []string
}

const fakeFeature = 1 << 40

func (d *fakeDevice) ID() uint32           { return 42 }
func (d *fakeDevice) Features() uint64     { return fakeFeature }
func (d *fakeDevice) QueueSizes() []uint16 { return []uint16{16, 64} }

func (d *fakeDevice) ReadConfig(off uint32, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(p)
	if int(off) < len(d.config) {
		copy(p, d.config[off:])
	}
}

func (d *fakeDevice) WriteConfig(off uint32, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, b := range p {
		if at := uint64(off) + uint64(i); at >= 4 && at < uint64(len(d.config)) {
			d.config[at] = b
		}
	}
}

func (d *fakeDevice) Activate(a virtio.Activation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, "activate")
	if d.act != nil {
		d.events = append(d.events, "twice!")
	}
	if d.refuse == nil {
		d.act = &a
	}
	return d.refuse
}

func (d *fakeDevice) Notify(q int) {
	d.kicks.Add(1)
	if d.onNotify != nil {
		d.onNotify(q)
	}
}

func (d *fakeDevice) Reset() {
	if d.onReset != nil {
		d.onReset()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, "reset")
	d.act = nil
}

func (d *fakeDevice) activation() *virtio.Activation {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.act
}

// guest accesses a transport as a driver does.
type guest struct {
	*testing.T
	*Transport
	dev    *fakeDevice
	mem    *guestmem.Memory
	pulses atomic.Int64
	rings  []*qt.Driver
}

func newGuest(t *testing.T) *guest {
	g := &guest{T: t, dev: &fakeDevice{}, mem: qt.NewMemory(t, 1<<20)}
	g.Transport = New(g.dev, g.mem, func() { g.pulses.Add(1) })
	t.Cleanup(g.Transport.Reset)
	for i := range uint64(2) {
		g.rings = append(g.rings, qt.New(t, g.mem, qt.Options{Base: 0x10000 * (i + 1), Limit: 0x10000 * (i + 2)}))
	}
	return g
}

func (g *guest) get(off uint64) uint32 {
	var p [4]byte
	g.Read(off, p[:])
	return binary.LittleEndian.Uint32(p[:])
}

func (g *guest) set(off uint64, v uint32) {
	g.Write(off, binary.LittleEndian.AppendUint32(nil, v))
}

func (g *guest) want(what string, off uint64, v uint32) {
	g.Helper()
	if got := g.get(off); got != v {
		g.Errorf("%s: register %#x is %#x, want %#x", what, off, got, v)
	}
}

// accept sets driver features and goes to FEATURES_OK.
func (g *guest) accept(features uint64) {
	g.set(regStatus, virtio.StatusAcknowledge)
	g.set(regStatus, virtio.StatusAcknowledge|virtio.StatusDriver)
	for sel := range uint32(2) {
		g.set(regDriverFeaturesSel, sel)
		g.set(regDriverFeatures, uint32(features>>(32*sel)))
	}
	g.set(regStatus, g.get(regStatus)|virtio.StatusFeaturesOK)
}

func (g *guest) setQueue(i uint32, c queue.Config) {
	g.set(regQueueSel, i)
	g.set(regQueueNum, uint32(c.Size))
	for i, addr := range [...]uint64{c.Desc, c.Avail, c.Used} {
		reg := regQueueDescLow + 0x10*uint64(i)
		g.set(reg, uint32(addr))
		g.set(reg+4, uint32(addr>>32))
	}
	g.set(regQueueReady, 1)
}

const allFeatures = virtio.TransportFeatures | fakeFeature

// start does a whole initialization, §3.1.1.
func (g *guest) start() {
	g.accept(allFeatures)
	for i, d := range g.rings {
		g.setQueue(uint32(i), d.Config())
	}
	g.set(regStatus, g.get(regStatus)|virtio.StatusDriverOK)
}
