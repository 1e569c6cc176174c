package vsock

import (
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Slots of descriptors that are no connection's.
const (
	slotKick = -1 - iota
	slotWake
	slotListener
	slotTimer
)

// connEvents is what is watched on a connection. Edge-triggered: epoll speaks
// once, and readable and writable remember it until EAGAIN.
const connEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// batch bounds the packets of one direction that are moved before the loop
// looks at everything else.
const batch = 256

// descriptors are the device's own.
type descriptors struct {
	mu     sync.Mutex // held to signal or to close
	closed bool

	epoll, kick, wake, timer int
	listener                 int // -1: none
}

func (f *descriptors) open(listener int) (err error) {
	*f = descriptors{epoll: -1, kick: -1, wake: -1, timer: -1, listener: -1}
	if listener > 0 {
		f.listener = listener
	}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	for _, fd := range []*int{&f.kick, &f.wake} {
		if *fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return fmt.Errorf("create eventfd: %w", err)
		}
	}
	if f.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return fmt.Errorf("create timer: %w", err)
	}
	// Nobody reads the counters: edge-triggered, every signal is an event,
	// and 2^64 of them are out of reach.
	for slot, fd := range map[int32]int{slotKick: f.kick, slotWake: f.wake, slotTimer: f.timer} {
		if err = f.add(fd, slot, 0, unix.EPOLLIN|unix.EPOLLET); err != nil {
			return err
		}
	}
	if f.listener >= 0 {
		if err = unix.SetNonblock(f.listener, true); err != nil {
			return fmt.Errorf("prepare the listening socket: %w", err)
		}
	}
	return nil
}

func (f *descriptors) add(fd int, slot int32, generation, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: slot, Pad: int32(generation)}
	if err := unix.EpollCtl(f.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("watch descriptor: %w", err)
	}
	return nil
}

// signal adds one to an eventfd of f, unless it is closed.
func (f *descriptors) signal(fd int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		one := [8]byte{1}
		_, _ = unix.Write(fd, one[:])
	}
}

func (f *descriptors) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, fd := range []int{f.epoll, f.kick, f.wake, f.timer, f.listener} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// stopper ends Run.
type stopper struct {
	mu      sync.Mutex
	running bool
	closed  bool
	done    chan struct{} // closed when Run returned
}

// Run serves the device until Close. It takes a thread for itself. It is
// called once, and returns ErrClosed when Close came first.
func (d *Device) Run() error {
	d.stop.mu.Lock()
	if d.stop.closed || d.stop.running {
		d.stop.mu.Unlock()
		return ErrClosed
	}
	d.stop.running = true
	d.stop.mu.Unlock()
	defer close(d.stop.done)

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var events [128]unix.EpollEvent
	for wait := -1; ; {
		n, err := unix.EpollWait(d.fds.epoll, events[:], wait)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("vsock: wait for events: %w", err)
		}
		if d.isClosed() {
			return nil
		}
		wait = -1
		if d.turn(events[:max(0, n)]) {
			wait = 0
		}
	}
}

func (d *Device) isClosed() bool {
	d.stop.mu.Lock()
	defer d.stop.mu.Unlock()
	return d.stop.closed
}

// Close ends Run and every connection, and closes every descriptor of the
// device. It waits for Run. It must not be called from the loop.
func (d *Device) Close() error {
	d.stop.mu.Lock()
	first, running := !d.stop.closed, d.stop.running
	d.stop.closed = true
	d.stop.mu.Unlock()
	if !first {
		return ErrClosed
	}
	d.fds.signal(d.fds.wake)
	if running {
		<-d.stop.done
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deactivate()
	for _, c := range d.slots {
		if c != nil { // draining: there is nobody left to wait
			d.closeFD(c)
			d.release(c)
		}
	}
	d.fds.close()
	return nil
}

// turn handles events and moves one batch. It returns true when there is more
// to do without waiting.
func (d *Device) turn(events []unix.EpollEvent) (more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range events {
		d.handle(&events[i])
	}
	d.accept()
	more = d.service()
	d.armTimer()
	return more || d.accepting.pending()
}

// handle takes in one event.
func (d *Device) handle(ev *unix.EpollEvent) {
	switch ev.Fd {
	case slotKick, slotWake: // service looks at everything
	case slotListener:
		d.accepting.ready = true
	case slotTimer:
		d.timers.armed = 0
		d.expire()
	default:
		if c := d.slots[ev.Fd]; c != nil && c.generation == uint32(ev.Pad) {
			d.handleConn(c, ev.Events)
		} // else an event of an earlier user of the slot
	}
}

func (d *Device) handleConn(c *conn, events uint32) {
	const ended = unix.EPOLLHUP | unix.EPOLLERR
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|ended) != 0 && !c.hostEOF {
		c.readable = true
	}
	if events&(unix.EPOLLOUT|ended) != 0 {
		c.writable = true
	}
	switch c.state {
	case handshake:
		d.readLine(c)
	case connecting: // later; what the host has to say can wait
	case open:
		if c.writable && c.out.n > 0 {
			d.flushOut(c)
		}
		if events&ended != 0 && c.state == open {
			// Both directions of the socket are down: if it is empty
			// too, that is one SHUTDOWN instead of two.
			d.lookForEnd(c)
			d.deafen(c)
		}
		d.wake(c)
	case closing:
	case resetting, gone:
		if c.fd >= 0 {
			d.flushOut(c) // draining; EPIPE ends it
		}
	}
}

// service moves one batch in each direction and publishes it. It returns true
// when there is more to do at once.
func (d *Device) service() (more bool) {
	if d.mem == nil || d.paused {
		return false
	}
	err := d.serveEvents()
	var moreTX, moreRX bool
	if err == nil {
		moreTX, err = d.drainTX()
	}
	if err == nil {
		moreRX, err = d.fillRX()
	}
	if err == nil {
		err = d.publish()
	}
	if err == nil {
		more, err = d.rearm(moreTX, moreRX)
	}
	if err != nil {
		d.fail(err)
		return false
	}
	return more
}

// publish shows the driver what was used, and interrupts it once at most.
func (d *Device) publish() error {
	for _, q := range d.act.Queues {
		if q == nil {
			continue
		}
		interrupt, err := q.Flush()
		if err != nil {
			return err
		}
		d.interrupt = d.interrupt || interrupt
	}
	if d.interrupt {
		d.interrupt = false
		d.act.Interrupt.UsedBuffer()
	}
	return nil
}

// rearm asks for the kicks that matter before the loop may wait: new packets,
// and buffers if, and only if, something waits for them. moreTX and moreRX tell
// that a batch was cut short.
func (d *Device) rearm(moreTX, moreRX bool) (more bool, err error) {
	if !moreTX {
		if moreTX, err = d.tx.EnableNotify(); err != nil {
			return false, err
		}
	}
	switch {
	case moreRX:
	case d.waitsForBuffers():
		moreRX, err = d.rx.EnableNotify()
	default:
		err = d.rx.DisableNotify()
	}
	return moreTX || moreRX, err
}
