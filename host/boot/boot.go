// Package boot puts a Linux kernel into guest memory and says in which state
// the boot processor must start: the 64-bit entry of the x86 boot protocol
// (Documentation/x86/boot.rst, "64-bit Boot Protocol"). It is a pure function
// of bytes: it knows nothing of KVM and opens no file.
//
// # Guest-physical layout
//
//	0x00500  global descriptor table
//	0x07000  boot_params, the "zero page"
//	0x08ff0  top of the boot stack
//	0x09000  page tables: the first 1 GiB, identity-mapped
//	0x1f000  setup_data: the random seed
//	0x20000  kernel command line
//	0x9fc00  MP table, in what a PC calls the extended BIOS data area
//	1 MiB    the kernel, at the addresses its ELF header asks for
//	top      initial RAM disk, at the end of RAM below the MMIO gap
package boot

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

const (
	gdtAddr       = 0x500
	zeroPageAddr  = 0x7000
	stackAddr     = 0x8ff0
	pml4Addr      = 0x9000
	pdptAddr      = 0xa000
	pdAddr        = 0xb000
	setupDataAddr = 0x1f000
	cmdlineAddr   = 0x20000
	ebdaAddr      = 0x9fc00
	kernelMin     = 0x100000

	// maxCmdline is the kernel's COMMAND_LINE_SIZE, its final NUL included.
	maxCmdline = 2048

	// MaxCPUs bounds the MP table, which must fit between ebdaAddr and
	// 640 KiB.
	MaxCPUs = 32

	// MinMemory is the least RAM in bytes that the kernel and its initial
	// RAM disk can be laid out in.
	MinMemory = 64 << 20
)

// Params is what to boot.
type Params struct {
	Kernel  []byte // vmlinux: ELF64 for x86-64
	Initrd  []byte // an uncompressed or compressed cpio archive; may be empty
	Cmdline string // without NUL
	CPUs    int    // 1 to MaxCPUs
	Seed    []byte // entropy for the guest's random number generator; may be empty
}

// Entry is the state in which the boot processor starts. Segments are flat:
// 64-bit code in CodeSelector, data in DataSelector, described by the table at
// GDT.
type Entry struct {
	RIP, RSI, RSP              uint64
	CR3                        uint64
	GDT                        uint64
	GDTLimit                   uint16
	CodeSelector, DataSelector uint16
}

// ErrMemory is returned where RAM cannot hold what is to be booted.
var ErrMemory = errors.New("not enough memory for the kernel and its initial RAM disk")

// Load writes p into mem, which must be zeroed RAM of at least [MinMemory],
// and returns where the boot processor is to start. Malformed kernels give an
// error and never a panic.
func Load(mem *guestmem.Memory, p Params) (Entry, error) {
	if p.CPUs < 1 || p.CPUs > MaxCPUs {
		return Entry{}, fmt.Errorf("%d vCPUs: want 1 to %d", p.CPUs, MaxCPUs)
	}
	if mem.Size() < MinMemory {
		return Entry{}, fmt.Errorf("%w: %d bytes of RAM, want at least %d", ErrMemory, mem.Size(), uint64(MinMemory))
	}
	if len(p.Cmdline) >= maxCmdline {
		return Entry{}, fmt.Errorf("kernel command line of %d bytes: at most %d", len(p.Cmdline), maxCmdline-1)
	}
	kernel, err := loadELF(mem, p.Kernel)
	if err != nil {
		return Entry{}, err
	}
	initrd, err := placeInitrd(mem, p.Initrd, kernel.end)
	if err != nil {
		return Entry{}, err
	}
	w := writer{mem: mem}
	w.bytes(cmdlineAddr, append([]byte(p.Cmdline), 0))
	w.bytes(ebdaAddr, mpTable(p.CPUs))
	writeSetupData(&w, p.Seed)
	writeZeroPage(&w, initrd, len(p.Initrd), len(p.Cmdline), p.Seed)
	writePageTables(&w)
	writeGDT(&w)
	if w.err != nil {
		return Entry{}, w.err
	}
	return Entry{
		RIP: kernel.entry, RSI: zeroPageAddr, RSP: stackAddr, CR3: pml4Addr,
		GDT: gdtAddr, GDTLimit: uint16(len(gdt)*8 - 1), CodeSelector: codeSelector, DataSelector: dataSelector,
	}, nil
}

// placeInitrd copies the RAM disk to the highest page-aligned address below
// the gap, as far from the kernel's growth as can be.
func placeInitrd(mem *guestmem.Memory, initrd []byte, kernelEnd uint64) (uint64, error) {
	low := mem.Regions()[0].Size()
	size := (uint64(len(initrd)) + guestmem.PageSize - 1) &^ (guestmem.PageSize - 1)
	if size > low || low-size < kernelEnd {
		return 0, fmt.Errorf("%w: the kernel ends at %#x, the RAM disk has %d bytes, low RAM ends at %#x", ErrMemory, kernelEnd, len(initrd), low)
	}
	if size == 0 {
		return low, nil
	}
	return low - size, mem.WriteAt(initrd, low-size)
}

// writer keeps the first error of a run of writes to guest memory.
type writer struct {
	mem *guestmem.Memory
	err error
}

func (w *writer) bytes(gpa uint64, b []byte) {
	if w.err == nil {
		w.err = w.mem.WriteAt(b, gpa)
	}
}

func (w *writer) uint64(gpa, v uint64) {
	w.bytes(gpa, binary.LittleEndian.AppendUint64(nil, v))
}

// Selectors that boot.rst asks for: __BOOT_CS and __BOOT_DS.
const (
	codeSelector = 0x10
	dataSelector = 0x18
)

// gdt is indexed by selector/8: flat, 4 KiB granular, present, accessed.
var gdt = [...]uint64{
	codeSelector / 8: 0x00af_9b00_0000_ffff, // 64-bit code, execute and read
	dataSelector / 8: 0x00cf_9300_0000_ffff, // data, read and write
}

func writeGDT(w *writer) {
	for i, descriptor := range gdt {
		w.uint64(gdtAddr+uint64(i)*8, descriptor)
	}
}

// Page-table entry bits (Intel SDM 3A, 4.5).
const (
	ptePresent  = 1 << 0
	pteWritable = 1 << 1
	pteLarge    = 1 << 7
)

// writePageTables identity-maps the first 1 GiB by 2 MiB pages, in which the
// kernel's entry code, boot_params and the command line lie.
func writePageTables(w *writer) {
	w.uint64(pml4Addr, pdptAddr|ptePresent|pteWritable)
	w.uint64(pdptAddr, pdAddr|ptePresent|pteWritable)
	table := make([]byte, 0, guestmem.PageSize)
	for i := range uint64(512) {
		table = binary.LittleEndian.AppendUint64(table, i<<21|ptePresent|pteWritable|pteLarge)
	}
	w.bytes(pdAddr, table)
}
