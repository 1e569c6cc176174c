package vsock

import "golang.org/x/sys/unix"

// drainTX serves packets from the guest. It never waits for the other
// direction: the driver may rely on it that buffers in the transmit queue are
// used although it gives none for receiving (§5.10.6.1).
func (d *Device) drainTX() (more bool, err error) {
	for range batch {
		ok, err := d.tx.Pop(&d.txChain)
		if err != nil || !ok {
			return false, err
		}
		d.servePacket()
		if err := d.tx.Push(d.txChain.Head, 0); err != nil {
			return false, err
		}
	}
	return true, nil
}

// servePacket handles the packet in txChain. The header is copied once; the
// payload is looked at by nobody but the host's reader.
func (d *Device) servePacket() {
	d.stats.TxPackets++
	var h header
	if !copyIn(d.mem, d.txChain.Readable, d.hdr[:]) {
		d.stats.Dropped++
		return
	}
	h.decode(&d.hdr)
	if h.srcCID != d.cid || h.dstCID != hostCID {
		d.stats.Dropped++ // not from this guest, or not to us
		return
	}
	if h.typ != typeStream {
		// §5.10.6.4.2: RST for an unknown type, with the same type.
		d.answerRST(&h)
		return
	}
	c := d.table[ports{host: h.dstPort, guest: h.srcPort}]
	switch {
	case c != nil:
		d.serveConn(c, &h)
	case h.op == opRequest:
		d.guestConnect(&h)
	default:
		d.answerRST(&h)
	}
}

// answerRST resets what is not a connection, but never answers an RST.
func (d *Device) answerRST(h *header) {
	if h.op == opRST {
		d.stats.Dropped++
		return
	}
	d.refused.add(h)
}

// serveConn handles a packet of a connection.
func (d *Device) serveConn(c *conn, h *header) {
	if h.op == opRST {
		d.guestReset(c)
		return
	}
	if c.state == resetting {
		d.stats.Dropped++ // it will learn of it
		return
	}
	if c.update(h.bufAlloc, h.fwdCnt) {
		d.gotCredit(c)
	}
	if c.state == connecting {
		d.serveConnecting(c, h)
		return
	}
	switch h.op {
	case opRW:
		d.takeData(c, h)
	case opShutdown:
		d.guestShutdown(c, h.flags)
	case opCreditRequest:
		d.raise(c, dueCreditUpdate)
	case opCreditUpdate:
	case opRequest:
		if c.state == closing { // the guest forgot the old connection
			d.abandon(c, true)
			return
		}
		d.stats.Dropped++ // a second one: the connection lives on
	default: // also a second RESPONSE
		d.stats.Dropped++
	}
}

// serveConnecting handles what comes between REQUEST and RESPONSE.
func (d *Device) serveConnecting(c *conn, h *header) {
	switch h.op {
	case opResponse:
		if c.due&dueRequest != 0 {
			d.stats.Dropped++ // an answer to what was not asked yet
			return
		}
		d.connected(c)
	case opCreditUpdate, opCreditRequest:
		d.stats.Dropped++ // no credit before RESPONSE
	default:
		d.stats.Resets++
		d.abandon(c, true)
	}
}

func (d *Device) guestReset(c *conn) {
	if c.state == connecting {
		d.stats.Refused++
	} else {
		d.stats.Resets++
	}
	d.abandon(c, false)
}

// gotCredit lets data flow again that waited for the guest.
func (d *Device) gotCredit(c *conn) {
	if c.starved {
		c.starved = false
		c.due &^= dueCreditRequest
		c.unlink(linkTimer)
	}
	d.wake(c)
}

// guestShutdown takes in the hints of SHUTDOWN, which are sticky.
func (d *Device) guestShutdown(c *conn, flags uint32) {
	c.guestDone |= uint8(flags & shutdownBoth)
	if c.guestDone == shutdownBoth {
		// Everything the guest sent came before this packet. What the
		// host still has to say has no reader.
		d.abandon(c, true)
		return
	}
	if c.state != open {
		return
	}
	if c.guestDone&shutdownReceive != 0 && !c.hostEOF {
		c.hostEOF, c.readable, c.starved = true, false, false
		c.unlink(linkData)
		c.unlink(linkTimer)
		_ = unix.Shutdown(c.fd, unix.SHUT_RD)
	}
	d.settle(c)
}

// takeData moves the payload of txChain to the host.
func (d *Device) takeData(c *conn, h *header) {
	payload := d.txChain.ReadableLen - headerSize
	switch {
	case h.length == 0:
		return
	case h.length > payload || h.length > c.window-uint32(c.out.n):
		// A packet that is not there, or more than the guest was
		// allowed. (The latter is detected only when it matters: what a
		// socket took at once needs no credit.)
		d.stats.Resets++
		d.abandon(c, true)
		return
	case c.guestDone&shutdownSend != 0:
		d.stats.Dropped++
		return
	}
	d.stats.TxBytes += uint64(h.length)
	if c.hostDeaf || c.state != open {
		d.stats.DiscardedBytes += uint64(h.length)
		d.forwarded(c, int(h.length))
		return
	}
	for done := uint32(0); done < h.length; {
		n := gather(&d.vec, d.mem, d.txChain.Readable, headerSize+done, h.length-done)
		if n == 0 {
			break // cannot be: the chain is long enough
		}
		d.sendOut(c)
		d.vec.clear()
		done += n
	}
}

// sendOut sends the bytes of vec, or keeps them.
func (d *Device) sendOut(c *conn) {
	if c.out.n == 0 && c.writable && !c.hostDeaf {
		d.trySend(c)
	}
	if c.hostDeaf {
		n := d.vec.len()
		d.stats.DiscardedBytes += uint64(n)
		d.forwarded(c, n)
		return
	}
	for p := d.vec.next(); p != nil; p = d.vec.next() {
		c.out.write(&d.pool, p)
		d.vec.advance(len(p))
	}
}

// trySend sends from vec until it is empty or the socket is full, and returns
// how much it sent.
func (d *Device) trySend(c *conn) (sent int) {
	for d.vec.next() != nil {
		n, err := d.vec.send(c.fd)
		switch {
		case err == errAgain:
			c.writable = false
			return sent
		case err != nil:
			d.deafen(c)
			return sent
		}
		d.vec.advance(n)
		sent += n
		d.forwarded(c, n)
	}
	return sent
}

// flushOut sends what waits for the socket.
func (d *Device) flushOut(c *conn) {
	for c.writable && c.out.n > 0 {
		c.out.gather(&d.vec)
		n := d.trySend(c)
		d.vec.clear()
		if c.hostDeaf {
			return // deafen dropped the rest
		}
		c.out.discard(&d.pool, n)
	}
	if c.out.n == 0 {
		d.settle(c)
	}
}

// forwarded counts bytes that need no more room.
func (d *Device) forwarded(c *conn, n int) {
	if c.credit.forwarded(n) && (c.state == open || c.state == closing) {
		d.raise(c, dueCreditUpdate)
	}
}
