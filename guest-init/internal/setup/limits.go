package setup

import (
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
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

// Fork wraps a fork so that the child starts with the soft limit and the
// scheduling that programs expect: select(2) ends at 1024, and some programs
// close every descriptor up to the limit. A child inherits both, so they are
// this thread's and process's for the while. highest is a descriptor that was
// opened just now, and with that about the number of open ones. Where that is
// too high for the soft limit, the child gets the hard one.
func Fork(highest int, fork func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	setPolicy(0, unix.SCHED_NORMAL)
	defer setPolicy(0, unix.SCHED_BATCH)
	if highest > softFiles-spareFiles || setFiles(softFiles) != nil {
		fork()
		return
	}
	defer setFiles(hardFiles)
	fork()
}

// yieldToUsers gives this process's threads, and those that they make, the batch
// policy: waking up, they do not interrupt the process that woke them. A command
// that writes little by little is otherwise interrupted at every write, on a
// guest of one processor, and its output goes out in as many frames.
func yieldToUsers() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := setPolicy(tid, unix.SCHED_BATCH); err != nil {
			return err
		}
	}
	return nil
}

// setPolicy sets the scheduling policy of a thread, 0 for the calling one.
func setPolicy(tid int, policy uint32) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}
	return os.NewSyscallError("sched_setattr", unix.SchedSetAttr(tid, &attr, 0))
}
