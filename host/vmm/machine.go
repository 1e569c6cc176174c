package vmm

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/guest-init/wire"
	"github.com/agentkernel/agentkernel/host/boot"
	"github.com/agentkernel/agentkernel/images"
	"github.com/agentkernel/agentkernel/kvm"
	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio/mmio"
	"github.com/agentkernel/agentkernel/virtio/vsock"
)

// Where KVM on Intel may put its own pages: in the gap, away from the devices.
const (
	identityMapAddr = 0xfffb_c000
	tssAddr         = 0xfffb_d000
)

// neededCaps are the capabilities without which no machine is made.
var neededCaps = []kvm.Cap{
	kvm.CapIRQChip, kvm.CapUserMemory, kvm.CapSetTSSAddr, kvm.CapExtCPUID, kvm.CapPIT2, kvm.CapIRQFD,
	kvm.CapIOEventFD, kvm.CapSetIdentityMap, kvm.CapImmediateExit,
}

// machine is one virtual machine.
type machine struct {
	name        string
	cpus        int
	report      *reporter
	vm          *kvm.VM
	mem         *guestmem.Memory
	mmapSize    int
	cpuid       []kvm.CPUIDEntry
	tscDeadline bool
	emulated    bool // see vcpuCPUID
	vcpus       []*vcpu
	slots       []*slot
	vsock       *vsock.Device
	ports       ports
	log         *consoleLog
	control     control

	stopping atomic.Bool
	started  chan struct{} // closed when the vCPUs may run
	ended    chan struct{} // closed when reason is known
	once     sync.Once
	reason   Reason // set before ended is closed
	running  sync.WaitGroup
}

// newMachine builds the machine from the process's descriptors, loads the
// kernel and makes the vCPUs. Nothing runs yet. On an error the process is to
// end: what was made is left to the kernel.
func newMachine(c config, report *reporter) (*machine, error) {
	m := &machine{name: c.name, cpus: c.cpus, report: report,
		started: make(chan struct{}), ended: make(chan struct{})}
	var err error
	if m.log, err = newConsoleLog(FDConsole, maxConsole); err != nil {
		return nil, err
	}
	m.ports = ports{log: m.log, reset: func() { m.guestReset("the guest reset itself") }}
	m.control.stop = func() { m.end(Reason{Kind: KindStopped, Text: "stopped by the host"}) }
	m.control.stats = m.stats
	if err := m.createVM(c); err != nil {
		return nil, err
	}
	if err := m.addDevices(); err != nil {
		return nil, err
	}
	entry, err := m.load()
	if err != nil {
		return nil, err
	}
	return m, m.createVCPUs(entry)
}

func (m *machine) createVM(c config) error {
	system, err := kvm.NewSystem(FDKVM, neededCaps...)
	if err != nil {
		return err
	}
	if most, err := system.CheckExtension(kvm.CapMaxVCPUs); err == nil && most > 0 && c.cpus > most {
		return fmt.Errorf("--cpus %d: this host's KVM allows %d", c.cpus, most)
	}
	if m.mmapSize, err = system.VCPUMmapSize(); err != nil {
		return err
	}
	if m.cpuid, err = system.SupportedCPUID(); err != nil {
		return err
	}
	m.emulated = onEmulator()
	deadline, err := system.CheckExtension(kvm.CapTSCDeadlineTimer)
	m.tscDeadline = err == nil && deadline != 0
	if m.vm, err = system.CreateVM(); err != nil {
		return err
	}
	if m.mem, err = guestmem.New(c.memoryMiB << 20); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return m.vm.SetIdentityMapAddr(identityMapAddr) },
		func() error { return m.vm.SetTSSAddr(tssAddr) },
		m.vm.CreateIRQChip,
		m.vm.CreatePIT2,
		func() error { return m.vm.SetMemory(m.mem) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// load puts the kernel, its RAM disk and its command line into guest memory.
func (m *machine) load() (boot.Entry, error) {
	kernel, release, err := kernelImage()
	if err != nil {
		return boot.Entry{}, err
	}
	defer release()
	initrd, err := images.Initramfs()
	if err != nil {
		return boot.Entry{}, err
	}
	defer dropPages(initrd)
	seed := make([]byte, 64)
	if _, err := unix.Getrandom(seed, 0); err != nil {
		return boot.Entry{}, fmt.Errorf("getrandom: %w", err)
	}
	return boot.Load(m.mem, boot.Params{
		Kernel: kernel, Initrd: initrd, Cmdline: m.cmdline(), CPUs: m.cpus, Seed: seed,
	})
}

// cmdline is the kernel's command line; each word's reason stands beside it.
func (m *machine) cmdline() string {
	words := []string{
		"quiet",                         // first, or the early console repeats what was said before it
		"earlyprintk=serial,0x3f8,9600", // two exits a character, until the virtio console is there
		"console=hvc0",                  // the virtio console
		"reboot=k",                      // reset by the keyboard controller: one port write
		"panic=-1",                      // a panic ends the machine at once
		"no_timer_check",                // KVM's PIT works
		"swiotlb=noforce",               // no device needs bounce buffers
		"percpu_alloc=page",             // by 4 KiB pages: no 2 MiB to clear per vCPU
		"agentkernel.hostname=" + m.name,
	}
	for _, s := range m.slots {
		words = append(words, s.param())
	}
	return strings.Join(words, " ")
}

func (m *machine) createVCPUs(entry boot.Entry) error {
	created := make(chan error)
	for id := range m.cpus {
		c := &vcpu{id: id, m: m}
		m.vcpus = append(m.vcpus, c)
		go c.thread(entry, created)
		if err := <-created; err != nil {
			return err
		}
	}
	return nil
}

// run runs the machine to its end, and records it.
func (m *machine) run() {
	m.runDevices()
	if err := m.control.serve(FDControl); err != nil {
		m.end(Reason{Kind: KindVMMError, Text: fmt.Sprintf("control socket: %v", err)})
	}
	m.running.Add(len(m.vcpus))
	close(m.started)
	<-m.ended
	for _, c := range m.vcpus {
		c.kick()
	}
	m.running.Wait()
	m.ports.flush()
	m.report.end(m.reason)
	m.close()
}

// close lets go of what others wait for, when the vCPUs have stopped and the
// end is on record: connections into the guest, the lock, control connections,
// in this order, so that whoever sees one of them end finds the reason written
// and can start the sandbox again.
func (m *machine) close() {
	if m.reason.Kind == KindPowerOff {
		// What commands wrote before the power-off still reaches slow readers.
		ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
		defer cancel()
		_ = m.vsock.Drain(ctx) // what is not read by then is lost, and its reader sees that
	}
	for _, s := range m.slots {
		_ = s.device.Close() // its loop ends; nothing is left to do about an error
	}
	_ = unix.Flock(FDLock, unix.LOCK_UN)
	m.control.end()
}

// drainLimit bounds how long a reader that does not read keeps the VMM.
const drainLimit = 10 * time.Second

// end makes the machine stop for reason; only the first caller's counts. It
// does not wait.
func (m *machine) end(reason Reason) {
	m.once.Do(func() {
		m.reason = reason
		m.stopping.Store(true)
		close(m.ended)
	})
}

// guestReset ends the machine because the guest reset it, after a panic or by
// itself. An orderly power-off is announced on the status connection instead.
func (m *machine) guestReset(how string) {
	m.ports.flush()
	text, panicked := m.log.panicReason()
	switch {
	case panicked:
		m.end(Reason{Kind: KindPanic, Text: "the guest's kernel panicked: " + text})
	default:
		m.end(Reason{Kind: KindGuestError, Text: how})
	}
}

// shownStats are the counters that tell why vCPUs left the guest.
var shownStats = []string{"exits", "io_exits", "mmio_exits", "halt_exits", "irq_exits", "signal_exits"}

// stats returns KVM's counters as one line of name=value.
func (m *machine) stats() string {
	sum := make(kvm.Stats)
	for _, c := range m.vcpus {
		stats, err := c.stats.Read()
		if err != nil {
			return "error " + oneLine(err.Error())
		}
		for name, n := range stats {
			sum[name] += n
		}
	}
	var words []string
	for _, name := range shownStats {
		words = append(words, fmt.Sprintf("%s=%d", name, sum[name]))
	}
	return strings.Join(words, " ")
}

func (m *machine) portIO(io kvm.IO) {
	for data := io.Data; len(data) >= io.Size; data = data[io.Size:] {
		if io.Write {
			m.ports.write(io.Port, data[0])
			continue
		}
		for i := range data[:io.Size] {
			data[i] = 0xff
		}
		data[0] = m.ports.read(io.Port)
	}
}

func (m *machine) mmio(access kvm.MMIO) {
	i := (access.Addr - mmioBase) / mmioStride // wraps to a large number below the base
	off := (access.Addr - mmioBase) % mmioStride
	switch {
	case i >= uint64(len(m.slots)) || off >= mmio.Size:
		if !access.Write {
			for i := range access.Data {
				access.Data[i] = 0xff
			}
		}
	case access.Write:
		m.slots[i].transport.Write(off, access.Data)
	default:
		m.slots[i].transport.Read(off, access.Data)
	}
}

// serveStatus reads what guest init says on its status connection, one end of
// which the returned descriptor is (see package wire).
func (m *machine) serveStatus() (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	go m.readStatus(os.NewFile(uintptr(pair[0]), "guest status"))
	return pair[1], nil
}

// maxStatusLine bounds a line of the status connection, in bytes.
const maxStatusLine = 4096

func (m *machine) readStatus(f *os.File) {
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 0, 512), maxStatusLine)
	for lines.Scan() {
		line := lines.Text() + "\n"
		text, failed := strings.CutPrefix(line, wire.StatusError)
		switch {
		case line == wire.StatusReady:
			m.vsock.Accept()
			m.report.ready()
		case line == wire.StatusPoweroff:
			m.end(Reason{Kind: KindPowerOff, Text: "the guest powered off"})
		case failed:
			m.end(Reason{Kind: KindGuestError, Text: "the guest could not start: " + text})
		}
	}
}
