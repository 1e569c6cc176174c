package vsock

import (
	"encoding/binary"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio/queue"
)

// headerSize is the length of struct virtio_vsock_hdr, VIRTIO 1.2 §5.10.6.
const headerSize = 44

// Operations, §5.10.6: VIRTIO_VSOCK_OP_*.
const (
	opRequest       = 1
	opResponse      = 2
	opRST           = 3
	opShutdown      = 4
	opRW            = 5
	opCreditUpdate  = 6
	opCreditRequest = 7
)

// typeStream is VIRTIO_VSOCK_TYPE_STREAM, the only socket type served.
const typeStream = 1

// Flags of opShutdown, §5.10.6.5: hints that never become untrue again.
const (
	shutdownReceive = 1 // VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: the sender receives no more
	shutdownSend    = 2 // VIRTIO_VSOCK_SHUTDOWN_F_SEND: the sender sends no more
	shutdownBoth    = shutdownReceive | shutdownSend
)

// hostCID is the context id of the host, §5.10.4.
const hostCID = 2

// header is struct virtio_vsock_hdr: little-endian, without padding.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	length           uint32 // of the payload
	typ, op          uint16
	flags            uint32
	bufAlloc         uint32 // the sender's receive buffer in bytes
	fwdCnt           uint32 // bytes the sender took out of it, modulo 2^32
}

// encode writes h to p.
func (h *header) encode(p *[headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(p[0:], h.srcCID)
	le.PutUint64(p[8:], h.dstCID)
	le.PutUint32(p[16:], h.srcPort)
	le.PutUint32(p[20:], h.dstPort)
	le.PutUint32(p[24:], h.length)
	le.PutUint16(p[28:], h.typ)
	le.PutUint16(p[30:], h.op)
	le.PutUint32(p[32:], h.flags)
	le.PutUint32(p[36:], h.bufAlloc)
	le.PutUint32(p[40:], h.fwdCnt)
}

// decode reads h from p. Every value of p is a header.
func (h *header) decode(p *[headerSize]byte) {
	le := binary.LittleEndian
	*h = header{
		srcCID:   le.Uint64(p[0:]),
		dstCID:   le.Uint64(p[8:]),
		srcPort:  le.Uint32(p[16:]),
		dstPort:  le.Uint32(p[20:]),
		length:   le.Uint32(p[24:]),
		typ:      le.Uint16(p[28:]),
		op:       le.Uint16(p[30:]),
		flags:    le.Uint32(p[32:]),
		bufAlloc: le.Uint32(p[36:]),
		fwdCnt:   le.Uint32(p[40:]),
	}
}

// copyIn copies the first len(p) bytes of bufs to p and tells whether there
// were as many. Drivers may split a packet anywhere (§2.7.4.1), so also inside
// the header.
func copyIn(mem *guestmem.Memory, bufs []queue.Buffer, p []byte) bool {
	for _, b := range bufs {
		n := min(int(b.Len), len(p))
		if mem.ReadAt(p[:n], b.Addr) != nil {
			return false // cannot be: Pop checked the range
		}
		if p = p[n:]; len(p) == 0 {
			return true
		}
	}
	return len(p) == 0
}

// copyOut copies p to the beginning of bufs and tells whether it fitted.
func copyOut(mem *guestmem.Memory, bufs []queue.Buffer, p []byte) bool {
	for _, b := range bufs {
		n := min(int(b.Len), len(p))
		if mem.WriteAt(p[:n], b.Addr) != nil {
			return false
		}
		if p = p[n:]; len(p) == 0 {
			return true
		}
	}
	return len(p) == 0
}

// gather appends views of n bytes of bufs, from byte skip on, to v. It returns
// how many bytes it got: fewer when bufs or the vector end before.
func gather(v *vector, mem *guestmem.Memory, bufs []queue.Buffer, skip, n uint32) uint32 {
	var total uint32
	for _, b := range bufs {
		if skip >= b.Len {
			skip -= b.Len
			continue
		}
		part := min(b.Len-skip, n-total)
		if part == 0 {
			break
		}
		view, err := mem.Bytes(b.Addr+uint64(skip), uint64(part))
		if err != nil || !v.add(view) {
			break
		}
		skip, total = 0, total+part
	}
	return total
}
