// Package vmm assembles one virtual machine and runs it to its end: the body
// of the hidden command `agentkernel vmm`, one process a sandbox.
//
// The process gets everything it needs as open descriptors (the FD… constants)
// from the process that started it, and opens nothing itself: no path, no
// outgoing connection, no program. It carries bytes between the sandbox's
// socket and the guest's vsock and knows nothing of what they mean.
//
// # Threads and owners
//
//	vCPU threads    one each, locked; the only users of their vCPU
//	device loops    one a device; own the device's rings
//	status reader   reads what guest init announces on its status connection
//	control server  the host's "stop" and "wait"
//
// Whoever learns first why the machine ends calls machine.end, once; the vCPUs
// are kicked out of the guest, the reason is written to the exit file, the
// lock is released, and the process exits. What the kernel still has to free
// then holds nobody up.
package vmm

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/host/boot"
	"github.com/agentkernel/agentkernel/images"
)

// Descriptors that the process starts with, beside 0 and 1 (/dev/null) and 2
// (its own log).
const (
	FDKVM     = 3  // /dev/kvm
	FDVsock   = 4  // listening unix socket: the hybrid vsock handshake
	FDControl = 5  // listening unix socket: the control protocol
	FDStatus  = 6  // pipe: one line, "ready" or "error <sentence>"
	FDLock    = 7  // the sandbox's lock, held; released at the very end
	FDConsole = 8  // the guest's log, read and write
	FDExit    = 9  // one line at the end: "<kind>\t<sentence>"
	FDKernel  = 10 // a vmlinux, or /dev/null for the embedded one

	// NumFDs is the number of descriptors from FDKVM on.
	NumFDs = 8
)

// Command is the hidden command's name, the first argument.
const Command = "vmm"

type config struct {
	name      string
	cpus      int
	memoryMiB uint64
}

// Args returns the arguments after the program's name for a sandbox.
func Args(name string, cpus int, memoryMiB uint64) []string {
	return []string{Command, "--name", name, "--cpus", fmt.Sprint(cpus), "--memory", fmt.Sprint(memoryMiB)}
}

func parse(args []string) (config, error) {
	var c config
	flags := flag.NewFlagSet(Command, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error is returned
	flags.StringVar(&c.name, "name", "", "host name of the guest")
	flags.IntVar(&c.cpus, "cpus", 1, "number of vCPUs")
	flags.Uint64Var(&c.memoryMiB, "memory", 512, "RAM in MiB")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if flags.NArg() > 0 || c.name == "" {
		return c, fmt.Errorf("agentkernel %s is started by `agentkernel start`, not by hand", Command)
	}
	if c.memoryMiB > maxMemoryMiB || c.memoryMiB < boot.MinMemory>>20 {
		return c, fmt.Errorf("--memory %d: want %d to %d MiB", c.memoryMiB, boot.MinMemory>>20, maxMemoryMiB)
	}
	return c, nil
}

const maxMemoryMiB = 64 << 10

// Main is the hidden command: it runs the machine that args and the inherited
// descriptors describe and returns the process's exit code. args are those
// after the command's name.
func Main(args []string) int {
	c, err := parse(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	tuneRuntime(c.cpus)
	for fd := FDKVM; fd < FDKVM+NumFDs; fd++ {
		unix.CloseOnExec(fd)
	}
	report := newReporter(FDStatus, FDExit)
	m, err := newMachine(c, report)
	if err != nil {
		report.end(Reason{Kind: KindVMMError, Text: err.Error()})
		return 1
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, unix.SIGTERM)
	go func() {
		<-terminated
		m.end(Reason{Kind: KindStopped, Text: "its VMM got SIGTERM"})
	}()
	m.run()
	return 0
}

// tuneRuntime keeps the Go runtime small and out of the guest's way: a
// processor for every vCPU and device thread, so that a thread that comes back
// from the guest or from a page fault in guest memory never waits for one, and
// a heap that is bounded.
func tuneRuntime(cpus int) {
	runtime.GOMAXPROCS(cpus + 3)
	debug.SetMemoryLimit(32 << 20)
}

// kernelImage returns the kernel to boot, and a function that gives back the
// memory it was read from.
func kernelImage() (image []byte, release func(), err error) {
	var st unix.Stat_t
	if err := unix.Fstat(FDKernel, &st); err != nil {
		return nil, nil, fmt.Errorf("kernel file: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		image, err := images.Kernel()
		return image, func() { dropPages(image) }, err
	}
	if st.Size == 0 || st.Size > maxKernel {
		return nil, nil, fmt.Errorf("%w: a file of %d bytes", boot.ErrKernel, st.Size)
	}
	image = make([]byte, st.Size)
	if n, err := unix.Pread(FDKernel, image, 0); err != nil || n < len(image) {
		return nil, nil, fmt.Errorf("read the kernel: %d of %d bytes: %w", n, len(image), err)
	}
	return image, func() {}, nil
}

// maxKernel bounds the size of a kernel file in bytes.
const maxKernel = 512 << 20

// dropPages lets go of the file pages behind an embedded image that has been
// copied to guest memory: they stay in the page cache, not in this process.
func dropPages(image []byte) {
	if inner := wholePages(image); len(inner) > 0 {
		_ = unix.Madvise(inner, unix.MADV_DONTNEED) // only a hint
	}
}
