package kvm

import (
	"encoding/binary"
	"fmt"
)

// RunPage is struct kvm_run (api.rst 5), the page that KVM and the program
// share for one vCPU. It is read between two calls of [VCPU.Run].
type RunPage struct{ page []byte }

// ExitReason says why the last KVM_RUN returned without an error.
func (p *RunPage) ExitReason() ExitReason {
	return ExitReason(binary.LittleEndian.Uint32(p.page[runExitReason:]))
}

// IO is an access to I/O ports (KVM_EXIT_IO).
type IO struct {
	Port  uint16
	Size  int  // bytes of one access: 1, 2 or 4
	Write bool // OUT, not IN

	// Data holds the accesses one after the other, several for a string
	// instruction: what the guest wrote, or room for what it is to read.
	Data []byte
}

// IO decodes KVM_EXIT_IO. The offset and count are the kernel's, and still
// checked: an answer outside the run page is an error.
func (p *RunPage) IO() (IO, error) {
	u := p.page[runUnion:]
	io := IO{Write: u[0] == 1, Size: int(u[1]), Port: binary.LittleEndian.Uint16(u[2:])}
	count := uint64(binary.LittleEndian.Uint32(u[4:]))
	off, n := binary.LittleEndian.Uint64(u[8:]), count*uint64(io.Size)
	if size := uint64(len(p.page)); off > size || n > size-off || (io.Size != 1 && io.Size != 2 && io.Size != 4) {
		return io, fmt.Errorf("KVM_EXIT_IO: %d accesses of %d bytes at offset %d of the run page", count, io.Size, off)
	}
	io.Data = p.page[off : off+n]
	return io, nil
}

// MMIO is an access to guest-physical memory that is no RAM (KVM_EXIT_MMIO).
type MMIO struct {
	Addr  uint64
	Write bool
	Data  []byte // 1 to 8 bytes: what was written, or room for what is read
}

// MMIO decodes KVM_EXIT_MMIO.
func (p *RunPage) MMIO() (MMIO, error) {
	u := p.page[runUnion:]
	n := binary.LittleEndian.Uint32(u[16:])
	if n > 8 {
		return MMIO{}, fmt.Errorf("KVM_EXIT_MMIO: %d bytes", n)
	}
	return MMIO{Addr: binary.LittleEndian.Uint64(u), Write: u[20] != 0, Data: u[8 : 8+n]}, nil
}

// Suberror returns the kernel's number for what went wrong in
// KVM_EXIT_INTERNAL_ERROR.
func (p *RunPage) Suberror() uint32 { return binary.LittleEndian.Uint32(p.page[runUnion:]) }

// EntryFailure returns the hardware's reason in KVM_EXIT_FAIL_ENTRY.
func (p *RunPage) EntryFailure() uint64 { return binary.LittleEndian.Uint64(p.page[runUnion:]) }

var exitNames = map[ExitReason]string{
	ExitUnknown:       "KVM_EXIT_UNKNOWN",
	ExitException:     "KVM_EXIT_EXCEPTION",
	ExitIO:            "KVM_EXIT_IO",
	ExitHypercall:     "KVM_EXIT_HYPERCALL",
	ExitDebug:         "KVM_EXIT_DEBUG",
	ExitHLT:           "KVM_EXIT_HLT",
	ExitMMIO:          "KVM_EXIT_MMIO",
	ExitIRQWindowOpen: "KVM_EXIT_IRQ_WINDOW_OPEN",
	ExitShutdown:      "KVM_EXIT_SHUTDOWN",
	ExitFailEntry:     "KVM_EXIT_FAIL_ENTRY",
	ExitIntr:          "KVM_EXIT_INTR",
	ExitInternalError: "KVM_EXIT_INTERNAL_ERROR",
	ExitSystemEvent:   "KVM_EXIT_SYSTEM_EVENT",
}

// String returns the kernel's name of the exit.
func (r ExitReason) String() string {
	if name, ok := exitNames[r]; ok {
		return name
	}
	return fmt.Sprintf("KVM_EXIT_%d", uint32(r))
}
