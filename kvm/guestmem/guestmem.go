// Package guestmem owns a guest's RAM and is the only way to touch it.
//
// Every access names a guest-physical address and a length, and both are
// checked: the guest chooses them, so they are hostile. The memory lies
// outside the Go heap (an anonymous, unreserved mapping), so the garbage
// collector neither scans nor moves it and untouched pages cost nothing.
//
// # Layout
//
// RAM starts at guest-physical 0. What does not fit below [GapStart] goes on
// at [GapEnd] (4 GiB): the gap holds the virtio-mmio windows, the I/O APIC,
// the local APICs and the pages that KVM on Intel asks for.
package guestmem

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// PageSize is the granularity of guest memory, in bytes.
	PageSize = 4096

	// GapStart is the guest-physical address of the first byte that is
	// never RAM below 4 GiB.
	GapStart = 0xd000_0000

	// GapEnd is the guest-physical address at which RAM goes on.
	GapEnd = 1 << 32

	// hugePage is what host and guest-physical addresses are congruent to:
	// only then can KVM map the host's transparent huge pages as such, which
	// saves the guest most of its second-level page faults.
	hugePage = 2 << 20

	// MaxSize bounds a guest's RAM, in bytes.
	MaxSize = 64 << 30
)

var (
	// ErrRange is returned for an access that is not wholly inside one
	// region of RAM.
	ErrRange = errors.New("guestmem: address range is not RAM")

	// ErrAlign is returned for an atomic access at an address that is not
	// a multiple of its size.
	ErrAlign = errors.New("guestmem: misaligned atomic access")
)

// Region is one run of RAM that is contiguous in guest-physical and in host
// virtual address space: one KVM memory slot.
type Region struct {
	Start uint64 // guest-physical address of the first byte
	bytes []byte // the host mapping
}

// Size returns the length of the region in bytes.
func (r *Region) Size() uint64 { return uint64(len(r.bytes)) }

// Memory is the RAM of one guest. Its methods may be called from any
// goroutine; [Memory.Close] may not race with them.
type Memory struct {
	regions []Region
	size    uint64
	mapping []byte // RAM and the slack in front of and behind it
}

// New maps size bytes of zeroed RAM. size is a multiple of [PageSize], at
// least one page and at most [MaxSize]. No host memory is reserved for it.
func New(size uint64) (*Memory, error) {
	if size == 0 || size > MaxSize || size%PageSize != 0 {
		return nil, fmt.Errorf("guestmem: %d bytes of RAM: want a multiple of %d up to %d", size, PageSize, uint64(MaxSize))
	}
	mapping, err := unix.Mmap(-1, 0, int(size+hugePage), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("guestmem: map %d bytes of RAM: %w", size, err)
	}
	// A core file must not hold what the guest's programs keep in memory. (It
	// also keeps the kernel from merging the mapping with a neighbour.)
	if err := unix.Madvise(mapping, unix.MADV_DONTDUMP); err != nil {
		return nil, errors.Join(fmt.Errorf("guestmem: madvise: %w", err), unix.Munmap(mapping))
	}
	ram := mapping[misalignment(mapping):][:size]
	low := min(size, GapStart)
	regions := []Region{{Start: 0, bytes: ram[:low:low]}}
	if size > low {
		regions = append(regions, Region{Start: GapEnd, bytes: ram[low:size:size]})
	}
	return &Memory{regions: regions, size: size, mapping: mapping}, nil
}

// Close unmaps the RAM. The VM must be gone, and every device reset.
func (m *Memory) Close() error {
	mapping := m.mapping
	m.mapping, m.regions = nil, nil
	return unix.Munmap(mapping)
}

// Size returns the amount of RAM in bytes.
func (m *Memory) Size() uint64 { return m.size }

// Regions returns the runs of RAM in ascending order of address. The caller
// must not change the slice.
func (m *Memory) Regions() []Region { return m.regions }

// Bytes returns a live view of n bytes at gpa, for a system call or a copy.
// The guest may change them at any moment, so check a copy, not the view. The
// view must not outlive the call that asked for it. It returns [ErrRange]
// unless the range is inside one region.
func (m *Memory) Bytes(gpa, n uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		off := gpa - r.Start // wraps where gpa < Start; then off >= len
		size := uint64(len(r.bytes))
		if off < size && n <= size-off {
			return r.bytes[off : off+n : off+n], nil
		}
	}
	return nil, ErrRange
}

// ReadAt copies len(p) bytes at gpa into p. It returns [ErrRange] and copies
// nothing unless the range is inside one region.
func (m *Memory) ReadAt(p []byte, gpa uint64) error {
	b, err := m.Bytes(gpa, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(p, b)
	return nil
}

// WriteAt copies p into guest memory at gpa. It returns [ErrRange] and copies
// nothing unless the range is inside one region.
func (m *Memory) WriteAt(p []byte, gpa uint64) error {
	b, err := m.Bytes(gpa, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(b, p)
	return nil
}
