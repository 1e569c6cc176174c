// Package console is a virtio console (VIRTIO 1.2 §5.3) with one port and
// nothing optional: no multiport, no size, no emergency write. It is the
// guest's log: what the guest transmits goes to an [io.Writer], and nothing
// ever comes back, so the receive queue's buffers stay with the device.
//
// A vCPU never waits for the writer. Bytes are copied out of guest memory
// under the device's lock, at most one buffer full at a time, and written
// without it; Reset takes the same lock and so waits for a copy at most.
package console

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/agentkernel/agentkernel/virtio"
	"github.com/agentkernel/agentkernel/virtio/internal/eventfd"
	"github.com/agentkernel/agentkernel/virtio/queue"
)

// Queue numbers, §5.3.2.
const (
	receiveQueue  = 0
	transmitQueue = 1
	numQueues     = 2
)

const (
	queueSize = 64

	// What one pass over the transmit queue does at most, between two
	// looks at everything else.
	passBytes  = 32 << 10
	passChains = queueSize

	// finalPasses bounds what Close still takes from the guest.
	finalPasses = 64
)

var errNoTransmit = errors.New("console: the driver set up no transmit queue")

// Device is the console. Create it with New, start Run in a goroutine, end it
// with Close.
type Device struct {
	out  io.Writer
	kick *eventfd.FD
	done chan struct{} // closed when Run returns

	// Run's alone.
	buf []byte

	mu      sync.Mutex
	running bool
	closing bool
	port    port
	lost    uint64
}

// port is the transmit side while the device is active, else zero.
type port struct {
	virtio.Activation
	tx    *queue.Queue
	chain queue.Chain // being copied, if busy
	busy  bool
	seg   int    // index in chain.Readable
	off   uint32 // bytes of that buffer that were copied
}

var _ virtio.Device = (*Device)(nil)

// New returns a console that writes what the guest transmits to out, from the
// goroutine of Run alone. Write errors are counted, not returned: a full disk
// must not stop the guest.
func New(out io.Writer) (*Device, error) {
	kick, err := eventfd.New()
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	return &Device{out: out, kick: kick, done: make(chan struct{}), buf: make([]byte, passBytes)}, nil
}

// KickFD returns the eventfd to register on QueueNotify. It stays the
// device's.
func (d *Device) KickFD() int { return d.kick.FD() }

// Run carries bytes until Close. It is called once.
func (d *Device) Run() error {
	if run, err := d.begin(); !run {
		return err
	}
	defer close(d.done)

	for last := 0; ; {
		n, more, closing := d.pass()
		d.write(n)
		switch {
		case closing && (!more || last == finalPasses):
			return nil
		case closing:
			last++
		case !more:
			if err := d.kick.Wait(); err != nil {
				return fmt.Errorf("console: wait for a kick: %w", err)
			}
		}
	}
}

// begin tells whether Run is to go on. After Close it is not.
func (d *Device) begin() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closing:
		return false, nil
	case d.running:
		return false, errors.New("console: Run was called twice")
	}
	d.running = true
	return true, nil
}

// Close ends Run, after what the guest had transmitted was written, and frees
// the descriptor. The transport must be told to Reset the device separately.
func (d *Device) Close() error {
	d.mu.Lock()
	d.closing = true
	running := d.running
	d.mu.Unlock()
	if running {
		d.kick.Signal()
		<-d.done
	}
	return d.kick.Close()
}

// Lost returns how many bytes could not be written to the log.
func (d *Device) Lost() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}

func (d *Device) write(n int) {
	if n == 0 {
		return
	}
	if w, err := d.out.Write(d.buf[:n]); err != nil && w < n {
		d.mu.Lock()
		d.lost += uint64(n - max(w, 0))
		d.mu.Unlock()
	}
}

// pass moves up to a buffer full from the transmit queue to d.buf. more tells
// that it stopped before the queue was empty.
func (d *Device) pass() (n int, more, closing bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.port.tx == nil {
		return 0, false, d.closing
	}
	n, more, err := d.port.fill(d.buf)
	if err != nil {
		d.port.Interrupt.NeedsReset()
		d.port = port{}
	}
	return n, more, d.closing
}

// fill copies chains to buf. Chains are returned to the driver once they are
// copied whole.
func (p *port) fill(buf []byte) (n int, more bool, err error) {
	if err := p.tx.DisableNotify(); err != nil {
		return 0, false, err
	}
	more = true
	for chains := 0; more && chains < passChains && n < len(buf); chains++ {
		if more, err = p.next(); err != nil || !more {
			break
		}
		n += p.copy(buf[n:])
		if p.seg < len(p.chain.Readable) {
			break // buf is full
		}
		p.busy = false
		if err = p.tx.Push(p.chain.Head, 0); err != nil {
			break
		}
	}
	if err != nil {
		return n, false, err
	}
	interrupt, err := p.tx.Flush()
	if interrupt {
		p.Interrupt.UsedBuffer()
	}
	if err == nil && !more {
		more, err = p.tx.EnableNotify()
	}
	return n, more, err
}

// next makes sure that there is a chain to copy from, if the driver gave one.
func (p *port) next() (bool, error) {
	if p.busy {
		return true, nil
	}
	ok, err := p.tx.Pop(&p.chain)
	p.busy, p.seg, p.off = ok, 0, 0
	return ok, err
}

// copy moves bytes of the current chain to buf until either ends.
func (p *port) copy(buf []byte) (n int) {
	for p.seg < len(p.chain.Readable) && n < len(buf) {
		b := p.chain.Readable[p.seg]
		size := min(b.Len-p.off, uint32(len(buf)-n))
		// Cannot fail: Pop checked the whole buffer. If it did, its
		// bytes would be left out.
		if src, err := p.Memory.Bytes(b.Addr+uint64(p.off), uint64(size)); err == nil {
			n += copy(buf[n:], src)
		}
		if p.off += size; p.off == b.Len {
			p.seg, p.off = p.seg+1, 0
		}
	}
	return n
}
