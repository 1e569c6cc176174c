// Package eventfd wraps eventfd(2): how a kick reaches a device's loop, from
// KVM (ioeventfd) or from a goroutine.
package eventfd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FD is a non-blocking, close-on-exec event counter. Signal may be called from
// any goroutine; Drain and Wait are for one, the device's loop.
type FD struct {
	fd    int
	file  *os.File // owns fd; registered with the Go poller
	count [8]byte  // what the loop read last; here, so that reading does not allocate
}

// New returns a counter at zero.
func New() (*FD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	return &FD{fd: fd, file: os.NewFile(uintptr(fd), "eventfd")}, nil
}

// FD returns the descriptor, for KVM_IOEVENTFD or epoll. It stays owned by f.
func (f *FD) FD() int { return f.fd }

// Signal adds one to the counter. It does not block: the counter would have
// to be 2^64 - 2. On a closed f it does nothing.
func (f *FD) Signal() {
	// Through the file, whose lock keeps a late Signal off a descriptor
	// number that was closed and given away again.
	_, _ = f.file.Write(one[:])
}

// one is the 8-byte integer 1 on a little-endian host. Never written.
var one = [8]byte{1}

// Drain sets the counter to zero and tells whether it was signalled.
func (f *FD) Drain() bool {
	for {
		n, err := unix.Read(f.fd, f.count[:])
		if !errors.Is(err, unix.EINTR) {
			return n == len(f.count)
		}
	}
}

// Wait blocks, without a thread, until the counter is signalled, and sets it
// to zero. It returns [os.ErrClosed] once f is closed.
func (f *FD) Wait() error {
	_, err := f.file.Read(f.count[:])
	return err
}

// Close ends Wait and closes the descriptor. Drain must not be called during
// or after it.
func (f *FD) Close() error { return f.file.Close() }
