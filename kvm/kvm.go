// Package kvm is a typed face of Linux's KVM API, one method an ioctl.
//
// It holds no policy: it starts no goroutine, logs nothing and never retries
// KVM_RUN. Names follow the kernel's Documentation/virt/kvm/api.rst, whose
// section is named beside each method ("api.rst 4.35"). Structures and numbers
// are checked against a table made from the kernel's headers
// (testdata/abi.golden).
//
// A [System] makes a [VM], a VM makes a [VCPU]. KVM ties a VM to the process
// that made it and wants a vCPU's ioctls from the thread that runs it
// (api.rst 1); closing is the caller's duty, in the reverse order.
package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// DevicePath is the character device through which all of KVM is reached.
const DevicePath = "/dev/kvm"

// apiVersion is the only version there is; api.rst 4.1 tells applications to
// refuse any other.
const apiVersion = 12

var (
	// ErrNoDevice says that the host has no /dev/kvm: the kvm module and
	// its kvm_intel or kvm_amd are not loaded, or the CPU has no
	// virtualization that the host may use.
	ErrNoDevice = errors.New("no " + DevicePath + " on this host")

	// ErrPermission says that /dev/kvm is there, and the user may not use it.
	ErrPermission = errors.New("no permission to use " + DevicePath)

	// ErrNotReady says that /dev/kvm is there, and no module serves it.
	ErrNotReady = errors.New(DevicePath + " is there but the KVM module behind it is not loaded")

	// ErrUnsupported says that the host's KVM lacks something needed.
	ErrUnsupported = errors.New("the host's KVM is too old or incomplete")
)

// System is an open /dev/kvm.
type System struct{ fd int }

// OpenDevice opens /dev/kvm. Its error wraps [ErrNoDevice], [ErrPermission]
// or [ErrNotReady] where that is the cause.
func OpenDevice() (*os.File, error) {
	f, err := os.OpenFile(DevicePath, os.O_RDWR, 0)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNoDevice
	case errors.Is(err, fs.ErrPermission):
		return nil, ErrPermission
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, ErrNotReady
	}
	return nil, err
}

// NewSystem takes over fd, an open /dev/kvm, and checks its API version and
// that it has every capability in want. The error names all that are missing.
func NewSystem(fd int, want ...Cap) (*System, error) {
	s := &System{fd: fd}
	version, err := ioctl(fd, getAPIVersion, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for the KVM API version: %w", err)
	}
	if version != apiVersion {
		return nil, fmt.Errorf("%w: API version %d, want %d", ErrUnsupported, version, apiVersion)
	}
	var missing []Cap
	for _, c := range want {
		if n, err := s.CheckExtension(c); err != nil || n == 0 {
			missing = append(missing, c)
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("%w: missing %v", ErrUnsupported, missing)
	}
	return s, nil
}

// Close closes /dev/kvm. Virtual machines made from it live on.
func (s *System) Close() error { return unix.Close(s.fd) }

// CheckExtension returns KVM's answer for a capability: 0 where it lacks it,
// else 1 or a number that the capability's text explains (api.rst 4.4).
func (s *System) CheckExtension(c Cap) (int, error) { return checkExtension(s.fd, c) }

// CreateVM makes a virtual machine without memory or vCPUs (api.rst 4.2).
func (s *System) CreateVM() (*VM, error) {
	fd, err := ioctl(s.fd, createVM, 0)
	if err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VM: %w", err)
	}
	return &VM{fd: fd}, nil
}

// VCPUMmapSize returns the length in bytes of a vCPU's shared run page
// (api.rst 4.5).
func (s *System) VCPUMmapSize() (int, error) {
	n, err := ioctl(s.fd, getVCPUMmapSize, 0)
	if err != nil {
		return 0, fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %w", err)
	}
	if n < runMinSize {
		return 0, fmt.Errorf("%w: a run page of %d bytes", ErrUnsupported, n)
	}
	return n, nil
}

func checkExtension(fd int, c Cap) (int, error) {
	n, err := ioctl(fd, checkExtensionNr, uintptr(c))
	if err != nil {
		return 0, fmt.Errorf("KVM_CHECK_EXTENSION %v: %w", c, err)
	}
	return n, nil
}
