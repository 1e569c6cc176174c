package vsock

// Credit, §5.10.6.3. Every counter is modulo 2^32 and the guest's are hostile.
//
//	to the guest:    sent - peerFwd  bytes are in its receive buffer,
//	                 of peerAlloc; both move at the guest's will
//	from the guest:  fwdCnt bytes were taken by the host's socket; of them
//	                 the guest was told fwdTold; window is what it may have
//	                 outstanding, and does not change during a connection

const (
	// maxPayload bounds one packet to the guest, as Linux does
	// (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
	maxPayload = 64 << 10

	// packetOverhead is charged for each packet in the guest's receive
	// buffer. Linux since 6.12.92 (and in stable kernels) resets a
	// connection when what its socket buffers cost beside the payload,
	// 576 bytes and more apiece, does not fit buf_alloc: a limit that the
	// protocol cannot express.
	packetOverhead = 768

	// minPayload is the smallest part of a longer stream that is worth a
	// packet while the guest has others to read: no silly windows.
	minPayload = 2048

	// minWindow is what every connection can count on.
	minWindow = 4096
)

// flight counts the packets that the guest has not read yet. Packets are
// grouped, and a group counts in full until all of it was read, so the count is
// never too low.
type flight struct {
	group [16]struct {
		end     uint32 // value of sent behind the group's last byte
		packets int
	}
	first, n int
	packets  int
}

// groupPackets is how many packets make a group: a sixteenth of what the usual
// window of 256 KiB lets in flight. The last group takes all that follow.
const groupPackets = 21

func (f *flight) add(end uint32) {
	f.packets++
	if f.n > 0 {
		g := &f.group[(f.first+f.n-1)%len(f.group)]
		if f.n == len(f.group) || g.packets < groupPackets {
			g.packets++
			g.end = end
			return
		}
	}
	g := &f.group[(f.first+f.n)%len(f.group)]
	g.end, g.packets = end, 1
	f.n++
}

// read drops the groups that end at or before fwd, given that outstanding
// bytes are behind fwd.
func (f *flight) read(fwd, outstanding uint32) {
	for f.n > 0 {
		g := &f.group[f.first]
		if ahead := g.end - fwd; ahead != 0 && ahead <= outstanding {
			return
		}
		f.packets -= g.packets
		f.first = (f.first + 1) % len(f.group)
		f.n--
	}
}

// credit is one connection's share of the above.
type credit struct {
	sent      uint32 // bytes sent to the guest
	peerFwd   uint32 // of them the guest said it took
	peerAlloc uint32
	flight    flight

	window  uint32
	fwdCnt  uint32
	fwdTold uint32
}

// update takes in the guest's counters and tells whether they opened the
// window further.
func (c *credit) update(bufAlloc, fwdCnt uint32) bool {
	before := c.sendable()
	c.peerAlloc = bufAlloc // may shrink below what is outstanding: sendable clamps
	outstanding := c.sent - c.peerFwd
	// Forward, and not beyond what was sent. Anything else is a lie, or a
	// packet that another CPU of the guest queued first: both are ignored.
	if delta := fwdCnt - c.peerFwd; delta != 0 && delta <= outstanding {
		c.peerFwd = fwdCnt
		c.flight.read(fwdCnt, outstanding-delta)
	}
	return c.sendable() > before
}

// sendable returns how many bytes the next packet to the guest may carry; 0 to
// wait for credit.
func (c *credit) sendable() uint32 {
	outstanding := c.sent - c.peerFwd
	if c.peerAlloc <= outstanding {
		return 0
	}
	free := int64(c.peerAlloc - outstanding)
	n := free - int64(c.flight.packets+1)*packetOverhead
	if outstanding == 0 {
		n = max(n, min(free, minPayload)) // a window of a few bytes is one all the same
	} else if n < c.worthwhile() {
		return 0
	}
	return uint32(max(0, min(n, maxPayload)))
}

// worthwhile returns the smallest payload for a guest that has others to read.
func (c *credit) worthwhile() int64 { return min(minPayload, int64(c.peerAlloc/4)) }

// windowFull tells whether it is the window, not the number of packets, that
// makes sendable 0.
func (c *credit) windowFull() bool {
	outstanding := c.sent - c.peerFwd
	return c.peerAlloc <= outstanding || int64(c.peerAlloc-outstanding) < c.worthwhile()
}

// transmitted counts a packet of n bytes to the guest.
func (c *credit) transmitted(n uint32) {
	c.sent += n
	c.flight.add(c.sent)
}

// forwarded counts n bytes that left the window and tells whether the guest
// should hear of it: at a quarter, so that a guest that waits for room waits
// for three quarters to be taken at most.
func (c *credit) forwarded(n int) bool {
	c.fwdCnt += uint32(n)
	return c.fwdCnt-c.fwdTold >= c.window/4
}

// newWindow returns the window of a further connection such that every one up
// to the limit still gets minWindow, and all of them together stay below the
// total: it shrinks gradually as the room does.
func (d *Device) newWindow() uint32 {
	reserved := (d.limits.Connections - d.connections) * minWindow
	spare := d.limits.BufferTotal - d.committed - reserved
	window := minWindow + max(0, spare)/64
	return uint32(min(window, d.limits.Window)) &^ (minWindow - 1)
}
