package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

// ErrKernel is wrapped by every error that the kernel file itself causes.
var ErrKernel = errors.New("unusable kernel")

// The parts of ELF64 (System V ABI, chapters 4 and 5) that a kernel needs.
const (
	elfMagic      = "\x7fELF"
	elfClass64    = 2
	elfLittle     = 1
	elfTypeExec   = 2
	elfTypeDyn    = 3
	elfX8664      = 62
	elfHeaderSize = 64
	elfPhdrSize   = 56
	elfLoad       = 1
	elfMaxPhdrs   = 64

	bzImageMagic = 0x202 // where a compressed kernel has headerMagic
)

type loadedKernel struct {
	entry uint64 // guest-physical
	end   uint64 // first guest-physical address after the kernel and its bss
}

// loadELF copies the kernel's loadable segments to their physical addresses.
func loadELF(mem *guestmem.Memory, file []byte) (loadedKernel, error) {
	phdrs, entry, err := elfHeader(file)
	if err != nil {
		return loadedKernel{}, err
	}
	k := loadedKernel{entry: entry}
	entryMapped := false
	for i := range len(phdrs) / elfPhdrSize {
		seg := parsePhdr(phdrs[i*elfPhdrSize:])
		if seg.kind != elfLoad || seg.memSize == 0 {
			continue
		}
		if err := seg.load(mem, file); err != nil {
			return k, fmt.Errorf("%w: segment %d: %w", ErrKernel, i, err)
		}
		k.end = max(k.end, seg.addr+seg.memSize)
		entryMapped = entryMapped || entry >= seg.addr && entry-seg.addr < seg.fileSize
	}
	if !entryMapped {
		return k, fmt.Errorf("%w: its entry point %#x is in no segment", ErrKernel, entry)
	}
	return k, nil
}

// elfHeader checks the file's header and returns its program header table.
func elfHeader(file []byte) (phdrs []byte, entry uint64, err error) {
	bad := func(format string, args ...any) ([]byte, uint64, error) {
		return nil, 0, fmt.Errorf("%w: %s", ErrKernel, fmt.Sprintf(format, args...))
	}
	if len(file) >= elfHeaderSize && !bytes.HasPrefix(file, []byte(elfMagic)) &&
		len(file) > bzImageMagic+len(headerMagic) && string(file[bzImageMagic:bzImageMagic+len(headerMagic)]) == headerMagic {
		return bad("it is a compressed bzImage; give the uncompressed vmlinux (scripts/extract-vmlinux of the kernel's source makes one)")
	}
	if len(file) < elfHeaderSize || !bytes.HasPrefix(file, []byte(elfMagic)) {
		return bad("not an ELF file (want an uncompressed vmlinux)")
	}
	le := binary.LittleEndian
	if file[4] != elfClass64 || file[5] != elfLittle || le.Uint16(file[18:]) != elfX8664 {
		return bad("not for 64-bit x86")
	}
	if kind := le.Uint16(file[16:]); kind != elfTypeExec && kind != elfTypeDyn {
		return bad("ELF type %d is not an executable", kind)
	}
	entry = le.Uint64(file[24:])
	off, size, count := le.Uint64(file[32:]), le.Uint16(file[54:]), uint64(le.Uint16(file[56:]))
	if size != elfPhdrSize || count == 0 || count > elfMaxPhdrs {
		return bad("%d program headers of %d bytes", count, size)
	}
	if n := uint64(len(file)); off > n || count*elfPhdrSize > n-off {
		return bad("the program headers are outside the file")
	}
	return file[off : off+count*elfPhdrSize], entry, nil
}

type segment struct {
	kind                            uint32
	offset, addr, fileSize, memSize uint64
}

func parsePhdr(b []byte) segment {
	le := binary.LittleEndian
	return segment{
		kind: le.Uint32(b), offset: le.Uint64(b[8:]), addr: le.Uint64(b[24:]),
		fileSize: le.Uint64(b[32:]), memSize: le.Uint64(b[40:]),
	}
}

// load copies the segment; the part beyond fileSize is bss, and guest memory
// is zero already.
func (s segment) load(mem *guestmem.Memory, file []byte) error {
	if n := uint64(len(file)); s.offset > n || s.fileSize > n-s.offset || s.fileSize > s.memSize {
		return errors.New("outside the file")
	}
	if s.addr < kernelMin {
		return fmt.Errorf("wants address %#x, below 1 MiB", s.addr)
	}
	if low := mem.Regions()[0].Size(); s.addr > low || s.memSize > low-s.addr {
		return fmt.Errorf("%w: wants %d bytes at %#x", ErrMemory, s.memSize, s.addr)
	}
	return mem.WriteAt(file[s.offset:s.offset+s.fileSize], s.addr)
}
