package main

import (
	"math"

	"golang.org/x/sys/unix"
)

// closeOnExec keeps descriptors that we inherited and know nothing of from the
// VMM that we are about to start: it outlives us, and whoever waits for the end
// of such a pipe would wait for the sandbox. Kernels before 5.11 can't do it in
// one call; there the VMM inherits them, as any child would.
func closeOnExec() {
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}
