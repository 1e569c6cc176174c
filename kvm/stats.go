package kvm

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Stats are a VM's or a vCPU's counters by KVM's own names ("exits",
// "mmio_exits", …): how often since the object was made (api.rst 4.133).
type Stats map[string]uint64

// StatsFile is an open view of a VM's or a vCPU's counters. Any thread may
// read it at any time, also while the vCPU is in the guest.
type StatsFile struct{ fd int }

// OpenStats opens the VM's counters.
func (v *VM) OpenStats() (*StatsFile, error) { return openStats(v.fd) }

// OpenStats opens the vCPU's counters. It must be called before the vCPU runs,
// or between runs: KVM keeps ioctls out while it is in the guest.
func (c *VCPU) OpenStats() (*StatsFile, error) { return openStats(c.fd) }

func openStats(fd int) (*StatsFile, error) {
	file, err := ioctl(fd, getStatsFD, 0)
	if err != nil {
		return nil, fmt.Errorf("KVM_GET_STATS_FD: %w", err)
	}
	return &StatsFile{fd: file}, nil
}

// Close closes the view.
func (f *StatsFile) Close() error { return unix.Close(f.fd) }

// Layout of the statistics file: struct kvm_stats_header, then descriptors of
// struct kvm_stats_desc each followed by its name, then the values.
const (
	statsHeaderSize = 24
	statsNameSize   = 4 // offsets in the header
	statsNumDesc    = 8
	statsDescOffset = 16
	statsDataOffset = 20

	statsDescSize  = 16
	statsDescValue = 8 // offset in a descriptor of its value's offset

	statsMaxSize = 1 << 20 // bytes of the whole file that are read
)

// Read returns the counters as they are now.
func (f *StatsFile) Read() (Stats, error) {
	var raw []byte
	for chunk := make([]byte, 4096); len(raw) < statsMaxSize; {
		n, err := unix.Pread(f.fd, chunk, int64(len(raw)))
		if err != nil {
			return nil, fmt.Errorf("read KVM statistics: %w", err)
		}
		if n == 0 {
			break
		}
		raw = append(raw, chunk[:n]...)
	}
	return parseStats(raw)
}

// parseStats decodes the statistics file, taking the first value of each
// counter that has several.
func parseStats(raw []byte) (Stats, error) {
	if len(raw) < statsHeaderSize {
		return nil, fmt.Errorf("KVM statistics: %d bytes, less than a header", len(raw))
	}
	field := func(off int) uint64 { return uint64(binary.LittleEndian.Uint32(raw[off:])) }
	nameSize, count := field(statsNameSize), field(statsNumDesc)
	descOff, dataOff := field(statsDescOffset), field(statsDataOffset)
	size := uint64(len(raw))
	if nameSize > statsMaxSize || count > statsMaxSize { // so that no product below overflows
		return nil, fmt.Errorf("KVM statistics: %d counters with names of %d bytes", count, nameSize)
	}
	stats := make(Stats)
	for i := range count {
		off := descOff + i*(statsDescSize+nameSize)
		if off+statsDescSize+nameSize > size {
			return nil, fmt.Errorf("KVM statistics: descriptor %d of %d is outside the file", i, count)
		}
		name, _, _ := bytes.Cut(raw[off+statsDescSize:off+statsDescSize+nameSize], []byte{0})
		value := dataOff + field(int(off)+statsDescValue)
		if value+8 > size {
			return nil, fmt.Errorf("KVM statistics: the value of %q is outside the file", name)
		}
		stats[string(name)] = binary.LittleEndian.Uint64(raw[value:])
	}
	return stats, nil
}
