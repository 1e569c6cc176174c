package kvm

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl issues a request whose argument is a number. It asks again when a
// signal or the kernel's own state interrupted it (KVM_CREATE_VM may say
// EINTR, the timer calls EAGAIN); KVM_RUN is not issued through it.
func ioctl(fd int, nr, arg uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), nr, arg)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return 0, errno
		}
	}
}

// ioctlPtr issues a request whose argument is a structure, under the terms of
// [ioctl].
func ioctlPtr[T any](fd int, nr uintptr, arg *T) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), nr, uintptr(unsafe.Pointer(arg)))
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return 0, errno
		}
	}
}

// Run enters the guest until it needs the user-space half of the machine, or
// until a signal or [RunPage.SetImmediateExit] stops it, which is
// [unix.EINTR] (api.rst 4.10). It must be called on the thread that owns the
// vCPU. It goes through the Go scheduler's system-call gate: a thread inside
// the guest must not keep the garbage collector waiting.
func (c *VCPU) Run() error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), runNr, 0); errno != 0 {
		return errno
	}
	return nil
}

// SetImmediateExit sets or clears the flag that makes the next KVM_RUN return
// EINTR before it enters the guest. Any thread may set it.
//
// immediate_exit is one byte at offset 1; the aligned word around it holds
// request_interrupt_window (offset 0), which this program never uses, and
// padding.
func (p *RunPage) SetImmediateExit(on bool) {
	var v uint32
	if on {
		v = 1 << (8 * runImmediateExit)
	}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(p.page))), v)
}
