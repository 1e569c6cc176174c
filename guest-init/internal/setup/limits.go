package setup

import (
	"os"
	"syscall"
)

// Limits of open files: what a command starts with, and what it may raise it to.
const (
	softFiles = 1024
	hardFiles = 512 << 10
)

// raiseLimits lets PID 1 have as many open files as it likes. Setting the limit
// also ends the Go runtime's habit of restoring the kernel's (1024:4096) in
// every child.
func raiseLimits() error {
	return os.NewSyscallError("setrlimit", setFiles(hardFiles))
}

func setFiles(soft uint64) error {
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: soft, Max: hardFiles})
}

// spareFiles is how many more files PID 1 may open while the limit is lowered.
const spareFiles = 128

// Fork wraps a fork so that the child starts with the soft limit that programs
// expect: select(2) ends at 1024, and some programs close every descriptor up to
// it. A child inherits the limit, so PID 1's own is lowered for the while.
// highest is a descriptor that was opened just now, and with that about the
// number of open ones. Where that is too high for the limit, the child gets the
// hard one.
func Fork(highest int, fork func()) {
	if highest > softFiles-spareFiles || setFiles(softFiles) != nil {
		fork()
		return
	}
	defer setFiles(hardFiles)
	fork()
}
