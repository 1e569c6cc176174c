//go:build embedded

package images

import (
	_ "embed"
	"unsafe"
)

// The artefacts are strings because the linker puts a string's bytes into the
// read-only segment: its pages stay backed by the binary's file, are shared by
// all processes that run it, and are never copied. A []byte would lie in the
// writable segment.
var (
	//go:embed build/vmlinux
	kernel string
	//go:embed build/initramfs.cpio
	initramfs string
)

// Kernel returns the guest kernel, an ELF file. The bytes are the program's own
// and read-only: writing to them faults.
func Kernel() ([]byte, error) { return view(kernel), nil }

// Initramfs returns the base file system as an uncompressed cpio archive. The
// bytes are the program's own and read-only: writing to them faults.
func Initramfs() ([]byte, error) { return view(initramfs), nil }

// view returns the bytes of s without copying them.
func view(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
