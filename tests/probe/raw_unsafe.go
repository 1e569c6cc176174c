package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is outside Go's heap, so that its addresses stay as they are.
type memory struct{ bytes []byte }

func newMemory(size int) (memory, error) {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	return memory{b}, err
}

func (m memory) address() uintptr { return uintptr(unsafe.Pointer(&m.bytes[0])) }

func (m memory) free() { unix.Munmap(m.bytes) }

// raw makes a system call. A string, with a NUL behind it, and bytes are passed
// by address; bytes come back as the kernel has changed them.
func raw(number uintptr, args ...any) (int, error) {
	var words [6]uintptr
	for i, a := range args {
		switch a := a.(type) {
		case int:
			words[i] = uintptr(a)
		case string:
			m, err := newMemory(len(a) + 1)
			if err != nil {
				return 0, err
			}
			defer m.free()
			copy(m.bytes, a)
			words[i] = m.address()
		case []byte:
			m, err := newMemory(len(a))
			if err != nil {
				return 0, err
			}
			defer m.free()
			copy(m.bytes, a)
			defer func() { copy(a, m.bytes) }()
			words[i] = m.address()
		case memory:
			words[i] = a.address()
		default:
			panic("an argument of another type")
		}
	}
	r, _, errno := unix.Syscall6(number, words[0], words[1], words[2], words[3], words[4], words[5])
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}
