package boot

import (
	"encoding/binary"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

// Offsets in struct boot_params (boot.rst, "The Real-Mode Kernel Header", and
// zero-page.rst).
const (
	zpE820Entries   = 0x1e8
	zpBootFlag      = 0x1fe
	zpMagic         = 0x202
	zpVersion       = 0x206
	zpTypeOfLoader  = 0x210
	zpRamdiskImage  = 0x218
	zpRamdiskSize   = 0x21c
	zpCmdLinePtr    = 0x228
	zpKernelAlign   = 0x230
	zpCmdlineSize   = 0x238
	zpSetupData     = 0x250
	zpE820Table     = 0x2d0
	bootFlag        = 0xaa55
	headerMagic     = "HdrS"
	protocolVersion = 0x20f // 2.15
	loaderUndefined = 0xff
	kernelAlign     = 0x1000000

	setupRNGSeed = 9 // SETUP_RNG_SEED (asm/bootparam.h)
)

// e820 entry types (zero-page.rst).
const (
	e820RAM      = 1
	e820Reserved = 2
)

type e820Entry struct {
	addr, size uint64
	kind       uint32
}

// memoryMap is what a PC's firmware would tell of mem.
func memoryMap(mem *guestmem.Memory) []e820Entry {
	low := mem.Regions()[0].Size()
	entries := []e820Entry{
		{0, ebdaAddr, e820RAM},
		{ebdaAddr, kernelMin - ebdaAddr, e820Reserved},
		{kernelMin, low - kernelMin, e820RAM},
	}
	for _, r := range mem.Regions()[1:] {
		entries = append(entries, e820Entry{r.Start, r.Size(), e820RAM})
	}
	return entries
}

func writeZeroPage(w *writer, initrd uint64, initrdSize, cmdlineSize int, seed []byte) {
	page := make([]byte, guestmem.PageSize)
	le := binary.LittleEndian
	le.PutUint16(page[zpBootFlag:], bootFlag)
	copy(page[zpMagic:], headerMagic)
	le.PutUint16(page[zpVersion:], protocolVersion)
	page[zpTypeOfLoader] = loaderUndefined
	if initrdSize > 0 {
		le.PutUint32(page[zpRamdiskImage:], uint32(initrd)) // below guestmem.GapStart
		le.PutUint32(page[zpRamdiskSize:], uint32(initrdSize))
	}
	le.PutUint32(page[zpCmdLinePtr:], cmdlineAddr)
	le.PutUint32(page[zpCmdlineSize:], uint32(cmdlineSize))
	le.PutUint32(page[zpKernelAlign:], kernelAlign)
	if len(seed) > 0 {
		le.PutUint64(page[zpSetupData:], setupDataAddr)
	}
	table := page[zpE820Table:zpE820Table]
	entries := memoryMap(w.mem)
	for _, e := range entries {
		table = le.AppendUint64(table, e.addr)
		table = le.AppendUint64(table, e.size)
		table = le.AppendUint32(table, e.kind)
	}
	page[zpE820Entries] = byte(len(entries))
	w.bytes(zeroPageAddr, page)
}

// writeSetupData writes the one struct setup_data: a seed that the kernel
// credits as it credits a boot loader's, so that getrandom never waits.
func writeSetupData(w *writer, seed []byte) {
	if len(seed) == 0 {
		return
	}
	node := binary.LittleEndian.AppendUint64(nil, 0) // no next node
	node = binary.LittleEndian.AppendUint32(node, setupRNGSeed)
	node = binary.LittleEndian.AppendUint32(node, uint32(len(seed)))
	w.bytes(setupDataAddr, append(node, seed...))
}
