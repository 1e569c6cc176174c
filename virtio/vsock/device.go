// Package vsock is a virtio socket device (VIRTIO 1.2 §5.10) in user space:
// stream sockets between the guest and unix sockets of the host.
//
// # The host's side
//
// A program connects to the listening socket and writes "CONNECT <port>\n". When
// the guest accepts the connection it reads "OK <host port>\n", and from then on
// both ends are one stream. When the guest refuses, it reads the end of file
// instead. Data may follow the line at once. A guest reaches only the ports of
// [Config.HostPorts].
//
// # Threads
//
// [Device.Run] is an event loop on one thread. It alone reads sockets and
// serves rings, a bounded batch at a time under the device's mutex; no call
// under it blocks. Every other method only takes the mutex, or signals an
// eventfd. There is no goroutine for a connection.
//
// # Data
//
// Bytes go straight between guest memory and sockets. Only what a socket does
// not take from the guest is copied: see buffer.go. Nothing is read from a
// socket before the guest has both credit and a buffer for it.
package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio"
	"github.com/agentkernel/agentkernel/virtio/queue"
	"golang.org/x/sys/unix"
)

// The device's queues, §5.10.2.
const (
	queueRX    = 0 // to the guest
	queueTX    = 1 // from the guest
	queueEvent = 2
	numQueues  = 3
)

var (
	errAgain   = errors.New("vsock: the socket would block")
	errNoQueue = errors.New("vsock: the driver left a queue unready")

	// ErrClosed is returned for calls on a closed device.
	ErrClosed = errors.New("vsock: device is closed")
)

// Limits bounds what one guest and its dialers may use. Zero fields mean the
// default.
type Limits struct {
	Connections int           // at once; 4096, and never more than RLIMIT_NOFILE leaves
	Window      int           // bytes the guest may have unread on one connection; 256 KiB
	BufferTotal int           // sum of all windows; 64 MiB, at least 4 KiB a connection
	Handshake   time.Duration // for the CONNECT line; 2 s
	Connect     time.Duration // for the guest's answer to REQUEST; 10 s
	Close       time.Duration // for the guest's RST after SHUTDOWN; 8 s, as Linux waits
}

// Config is what a device is made of.
type Config struct {
	GuestCID uint64

	// Listener is a listening unix stream socket, which the device owns
	// from New on; 0 or less for none.
	Listener int

	// HostPorts are the ports of CID 2 that the guest may connect to. The
	// function returns one end of a connected stream socket, which the
	// device owns from then on, or an error to refuse. It is called in the
	// loop: it must not block and must not call the device.
	HostPorts map[uint32]func() (fd int, err error)

	Limits Limits

	// Log is told of what a maintainer should know: few lines, never
	// guest data. It must not block. May be nil.
	Log func(format string, args ...any)
}

// Device implements [virtio.Device].
type Device struct {
	cid       uint64
	hostPorts map[uint32]func() (int, error)
	limits    Limits
	log       func(string, ...any)
	clock     func() int64 // nanoseconds, monotonic

	fds  descriptors
	stop stopper

	mu sync.Mutex // guards everything below; held for a batch at a time

	// What Activate gave; mem is nil while inactive.
	act       virtio.Activation
	mem       *guestmem.Memory
	rx, tx    *queue.Queue
	event     *queue.Queue
	interrupt bool // due at the end of the batch
	broken    int  // how often the guest broke a queue
	paused    bool
	pausedAt  int64
	drained   chan struct{} // closed when no connection is left; nil: nobody waits

	table       map[ports]*conn // every state but handshake and gone
	slots       []*conn         // by the slot that epoll reports; nil: free
	freeSlots   []int32
	generation  uint32
	connections int    // slots in use
	committed   int    // sum of their windows
	nextPort    uint32 // of the next connection from the host

	control list // control packets are due
	data    list // there may be data for the guest
	later   list // as data, but not before the next batch
	timers  timers
	refused rstRing

	accepting acceptor
	transport transportReset
	pool      chunkPool
	stats     Stats

	// Reused in every batch.
	rxChain, txChain queue.Chain
	held             bool // rxChain was popped and not used yet
	vec              vector
	hdr              [headerSize]byte
	scratch          [16 << 10]byte
}

// Stats counts what a device did since New.
type Stats struct {
	Connections    uint64 // opened, by either side
	Refused        uint64 // by either side
	Timeouts       uint64
	Resets         uint64 // RST received or sent on a connection
	RxPackets      uint64 // to the guest
	RxBytes        uint64
	TxPackets      uint64 // from the guest
	TxBytes        uint64
	Dropped        uint64 // packets from the guest that were ignored
	BadBuffers     uint64 // too small for a packet
	DiscardedBytes uint64 // from the guest, with nobody to read them
	Open           int    // connections now, draining ones included
	Buffered       int    // bytes of host memory that hold guest data now, rounded up
}

// New returns an inactive device. It owns cfg.Listener from then on, even when
// it fails.
func New(cfg Config) (*Device, error) {
	d := &Device{
		cid:       cfg.GuestCID,
		hostPorts: cfg.HostPorts,
		limits:    cfg.Limits.withDefaults(),
		log:       cfg.Log,
		table:     make(map[ports]*conn),
		// A random start: clones of one snapshot, or a restarted VMM, do
		// not reuse the ports of connections that a guest still holds.
		nextPort: firstPort + rand.Uint32N(firstPort),
		control:  list{kind: linkControl},
		data:     list{kind: linkData},
		later:    list{kind: linkData},
	}
	start := time.Now()
	d.clock = func() int64 { return int64(time.Since(start)) }
	if d.log == nil {
		d.log = func(string, ...any) {}
	}
	d.timers.init(d.limits)
	d.stop.done = make(chan struct{})
	if err := d.fds.open(cfg.Listener); err != nil {
		return nil, fmt.Errorf("vsock: %w", err)
	}
	return d, nil
}

// withDefaults fills in what is zero and mends what does not fit together.
func (l Limits) withDefaults() Limits {
	set := func(v *int, byDefault int) {
		if *v <= 0 {
			*v = byDefault
		}
	}
	wait := func(v *time.Duration, byDefault time.Duration) {
		if *v <= 0 {
			*v = byDefault
		}
	}
	set(&l.Connections, 4096)
	set(&l.Window, 256<<10)
	set(&l.BufferTotal, 64<<20)
	wait(&l.Handshake, 2*time.Second)
	wait(&l.Connect, 10*time.Second)
	wait(&l.Close, 8*time.Second)
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		room := int(min(files.Cur, 1<<20)) - reservedFiles
		l.Connections = max(1, min(l.Connections, room))
	}
	l.Window = max(l.Window, minWindow)
	l.BufferTotal = max(l.BufferTotal, l.Connections*minWindow)
	return l
}

// reservedFiles is how many descriptors the rest of the process may need.
const reservedFiles = 64

// ID implements virtio.Device.
func (d *Device) ID() uint32 { return virtio.IDVsock }

// Features implements virtio.Device: none beside the transport's. SEQPACKET
// (§5.10.3) is not offered.
func (d *Device) Features() uint64 { return 0 }

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 { return []uint16{256, 256, 16} }

// ReadConfig implements virtio.Device: struct virtio_vsock_config, §5.10.4.
func (d *Device) ReadConfig(off uint32, p []byte) {
	var config [8]byte
	binary.LittleEndian.PutUint64(config[:], d.cid)
	clear(p)
	if off < uint32(len(config)) {
		copy(p, config[off:])
	}
}

// WriteConfig implements virtio.Device: guest_cid is read-only.
func (d *Device) WriteConfig(uint32, []byte) {}

// KickFD returns the eventfd that stands for a notification of any queue.
func (d *Device) KickFD() int { return d.fds.kick }

// Notify implements virtio.Device.
func (d *Device) Notify(int) { d.fds.signal(d.fds.kick) }

// Activate implements virtio.Device.
func (d *Device) Activate(a virtio.Activation) error {
	if len(a.Queues) != numQueues || a.Queues[queueRX] == nil || a.Queues[queueTX] == nil {
		return errNoQueue
	}
	d.mu.Lock()
	d.activate(a)
	d.mu.Unlock()
	d.fds.signal(d.fds.wake) // look at what is in the rings already
	return nil
}

func (d *Device) activate(a virtio.Activation) {
	d.act, d.mem = a, a.Memory
	d.rx, d.tx, d.event = a.Queues[queueRX], a.Queues[queueTX], a.Queues[queueEvent]
}

// Reset implements virtio.Device. Every connection ends; data that the guest
// sent before still goes to the host's readers.
func (d *Device) Reset() {
	d.mu.Lock()
	d.lastLook()
	d.deactivate()
	d.mu.Unlock()
	d.fds.signal(d.fds.wake) // there may be room to accept again
}

// lastLook takes what the guest has put into the transmit queue: a kick may
// still be on its way.
func (d *Device) lastLook() {
	if d.mem != nil {
		_, _ = d.drainTX() // a broken queue is of no interest any more
	}
}

// Drain is for the end of a VM whose vCPUs have stopped: Reset, then no new
// connections, then it waits until the host's readers have everything that the
// guest sent, or for ctx. Run must be running. It is called once.
func (d *Device) Drain(ctx context.Context) error {
	done := make(chan struct{})
	d.mu.Lock()
	d.accepting.enabled = false
	d.lastLook()
	d.deactivate()
	if d.connections == 0 {
		close(done)
	} else {
		d.drained = done
	}
	d.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.stop.done:
		return ErrClosed
	}
}

// Pause makes the device leave queues and guest memory alone until Resume, for
// a snapshot. What was begun is complete when it returns. Connections stay, and
// the time does not count against their deadlines.
func (d *Device) Pause() {
	d.mu.Lock()
	if !d.paused {
		d.paused, d.pausedAt = true, d.clock()
	}
	d.mu.Unlock()
}

// Resume ends Pause. Kicks and host data that came meanwhile are served.
func (d *Device) Resume() {
	d.mu.Lock()
	if d.paused {
		d.paused = false
		d.timers.shift(d.clock() - d.pausedAt)
	}
	d.mu.Unlock()
	d.fds.signal(d.fds.wake)
}

// deactivate lets go of the guest: its memory is not touched afterwards.
func (d *Device) deactivate() {
	d.act, d.mem = virtio.Activation{}, nil
	d.rx, d.tx, d.event = nil, nil, nil
	d.held, d.interrupt = false, false
	d.refused = rstRing{}
	d.transport = transportReset{}
	for _, c := range d.slots {
		if c != nil && c.state != gone {
			d.abandon(c, false)
		}
	}
}

// maxBrokenLogged bounds what a guest can write to the log.
const maxBrokenLogged = 10

// fail gives up a ring that the driver broke.
func (d *Device) fail(err error) {
	if d.broken++; d.broken <= maxBrokenLogged {
		d.log("vsock: the guest broke a queue, the device waits for a reset: %v", err)
	}
	interrupt := d.act.Interrupt
	d.deactivate()
	interrupt.NeedsReset()
}

// Stats returns the counters.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Open, s.Buffered = d.connections, d.pool.used*chunkSize
	return s
}
