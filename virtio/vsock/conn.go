package vsock

import "golang.org/x/sys/unix"

// A connection joins a host socket (fd) and a guest socket, which is known by
// the pair of ports. Its two ends are born and die apart: the guest's end is
// the state below, the host's end is fd, and the connection is released when
// both are gone.
//
//	                 CONNECT line            RESPONSE
//	accept ▶ handshake ────────▶ connecting ──────────▶ open
//	                                                     ▲
//	REQUEST to a port of Config.HostPorts ───────────────┘
//
//	open ── both directions ended on the host's side ──▶ closing ── RST, or the timer ──▶ gone
//	open ── the guest is done, or broke the rules ─────▶ resetting ── RST was put on the ring ──▶ gone
//	any  ── RST from the guest ────────────────────────▶ gone
//
// What each event does to an open connection:
//
//	end of file from the host    no more data: SHUTDOWN(SEND), behind all data
//	host's reader is gone        SHUTDOWN(RECEIVE); data from the guest is discarded
//	both                         fd is closed, SHUTDOWN(both): closing
//	SHUTDOWN(SEND) from guest    shutdown(SHUT_WR) on fd, behind all data
//	SHUTDOWN(RECEIVE) from guest shutdown(SHUT_RD) on fd: the host's writer gets EPIPE
//	SHUTDOWN of both             RST at once, as all the guest sent was received
//	RST from guest               no answer
//
// Data that the guest sent before it was done outlives its end: fd drains, for
// as long as the host's reader takes, and is closed then. The memory of a
// draining connection stays counted, so a guest cannot get more of it by
// closing early.
//
// All of it runs under the device's mutex, in the loop or in Reset and Close.
type state uint8

const (
	handshake  state = iota // host socket accepted, no CONNECT line yet; no ports yet
	connecting              // REQUEST is due or was sent
	open                    // both ends are connected; RESPONSE may still be due
	closing                 // SHUTDOWN(both) is due or was sent; fd is closed
	resetting               // RST is due
	gone                    // the guest's end is no more; fd may be draining
)

// Control packets that are due, in the order of precedence. One bit each: what
// a guest asks for a million times is answered once.
const (
	dueRST = 1 << iota
	dueRequest
	dueResponse
	dueCreditUpdate
	dueCreditRequest
	dueShutdown
)

// ports names a connection: the tuple without the two constant CIDs.
type ports struct{ host, guest uint32 }

type conn struct {
	ports
	state state
	links [numLinks]link

	fd         int    // -1 once closed
	slot       int32  // index in Device.slots
	generation uint32 // tells this user of the slot from earlier ones

	// What epoll said last (edge-triggered) and no EAGAIN disproved since.
	readable, writable bool

	hostEOF   bool  // nothing more comes from fd
	hostDeaf  bool  // nothing more goes to fd
	guestDone uint8 // shutdown flags that the guest sent
	told      uint8 // shutdown flags that the guest was sent
	want      uint8 // those that it should know of
	due       uint8 // control packets
	starved   bool  // data waits for credit, and CREDIT_REQUEST was sent for it
	asked     uint8 // how often, up to creditTries

	credit
	out      fifo // data for fd; its length never exceeds window
	deadline int64
}

// raise makes a control packet due.
func (d *Device) raise(c *conn, due uint8) {
	c.due |= due
	d.control.push(c)
}

// wake puts c where data for the guest is looked for, if there may be some.
func (d *Device) wake(c *conn) {
	if c.state == open && c.readable && !c.hostEOF {
		d.data.push(c)
	}
}

// endOfFile notes that fd has nothing more, which has all been delivered.
func (d *Device) endOfFile(c *conn) {
	if c.hostEOF {
		return
	}
	c.hostEOF, c.readable = true, false
	c.want |= shutdownSend
	c.unlink(linkData)
	d.settle(c)
}

// deafen notes that nobody reads the other end of fd any more. The guest's
// data counts as forwarded, so that it goes on until it hears of it.
func (d *Device) deafen(c *conn) {
	if c.hostDeaf {
		return
	}
	c.hostDeaf = true
	c.want |= shutdownReceive
	d.stats.DiscardedBytes += uint64(c.out.n)
	d.forwarded(c, c.out.n)
	c.out.discard(&d.pool, c.out.n)
	d.settle(c)
}

// settle acts on what the end of a direction, or of its last data, leads to.
func (d *Device) settle(c *conn) {
	guestSent := c.guestDone&shutdownSend != 0 && c.out.n == 0
	if c.state != open {
		if c.out.n == 0 || c.hostDeaf {
			d.closeFD(c)
			d.release(c)
		}
		return
	}
	if guestSent && !c.hostDeaf && !c.hostEOF {
		_ = unix.Shutdown(c.fd, unix.SHUT_WR) // an error is the other end's, and told by epoll
	}
	if c.hostEOF && (guestSent || c.hostDeaf) {
		c.state, c.want = closing, shutdownBoth
		d.closeFD(c)
		d.startTimer(c, timerClosing)
	}
	if c.want != c.told {
		d.raise(c, dueShutdown)
	}
}

// abandon ends the guest's side of c, with an RST if the guest is to know. The
// host's side goes on until it has all data.
func (d *Device) abandon(c *conn, rst bool) {
	for kind := range c.links {
		c.unlink(kind)
	}
	c.due = 0
	if rst {
		c.state = resetting
		d.raise(c, dueRST)
	} else {
		d.forget(c)
	}
	c.hostEOF, c.readable = true, false
	if c.fd >= 0 && c.out.n > 0 {
		_ = unix.Shutdown(c.fd, unix.SHUT_RD) // writers are not to wait for a reader
		return
	}
	d.closeFD(c)
	d.release(c)
}

// forget gives the ports of c free.
func (d *Device) forget(c *conn) {
	if c.state != handshake && c.state != gone {
		delete(d.table, c.ports)
	}
	c.state = gone
	for kind := range c.links {
		c.unlink(kind)
	}
}

// newConn takes fd, and counts it, in a state that the caller sets. It returns
// nil, and leaves fd to the caller, when there is no room or fd cannot be
// watched.
func (d *Device) newConn(fd int) *conn {
	if d.connections >= d.limits.Connections {
		return nil
	}
	d.generation++
	c := &conn{fd: fd, slot: int32(len(d.slots)), generation: d.generation, writable: true}
	if n := len(d.freeSlots); n > 0 {
		c.slot = d.freeSlots[n-1]
	}
	if d.watch(fd, c.slot, c.generation, connEvents) != nil {
		return nil
	}
	if n := len(d.freeSlots); n > 0 {
		d.freeSlots = d.freeSlots[:n-1]
		d.slots[c.slot] = c
	} else {
		d.slots = append(d.slots, c)
	}
	c.window = d.newWindow()
	d.connections++
	d.committed += int(c.window)
	return c
}

// release frees what is left of c once both its ends are gone.
func (d *Device) release(c *conn) {
	if c.state != gone || c.fd >= 0 || d.slots[c.slot] != c {
		return
	}
	c.out.discard(&d.pool, c.out.n)
	d.slots[c.slot] = nil
	d.freeSlots = append(d.freeSlots, c.slot)
	d.connections--
	d.committed -= int(c.window)
	d.accepting.resume()
	if d.connections == 0 && d.drained != nil {
		close(d.drained)
		d.drained = nil
	}
}

// closeFD closes the host's end. Data that the guest never read is taken out
// first: a close with unread data would turn the end of file that the peer is
// to see into ECONNRESET.
func (d *Device) closeFD(c *conn) {
	if c.fd < 0 {
		return
	}
	d.closeSocket(c.fd)
	c.fd = -1
	d.accepting.resume()
}

// closeSocket closes a socket such that its peer sees the end of file.
func (d *Device) closeSocket(fd int) {
	_ = unix.Shutdown(fd, unix.SHUT_RD) // nothing more can come
	for range 64 {                      // 1 MiB: far beyond what a socket buffers by default
		n, _, err := unix.Recvfrom(fd, d.scratch[:], unix.MSG_DONTWAIT)
		if n <= 0 || err != nil {
			break
		}
	}
	_ = unix.Close(fd) // also leaves the epoll set
}
