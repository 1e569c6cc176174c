package vmm

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/guest-init/wire"
	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio"
	"github.com/agentkernel/agentkernel/virtio/console"
	"github.com/agentkernel/agentkernel/virtio/mmio"
	"github.com/agentkernel/agentkernel/virtio/vsock"
)

// Device windows lie one behind the other from the start of the MMIO gap, each
// with an interrupt line of its own.
const (
	mmioBase   = guestmem.GapStart
	mmioStride = 0x1000
)

// guestCID is every guest's vsock address: the device is the program's own, so
// that no two guests can meet.
const guestCID = 3

// irqLines are the I/O APIC's pins that a PC leaves to extension cards; the
// slot's number is the index.
var irqLines = [...]uint32{5, 6, 7, 9, 10, 11, 12, 15}

// loopDevice is a virtio device with a loop of its own, which a signal on its
// eventfd wakes.
type loopDevice interface {
	virtio.Device
	KickFD() int
	Run() error
	Close() error
}

// slot is one device on the machine's bus.
type slot struct {
	name      string
	device    loopDevice
	transport *mmio.Transport
	base      uint64
	irq       uint32
}

// param is the kernel parameter that names the device (Linux
// drivers/virtio/virtio_mmio.c).
func (s *slot) param() string {
	return fmt.Sprintf("virtio_mmio.device=%d@%#x:%d", mmio.Size, s.base, s.irq)
}

// addDevices makes the machine's devices and connects each to its interrupt
// line and its kick.
func (m *machine) addDevices() error {
	log, err := console.New(m.log)
	if err != nil {
		return err
	}
	if err := m.addDevice("console", log); err != nil {
		return err
	}
	m.vsock, err = vsock.New(vsock.Config{
		GuestCID:  guestCID,
		Listener:  FDVsock,
		HostPorts: map[uint32]func() (int, error){wire.StatusPort: m.serveStatus},
	})
	if err != nil {
		return err
	}
	return m.addDevice("vsock", m.vsock)
}

func (m *machine) addDevice(name string, device loopDevice) error {
	n := len(m.slots)
	if n == len(irqLines) {
		return fmt.Errorf("%s: the machine has no interrupt line left", name)
	}
	irqfd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	s := &slot{name: name, device: device, base: mmioBase + uint64(n)*mmioStride, irq: irqLines[n]}
	s.transport = mmio.New(device, m.mem, func() { pulse(irqfd) })
	if err := m.vm.IRQFD(irqfd, s.irq); err != nil {
		return err
	}
	if err := m.vm.IOEventFD(device.KickFD(), s.base+mmio.QueueNotify, 0); err != nil {
		return err
	}
	m.slots = append(m.slots, s)
	return nil
}

// pulse adds 1 to an eventfd. It fails only where the counter is full, and
// then whoever waits for it is awake already.
func pulse(fd int) {
	one := [8]byte{1}
	_, _ = unix.Write(fd, one[:])
}

// runDevices starts every device's loop. A loop that fails ends the machine.
func (m *machine) runDevices() {
	for _, s := range m.slots {
		go func() {
			if err := s.device.Run(); err != nil {
				m.end(Reason{Kind: KindVMMError, Text: fmt.Sprintf("%s device: %v", s.name, err)})
			}
		}()
	}
}
