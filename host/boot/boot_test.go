package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

func newMemory(t testing.TB, size uint64) *guestmem.Memory {
	t.Helper()
	mem, err := guestmem.New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	return mem
}

// kernelFile returns a minimal vmlinux: one segment of text at 16 MiB, with
// bss behind it.
func kernelFile(edit func(header, phdr []byte)) []byte {
	le := binary.LittleEndian
	header := make([]byte, elfHeaderSize)
	copy(header, elfMagic)
	header[4], header[5], header[6] = elfClass64, elfLittle, 1
	le.PutUint16(header[16:], elfTypeExec)
	le.PutUint16(header[18:], elfX8664)
	le.PutUint64(header[24:], 0x1000000)
	le.PutUint64(header[32:], elfHeaderSize)
	le.PutUint16(header[54:], elfPhdrSize)
	le.PutUint16(header[56:], 1)
	phdr := make([]byte, elfPhdrSize)
	le.PutUint32(phdr, elfLoad)
	le.PutUint64(phdr[8:], elfHeaderSize+elfPhdrSize)
	le.PutUint64(phdr[24:], 0x1000000)
	le.PutUint64(phdr[32:], 4)
	le.PutUint64(phdr[40:], 0x2000)
	if edit != nil {
		edit(header, phdr)
	}
	return append(append(header, phdr...), "text"...)
}

func TestLoad(t *testing.T) {
	mem := newMemory(t, MinMemory)
	entry, err := Load(mem, Params{Kernel: kernelFile(nil), Initrd: []byte("initrd"), Cmdline: "quiet", CPUs: 2, Seed: []byte("seed")})
	if err != nil {
		t.Fatal(err)
	}
	if entry.RIP != 0x1000000 || entry.RSI != zeroPageAddr {
		t.Errorf("entry: %+v", entry)
	}
	read := func(gpa uint64, n int) []byte {
		b := make([]byte, n)
		if err := mem.ReadAt(b, gpa); err != nil {
			t.Fatal(err)
		}
		return b
	}
	le := binary.LittleEndian
	zp := read(zeroPageAddr, guestmem.PageSize)
	initrd := uint64(le.Uint32(zp[zpRamdiskImage:]))
	for _, tt := range []struct {
		name      string
		got, want []byte
	}{
		{"kernel", read(0x1000000, 5), []byte("text\x00")},
		{"RAM disk", read(initrd, int(le.Uint32(zp[zpRamdiskSize:]))), []byte("initrd")},
		{"command line", read(uint64(le.Uint32(zp[zpCmdLinePtr:])), 6), []byte("quiet\x00")},
		{"magic", zp[zpMagic : zpMagic+4], []byte("HdrS")},
		{"seed", read(le.Uint64(zp[zpSetupData:])+16, 4), []byte("seed")},
		{"code descriptor", read(entry.GDT+codeSelector, 8), le.AppendUint64(nil, gdt[codeSelector/8])},
		{"last large page", read(pdAddr+511*8, 8), le.AppendUint64(nil, 511<<21|0x83)},
	} {
		if !bytes.Equal(tt.got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, tt.got, tt.want)
		}
	}
	if initrd != MinMemory-guestmem.PageSize {
		t.Errorf("the RAM disk is at %#x", initrd)
	}
}

func TestLoadWithoutRAMDisk(t *testing.T) {
	if _, err := Load(newMemory(t, MinMemory), Params{Kernel: kernelFile(nil), CPUs: 1}); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryMapAboveTheGap(t *testing.T) {
	mem := newMemory(t, 5<<30)
	got := memoryMap(mem)
	want := []e820Entry{
		{0, ebdaAddr, e820RAM},
		{ebdaAddr, kernelMin - ebdaAddr, e820Reserved},
		{kernelMin, guestmem.GapStart - kernelMin, e820RAM},
		{guestmem.GapEnd, 5<<30 - guestmem.GapStart, e820RAM},
	}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("entry %d: %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestMPTable(t *testing.T) {
	for _, cpus := range []int{1, 2, MaxCPUs} {
		table := mpTable(cpus)
		if len(table) > 0xa0000-ebdaAddr {
			t.Errorf("%d CPUs: %d bytes do not fit below 640 KiB", cpus, len(table))
		}
		config := table[mpPointerSize:]
		if got := int(binary.LittleEndian.Uint16(config[4:])); got != len(config) {
			t.Errorf("%d CPUs: length %d, table of %d", cpus, got, len(config))
		}
		if checksum(config) != 0 || checksum(table[:mpPointerSize]) != 0 {
			t.Errorf("%d CPUs: the bytes do not sum up to 0", cpus)
		}
		// processors, a bus, an I/O APIC, its pins and two local lines
		if got := int(binary.LittleEndian.Uint16(config[34:])); got != cpus+1+1+ioAPICPins+2 {
			t.Errorf("%d CPUs: %d entries", cpus, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	le := binary.LittleEndian
	bz := make([]byte, 4096)
	copy(bz[bzImageMagic:], headerMagic)
	for _, tt := range []struct {
		name   string
		params Params
		cause  error
		say    string
	}{
		{name: "no kernel", params: Params{CPUs: 1}, cause: ErrKernel, say: "not an ELF"},
		{name: "bzImage", params: Params{CPUs: 1, Kernel: bz}, cause: ErrKernel, say: "extract-vmlinux"},
		{name: "no CPU", params: Params{Kernel: kernelFile(nil)}, say: "0 vCPUs"},
		{name: "too many CPUs", params: Params{CPUs: 33, Kernel: kernelFile(nil)}, say: "33 vCPUs"},
		{name: "long command line", params: Params{CPUs: 1, Kernel: kernelFile(nil), Cmdline: strings.Repeat("x", 2048)}, say: "command line"},
		{name: "big RAM disk", params: Params{CPUs: 1, Kernel: kernelFile(nil), Initrd: make([]byte, 60<<20)}, cause: ErrMemory},
		{name: "32-bit", params: Params{CPUs: 1, Kernel: kernelFile(func(h, _ []byte) { h[4] = 1 })}, cause: ErrKernel, say: "64-bit"},
		{name: "object file", params: Params{CPUs: 1, Kernel: kernelFile(func(h, _ []byte) { h[16] = 1 })}, cause: ErrKernel},
		{name: "headers outside", params: Params{CPUs: 1, Kernel: kernelFile(func(h, _ []byte) { le.PutUint64(h[32:], 1<<63) })}, cause: ErrKernel},
		{name: "no headers", params: Params{CPUs: 1, Kernel: kernelFile(func(h, _ []byte) { le.PutUint16(h[56:], 0) })}, cause: ErrKernel},
		{name: "segment outside the file", params: Params{CPUs: 1, Kernel: kernelFile(func(_, p []byte) { le.PutUint64(p[32:], 1<<40) })}, cause: ErrKernel},
		{name: "file bytes beyond memory size", params: Params{CPUs: 1, Kernel: kernelFile(func(_, p []byte) { le.PutUint64(p[40:], 3) })}, cause: ErrKernel},
		{name: "segment over the boot data", params: Params{CPUs: 1, Kernel: kernelFile(func(_, p []byte) { le.PutUint64(p[24:], 0x7000) })}, cause: ErrKernel, say: "1 MiB"},
		{name: "segment beyond RAM", params: Params{CPUs: 1, Kernel: kernelFile(func(_, p []byte) { le.PutUint64(p[40:], 1<<63) })}, cause: ErrMemory},
		{name: "entry in no segment", params: Params{CPUs: 1, Kernel: kernelFile(func(h, _ []byte) { le.PutUint64(h[24:], 5) })}, cause: ErrKernel, say: "entry point"},
	} {
		_, err := Load(newMemory(t, MinMemory), tt.params)
		if err == nil || (tt.cause != nil && !errors.Is(err, tt.cause)) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := Load(newMemory(t, MinMemory/2), Params{CPUs: 1, Kernel: kernelFile(nil)}); !errors.Is(err, ErrMemory) {
		t.Errorf("32 MiB: %v", err)
	}
}

// FuzzELF loads arbitrary kernel files: an error or a layout within RAM.
func FuzzELF(f *testing.F) {
	f.Add(kernelFile(nil))
	f.Add([]byte(elfMagic))
	mem := newMemory(f, MinMemory)
	f.Fuzz(func(t *testing.T, file []byte) {
		k, err := loadELF(mem, file)
		if err == nil && (k.end > mem.Size() || k.entry >= k.end) {
			t.Errorf("%+v", k)
		}
	})
}
