package guestmem

import (
	"sync/atomic"
	"unsafe"
)

// Loads and stores below are single instructions on amd64, whose memory order
// (TSO) keeps loads with loads and stores with stores. What it does not keep
// is a store before a later load: that needs [Fence].

// HostAddr returns the host virtual address of the region's first byte, as
// KVM_SET_USER_MEMORY_REGION wants it.
func (r *Region) HostAddr() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(r.bytes))) }

// misalignment returns how many bytes of mapping lie before the first multiple
// of hugePage.
func misalignment(mapping []byte) uint64 {
	return -uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mapping)))) % hugePage
}

func (m *Memory) word(gpa, size uint64) (unsafe.Pointer, error) {
	if gpa%size != 0 {
		return nil, ErrAlign
	}
	b, err := m.Bytes(gpa, size)
	if err != nil {
		return nil, err
	}
	return unsafe.Pointer(unsafe.SliceData(b)), nil
}

// LoadUint16 atomically reads the 16 bits at gpa, a multiple of 2.
func (m *Memory) LoadUint16(gpa uint64) (uint16, error) {
	p, err := m.word(gpa, 2)
	if err != nil {
		return 0, err
	}
	return LoadUint16((*uint16)(p)), nil
}

// LoadUint32 atomically reads the 32 bits at gpa, a multiple of 4.
func (m *Memory) LoadUint32(gpa uint64) (uint32, error) {
	p, err := m.word(gpa, 4)
	if err != nil {
		return 0, err
	}
	return atomic.LoadUint32((*uint32)(p)), nil
}

// LoadUint64 atomically reads the 64 bits at gpa, a multiple of 8.
func (m *Memory) LoadUint64(gpa uint64) (uint64, error) {
	p, err := m.word(gpa, 8)
	if err != nil {
		return 0, err
	}
	return atomic.LoadUint64((*uint64)(p)), nil
}

// StoreUint16 atomically writes the 16 bits at gpa, a multiple of 2.
func (m *Memory) StoreUint16(gpa uint64, v uint16) error {
	p, err := m.word(gpa, 2)
	if err != nil {
		return err
	}
	StoreUint16((*uint16)(p), v)
	return nil
}

// StoreUint32 atomically writes the 32 bits at gpa, a multiple of 4.
func (m *Memory) StoreUint32(gpa uint64, v uint32) error {
	p, err := m.word(gpa, 4)
	if err != nil {
		return err
	}
	atomic.StoreUint32((*uint32)(p), v)
	return nil
}

// StoreUint64 atomically writes the 64 bits at gpa, a multiple of 8.
func (m *Memory) StoreUint64(gpa uint64, v uint64) error {
	p, err := m.word(gpa, 8)
	if err != nil {
		return err
	}
	atomic.StoreUint64((*uint64)(p), v)
	return nil
}

// LoadUint16 reads *p in one instruction. Go has no 16-bit atomics; the call
// that is never inlined keeps the compiler from merging, splitting or moving
// the access, and amd64 makes an aligned one atomic.
//
//go:noinline
func LoadUint16(p *uint16) uint16 { return *p }

// StoreUint16 writes *p in one instruction, under the terms of [LoadUint16].
//
//go:noinline
func StoreUint16(p *uint16, v uint16) { *p = v }

// Fence orders every memory access before it against every one after it
// (a locked instruction, which amd64 treats as a full barrier).
func Fence() {
	var word uint32
	atomic.AddUint32(&word, 1)
}
