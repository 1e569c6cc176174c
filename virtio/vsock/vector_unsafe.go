package vsock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxSegments bounds one scatter-gather list. A longer chain is moved in
// several system calls. At most IOV_MAX (1024).
const maxSegments = 256

// vector is a scatter-gather list for one system call. It is reused, so that
// moving data allocates nothing. It holds views of guest memory only between
// add and clear, never while the device's mutex is free.
type vector struct {
	iov   [maxSegments]unix.Iovec
	first int // segments before it are done
	n     int // segments in use, first included
	msg   unix.Msghdr
}

// clear empties the list and drops every pointer in it.
func (v *vector) clear() {
	clear(v.iov[:v.n])
	v.first, v.n = 0, 0
}

// add appends p and tells whether there was room for it.
func (v *vector) add(p []byte) bool {
	if v.n == maxSegments {
		return false
	}
	if len(p) != 0 {
		v.iov[v.n] = unix.Iovec{Base: unsafe.SliceData(p), Len: uint64(len(p))}
		v.n++
	}
	return true
}

// len returns the number of bytes left in the list.
func (v *vector) len() int {
	total := 0
	for _, s := range v.iov[v.first:v.n] {
		total += int(s.Len)
	}
	return total
}

// next returns the first segment that is left; nil at the end.
func (v *vector) next() []byte {
	if v.first == v.n {
		return nil
	}
	s := &v.iov[v.first]
	return unsafe.Slice(s.Base, int(s.Len))
}

// advance drops the first n bytes of the list, n at most len.
func (v *vector) advance(n int) {
	for n > 0 {
		s := v.next()
		if n < len(s) {
			v.iov[v.first] = unix.Iovec{Base: unsafe.SliceData(s[n:]), Len: uint64(len(s) - n)}
			return
		}
		n -= len(s)
		v.first++
	}
}

// send writes the list to a socket and returns how much the socket took. It
// never blocks (EAGAIN instead) and raises no SIGPIPE (EPIPE instead).
func (v *vector) send(fd int) (int, error) {
	return v.call(unix.SYS_SENDMSG, fd, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// receive fills the list from a socket, as far as there is data. It never
// blocks; 0 is the end of the stream.
func (v *vector) receive(fd int) (int, error) {
	return v.call(unix.SYS_RECVMSG, fd, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
}

func (v *vector) call(trap uintptr, fd int, flags uintptr) (int, error) {
	// No room for control data: descriptors that a peer sends along are
	// closed by the kernel.
	v.msg = unix.Msghdr{Iov: &v.iov[v.first], Iovlen: uint64(v.n - v.first)}
	for {
		n, _, errno := unix.Syscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&v.msg)), flags)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return 0, errno
		}
	}
}
