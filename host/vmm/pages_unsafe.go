package vmm

import (
	"unsafe"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

// wholePages returns the part of b that covers whole pages of this process.
func wholePages(b []byte) []byte {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	skip := -start & (guestmem.PageSize - 1)
	if uintptr(len(b)) <= skip {
		return nil
	}
	b = b[skip:]
	return b[:len(b)&^(guestmem.PageSize-1)]
}
