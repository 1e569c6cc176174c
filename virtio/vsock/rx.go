package vsock

import "golang.org/x/sys/unix"

// rstRing holds answers to packets that belong to no connection. When it is
// full more of them are dropped: a guest that provokes so many can do without.
type rstRing struct {
	entry    [64]refusal
	first, n int
}

type refusal struct {
	ports
	typ uint16
}

func (r *rstRing) add(h *header) {
	if r.n < len(r.entry) {
		r.entry[(r.first+r.n)%len(r.entry)] = refusal{ports{host: h.dstPort, guest: h.srcPort}, h.typ}
		r.n++
	}
}

func (r *rstRing) take() refusal {
	e := r.entry[r.first]
	r.first = (r.first + 1) % len(r.entry)
	r.n--
	return e
}

// waitsForBuffers tells whether there is something for the guest.
func (d *Device) waitsForBuffers() bool {
	return !d.transport.waiting && (d.refused.n > 0 || d.control.head != nil || d.data.head != nil || d.later.head != nil)
}

// fillRX puts packets into the guest's receive buffers: control packets first,
// then data of one connection after the other. It returns true when there is
// more to do at once; without buffers there is not, whatever waits.
//
// Nothing is taken from a socket before there is a buffer for it.
func (d *Device) fillRX() (more bool, err error) {
	// Connections whose socket seemed empty get the second look that
	// edge-triggering asks for: after the packet has been published.
	for c := d.later.pop(); c != nil; c = d.later.pop() {
		d.data.push(c)
	}
	more = true
	for range batch {
		if d.transport.waiting || d.refused.n == 0 && d.control.head == nil && d.data.head == nil {
			more = d.later.head != nil
			break
		}
		ok, err := d.holdBuffer()
		if err != nil {
			return false, err
		}
		if !ok {
			more = false
			break
		}
		if err := d.fillOne(); err != nil {
			return false, err
		}
	}
	if d.held {
		d.held = false
		d.rx.Undo()
	}
	return more, nil
}

// holdBuffer makes rxChain a chain that can hold a header and a byte. Chains
// that cannot are returned empty, a batch of them at most.
func (d *Device) holdBuffer() (bool, error) {
	if d.held {
		return true, nil
	}
	for range batch {
		ok, err := d.rx.Pop(&d.rxChain)
		if err != nil || !ok {
			return false, err
		}
		if d.rxChain.WritableLen > headerSize {
			d.held = true
			return true, nil
		}
		d.stats.BadBuffers++
		if err := d.rx.Push(d.rxChain.Head, 0); err != nil {
			return false, err
		}
	}
	return false, nil
}

// fillOne uses the held buffer for what is most urgent, if it comes to that.
func (d *Device) fillOne() error {
	if d.refused.n > 0 {
		r := d.refused.take()
		return d.emit(&header{srcPort: r.host, dstPort: r.guest, typ: r.typ, op: opRST})
	}
	if c := d.control.pop(); c != nil {
		return d.sendControl(c)
	}
	return d.sendData(d.data.pop())
}

// emit completes h, writes it to the held buffer, whose payload is there
// already, and uses the buffer.
func (d *Device) emit(h *header) error {
	h.srcCID, h.dstCID = hostCID, d.cid
	h.encode(&d.hdr)
	copyOut(d.mem, d.rxChain.Writable, d.hdr[:])
	d.held = false
	d.stats.RxPackets++
	return d.rx.Push(d.rxChain.Head, headerSize+h.length)
}

// emitFor is emit for a packet of c. Every one of them carries our credit.
func (d *Device) emitFor(c *conn, h header) error {
	h.srcPort, h.dstPort, h.typ = c.host, c.guest, typeStream
	h.bufAlloc, h.fwdCnt = c.window, c.fwdCnt
	c.fwdTold = c.fwdCnt
	c.due &^= dueCreditUpdate
	return d.emit(&h)
}

// sendControl sends the first control packet that c has due.
func (d *Device) sendControl(c *conn) error {
	due := c.due & -c.due
	c.due &^= due
	var err error
	switch due {
	case dueRST:
		err = d.emitFor(c, header{op: opRST})
		d.forget(c)
		d.release(c)
		return err
	case dueRequest:
		err = d.emitFor(c, header{op: opRequest})
		d.startTimer(c, timerConnect)
	case dueResponse:
		err = d.emitFor(c, header{op: opResponse})
	case dueCreditUpdate:
		err = d.emitFor(c, header{op: opCreditUpdate})
	case dueCreditRequest:
		err = d.emitFor(c, header{op: opCreditRequest})
	case dueShutdown:
		c.told = c.want
		err = d.emitFor(c, header{op: opShutdown, flags: uint32(c.told)})
		if c.state == closing {
			d.startTimer(c, timerClosing)
		}
	}
	if c.due != 0 {
		d.control.push(c)
	}
	return err
}

// sendData reads from the socket of c into the held buffer, if there is data
// and credit.
func (d *Device) sendData(c *conn) error {
	allowed := c.sendable()
	if allowed == 0 {
		d.starve(c)
		return nil
	}
	want := gather(&d.vec, d.mem, d.rxChain.Writable, headerSize, allowed)
	n, err := d.vec.receive(c.fd)
	d.vec.clear()
	switch {
	case err == errAgain:
		c.readable = false
		return nil
	case err != nil: // ECONNRESET: the peer closed with data unread
		d.endOfFile(c)
		d.deafen(c)
		return nil
	case n == 0:
		d.endOfFile(c)
		return nil
	}
	c.transmitted(uint32(n))
	d.stats.RxBytes += uint64(n)
	if uint32(n) == want {
		d.data.push(c)
	} else {
		d.later.push(c)
	}
	return d.emitFor(c, header{op: opRW, length: uint32(n)})
}

// starve puts c aside until the guest gives credit. The end of the stream needs
// none, so it is looked for.
func (d *Device) starve(c *conn) {
	if d.lookForEnd(c) && !c.starved {
		c.starved, c.asked = true, 0
		d.askCredit(c)
	}
}

// lookForEnd acts on the end of the host's stream if it is the next thing to
// read, and tells whether data is.
func (d *Device) lookForEnd(c *conn) (data bool) {
	if c.hostEOF {
		return false
	}
	n, err := receive(c.fd, d.scratch[:1], unix.MSG_PEEK)
	switch {
	case err == errAgain:
		c.readable = false
	case err != nil:
		d.endOfFile(c)
		d.deafen(c)
	case n == 0:
		d.endOfFile(c)
	}
	return n > 0
}
