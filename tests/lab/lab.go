// Package lab gives tests a host with a real /dev/kvm on a machine that has
// none: it boots Debian's kernel in an emulator that has the processor's
// virtualization extension (QEMU's TCG for AMD's SVM, Bochs for Intel's VMX)
// and runs one command there.
//
// Words: the lab is the program on the development machine, L1 the emulated
// host, whose first process is this program too (package l1), L2 a guest that
// L1's /dev/kvm runs. Package proto is the protocol between lab and L1.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/agentkernel/agentkernel/tests/lab/l1"
	"github.com/agentkernel/agentkernel/tests/lab/proto"
)

// Options says what to run where.
type Options struct {
	Args []string // the command and its arguments; at least one
	Env  []string // KEY=VALUE, in addition to L1's own

	Intel     bool   // emulate an Intel host; otherwise an AMD one
	Clock     bool   // AMD: the clock counts instructions, 2 ns each
	Appliance bool   // read-only root with no program but Binary; the rest is off
	Binary    string // the program under test, /usr/bin/agentkernel in L1; "" for none
	Add       string // a folder to copy to /mnt; "" for none
	MemoryMiB int
	CPUs      int           // more than one CPU can stall an AMD L1 whose guest has several
	Timeout   time.Duration // from the start of the emulator

	TTY        bool // give the command a terminal of Rows × Cols
	Rows, Cols uint16

	Stdin          io.Reader // nil: empty
	Stdout, Stderr io.Writer
	Log            io.Writer        // sentences of the lab itself
	Console        io.Writer        // L1's kernel log; may be nil
	Signals        <-chan byte      // numbers of signals for the command; may be nil
	Resizes        <-chan [2]uint16 // rows and columns; may be nil
}

// ErrTimeout is wrapped by the error about a command that took too long.
var ErrTimeout = errors.New("time is up")

// Run boots L1, runs the command and returns its exit code, 128+N when signal N
// ended it. It returns when the emulator has ended. A read from Stdin may still
// be under way then, for Run has no means to interrupt it. Canceling ctx ends
// the emulator.
func Run(ctx context.Context, o Options) (int, error) {
	if len(o.Args) == 0 {
		return 0, errors.New("no command")
	}
	kernel, err := findKernel(o.Log)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout,
		fmt.Errorf("%w: the command did not end within %v (--timeout)", ErrTimeout, o.Timeout))
	defer cancel()
	console := newConsole(o.Console, l1.FatalPrefix, "Kernel panic")
	m, err := boot(kernel, &o, console)
	if err != nil {
		return 0, err
	}
	defer m.stop()
	code, err := newSession(m, console, &o).run(ctx)
	if err != nil {
		m.stop()
		return 0, fmt.Errorf("%w%s", err, m.report(console))
	}
	return code, nil
}

// boot starts the emulator.
func boot(kernel *hostKernel, o *Options, console *tail) (*machine, error) {
	kind, start := amd, startQEMU
	if o.Intel {
		kind, start = intel, startBochs
	}
	initramfs, err := initramfsFile(kernel, kind, o)
	if err != nil {
		return nil, err
	}
	defer initramfs.Close()
	return start(kernel, initramfs, o, console)
}

// kernelParameters are L1's, on either machine.
const kernelParameters = "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests rdinit=" + proto.InitPath
