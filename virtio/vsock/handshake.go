package vsock

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"
)

// The host's end of a connection begins with a line of text. Until it is
// complete it stays in the socket: every look at it is a MSG_PEEK from its
// start, so a line may come in any number of pieces, and what follows it is
// untouched data.

const (
	// maxLine bounds "CONNECT <port>\n"; 19 bytes do for every port.
	maxLine = 64

	connectWord = "CONNECT "

	// firstPort is the first host port that is given to connections from
	// the host. Ports below are for services (Config.HostPorts).
	firstPort = 1 << 30

	// maxPort is the last valid port: VMADDR_PORT_ANY is the one above.
	maxPort = 1<<32 - 2

	// acceptBatch bounds the connections that are taken in one turn.
	acceptBatch = 64
)

// acceptor is the state of the listening socket.
type acceptor struct {
	enabled bool  // Accept was called
	ready   bool  // epoll said so, and no EAGAIN since
	full    bool  // no descriptor or no slot: wait for one to be given back
	said    bool  // the lack of descriptors was logged
	retryAt int64 // when full is forgotten although none was; 0: never
}

// resume is called when a descriptor or a slot was given back.
func (a *acceptor) resume() { a.full, a.retryAt = false, 0 }

// Accept makes the device take connections from the listening socket. Until
// then they wait in its backlog.
func (d *Device) Accept() {
	d.mu.Lock()
	if !d.accepting.enabled && d.fds.listener >= 0 {
		d.accepting.enabled = true
		if err := d.watch(d.fds.listener, slotListener, 0, unix.EPOLLIN|unix.EPOLLET); err != nil {
			d.log("vsock: %v", err)
		}
	}
	d.mu.Unlock()
}

// watch adds fd to the epoll set.
func (d *Device) watch(fd int, slot int32, generation, events uint32) error {
	return d.fds.add(fd, slot, generation, events)
}

// pending tells whether accept has something to do.
func (a *acceptor) pending() bool { return a.enabled && a.ready && !a.full }

// accept takes a batch of connections.
func (d *Device) accept() {
	a := &d.accepting
	for range acceptBatch {
		if !a.pending() {
			return
		}
		if d.connections >= d.limits.Connections {
			a.full = true
			return
		}
		fd, _, err := unix.Accept4(d.fds.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			a.said = false
			d.accepted(fd)
		case unix.EAGAIN:
			a.ready = false
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			if !a.said {
				d.log("vsock: accept: %v; dialers wait until something is closed", err)
			}
			a.said, a.full, a.retryAt = true, true, d.clock()+int64(acceptRetry)
		default:
			d.log("vsock: accept: %v", err)
			a.ready = false
		}
	}
}

func (d *Device) accepted(fd int) {
	c := d.newConn(fd)
	if c == nil {
		d.closeSocket(fd)
		return
	}
	c.state = handshake
	d.startTimer(c, timerHandshake)
	d.readLine(c) // it is usually there already
}

// readLine looks for the CONNECT line and acts on it.
func (d *Device) readLine(c *conn) {
	line := d.scratch[:maxLine]
	n, err := receive(c.fd, line, unix.MSG_PEEK)
	if err == errAgain {
		return
	}
	end := bytes.IndexByte(line[:max(0, n)], '\n')
	if end < 0 {
		if err != nil || n == 0 || n == maxLine || d.lineEnded(c, n) {
			d.refuse(c)
		}
		return
	}
	port, ok := parseConnect(line[:end])
	if !ok || d.mem == nil {
		d.refuse(c)
		return
	}
	for left := end + 1; left > 0; left -= n {
		if n, err = receive(c.fd, line[:left], 0); err != nil || n == 0 {
			d.refuse(c) // cannot be: the bytes were there
			return
		}
	}
	d.hostConnect(c, port)
}

// lineEnded tells whether nothing will ever follow the n bytes of an incomplete
// line. A peek shows no end of file behind data, but poll does.
func (d *Device) lineEnded(c *conn, n int) bool {
	p := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLRDHUP}}
	got, err := unix.Poll(p, 0)
	if err != nil || got == 0 || p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) == 0 {
		return false
	}
	// The rest may have come between the two calls.
	again, err := receive(c.fd, d.scratch[:maxLine], unix.MSG_PEEK)
	return err != nil || again == n
}

// refuse ends a connection that did not get as far as a port.
func (d *Device) refuse(c *conn) {
	d.stats.Refused++
	d.abandon(c, false)
}

// parseConnect reads "CONNECT <port>", the port in decimal digits alone.
func parseConnect(line []byte) (port uint32, ok bool) {
	digits, ok := bytes.CutPrefix(line, []byte(connectWord))
	if !ok || len(digits) == 0 || len(digits) > len("4294967295") {
		return 0, false
	}
	var n uint64
	for _, b := range digits {
		if b < '0' || b > '9' {
			return 0, false
		}
		n = n*10 + uint64(b-'0')
	}
	return uint32(n), n <= maxPort
}

// hostConnect asks the guest for a connection.
func (d *Device) hostConnect(c *conn, port uint32) {
	c.unlink(linkTimer) // the wait for the guest begins when it got REQUEST
	c.state = connecting
	c.guest = port
	// Bounded: at most Limits.Connections pairs are in use.
	for {
		c.host = d.nextPort
		if d.nextPort++; d.nextPort > maxPort {
			d.nextPort = firstPort
		}
		if _, used := d.table[c.ports]; !used && d.hostPorts[c.host] == nil {
			break
		}
	}
	d.table[c.ports] = c
	d.raise(c, dueRequest)
}

// connected tells the host's end that the guest accepted.
func (d *Device) connected(c *conn) {
	c.unlink(linkTimer)
	c.state = open
	d.stats.Connections++
	line := append(d.scratch[:0], "OK "...)
	line = strconv.AppendUint(line, uint64(c.host), 10)
	line = append(line, '\n')
	d.vec.add(line)
	n, err := d.vec.send(c.fd)
	d.vec.clear()
	c.readable = true // whatever was pipelined
	if err != nil || n != len(line) {
		// The dialer is gone, or it stopped reading before it got a
		// first byte. What it wrote is still delivered.
		d.deafen(c)
	}
	d.wake(c)
}

// guestConnect serves REQUEST from the guest.
func (d *Device) guestConnect(h *header) {
	dial := d.hostPorts[h.dstPort]
	if dial == nil || d.connections >= d.limits.Connections {
		d.refuseGuest(h)
		return
	}
	fd, err := dial()
	if err != nil {
		d.refuseGuest(h)
		return
	}
	c := d.newConn(fd)
	if c == nil {
		_ = unix.Close(fd)
		d.refuseGuest(h)
		return
	}
	c.ports = ports{host: h.dstPort, guest: h.srcPort}
	c.state, c.readable = open, true
	c.update(h.bufAlloc, h.fwdCnt)
	d.table[c.ports] = c
	d.stats.Connections++
	d.raise(c, dueResponse)
	d.wake(c)
}

func (d *Device) refuseGuest(h *header) {
	d.stats.Refused++
	d.refused.add(h)
}

// receive reads from a socket without blocking; 0 is the end of the stream.
func receive(fd int, p []byte, flags int) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, p, flags|unix.MSG_DONTWAIT)
		switch err {
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return n, err
		}
	}
}
