package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/term"

	"github.com/agentkernel/agentkernel/tests/lab"
)

// codeLab is the exit code for what is the lab's fault and not the command's.
const codeLab = 125

const usage = `Usage: lab [option…] -- COMMAND [ARGUMENT…]

Boots an emulated host with a real /dev/kvm and runs COMMAND there as root. Its
input, output and exit code are this program's; 125 means that the lab failed.

`

// run is the program but for the process exit; it returns the exit code.
func run(args []string) int {
	o, console, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return fail(err)
	}
	if console != "" {
		f, err := os.Create(console)
		if err != nil {
			return fail(err)
		}
		defer f.Close()
		o.Console = f
	}
	o.Stdin, o.Stdout, o.Stderr, o.Log = os.Stdin, os.Stdout, os.Stderr, os.Stderr
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	watch := watchSignals(o.TTY, cancel)
	defer watch.stop()
	o.Signals, o.Resizes = watch.signals, watch.resizes
	restore := func() {}
	if o.TTY {
		if restore, err = useTerminal(o); err != nil {
			return fail(err)
		}
	}
	code, err := lab.Run(ctx, *o)
	restore()
	var killed killedError
	if errors.As(err, &killed) {
		return 128 + int(killed)
	}
	if err != nil {
		return fail(err)
	}
	return code
}

func fail(err error) int {
	fmt.Fprintf(os.Stderr, "lab: %v\n", err)
	return codeLab
}

// parse reads the command line; console is the file for the kernel log.
func parse(args []string) (o *lab.Options, console string, err error) {
	o = &lab.Options{}
	set := flag.NewFlagSet("lab", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.BoolVar(&o.Intel, "intel", false, "emulate an Intel host (Bochs) and not an AMD one (QEMU)")
	set.BoolVar(&o.Clock, "clock", false, "let the host's clock count instructions (AMD only)")
	set.BoolVar(&o.TTY, "tty", false, "give the command a terminal")
	set.BoolVar(&o.Appliance, "appliance", false, "read-only root, no program but agentkernel, a tmpfs at /run")
	set.StringVar(&o.Add, "add", "", "copy the folder `DIR` to /mnt in the host")
	set.StringVar(&o.Binary, "binary", "", "the `file` to be /usr/bin/agentkernel (default: agentkernel beside this program)")
	set.IntVar(&o.MemoryMiB, "memory", 0, "the host's memory in `MiB` (default 2048; Intel 1024)")
	set.IntVar(&o.CPUs, "cpus", 1, "the host's processors; with more than 1 a guest of several can stall")
	set.DurationVar(&o.Timeout, "timeout", 0, "end the lab after this `time` (default 10m; Intel 30m)")
	set.StringVar(&console, "console", "", "write the host's kernel log to this `file`")
	set.Func("env", "set `KEY=VALUE` for the command (may be repeated)", func(kv string) error {
		o.Env = append(o.Env, kv)
		return nil
	})
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Print(usage)
			set.SetOutput(os.Stdout)
			set.PrintDefaults()
			return nil, "", err
		}
		return nil, "", fmt.Errorf("%w; see lab --help", err)
	}
	o.Args = set.Args()
	return o, console, complete(o)
}

// complete checks the options and fills in the defaults.
func complete(o *lab.Options) error {
	switch {
	case len(o.Args) == 0:
		return errors.New("no command; see lab --help")
	case o.Intel && o.Clock:
		return errors.New("--clock works on the AMD host only")
	case o.Intel && o.CPUs != 1:
		return errors.New("the Intel host has one processor")
	case o.CPUs < 1 || o.MemoryMiB < 0 || o.Timeout < 0:
		return errors.New("--cpus, --memory and --timeout want a positive number")
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 2048
		if o.Intel {
			o.MemoryMiB = 1024
		}
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Minute
		if o.Intel {
			o.Timeout = 30 * time.Minute
		}
	}
	if o.Binary == "" {
		o.Binary = besideSelf()
	}
	return nil
}

// besideSelf returns the agentkernel in this program's folder, "" if there is none.
func besideSelf() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	path := filepath.Join(filepath.Dir(self), "agentkernel")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// useTerminal takes the caller's terminal, if there is one, for the command's:
// its size and kind, and its keys unchanged.
func useTerminal(o *lab.Options) (restore func(), err error) {
	o.Rows, o.Cols = 24, 80
	if kind := os.Getenv("TERM"); kind != "" {
		o.Env = append([]string{"TERM=" + kind}, o.Env...)
	}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return func() {}, nil
	}
	if rows, cols, ok := terminalSize(); ok {
		o.Rows, o.Cols = rows, cols
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set the terminal raw: %w", err)
	}
	return func() { term.Restore(fd, state) }, nil
}

func terminalSize() (rows, cols uint16, ok bool) {
	w, h, err := term.GetSize(int(os.Stdin.Fd()))
	if err != nil || w <= 0 || h <= 0 || w > 65535 || h > 65535 {
		return 0, 0, false
	}
	return uint16(h), uint16(w), true
}
