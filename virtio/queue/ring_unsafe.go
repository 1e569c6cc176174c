package queue

import (
	"sync/atomic"
	"unsafe"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

// The functions below access a ring through its live view in one instruction
// each, so that the guest can change a field between two accesses but never
// during one. The slice expressions keep every access inside the view; the
// alignment that they need was checked by resolve.

// load16 reads the 16 bits at off, which is even.
func load16(view []byte, off int) uint16 {
	return guestmem.LoadUint16((*uint16)(unsafe.Pointer(unsafe.SliceData(view[off : off+2]))))
}

// store16 writes the 16 bits at off, which is even.
func store16(view []byte, off int, v uint16) {
	guestmem.StoreUint16((*uint16)(unsafe.Pointer(unsafe.SliceData(view[off:off+2]))), v)
}

// store32 writes the 32 bits at off, a multiple of 4.
func store32(view []byte, off int, v uint32) {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(view[off:off+4]))), v)
}

// load64 reads the 64 bits at off, a multiple of 8.
func load64(view []byte, off int) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(unsafe.SliceData(view[off : off+8]))))
}
