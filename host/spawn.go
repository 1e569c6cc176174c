package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/host/store"
	"github.com/agentkernel/agentkernel/host/vmm"
)

// machine is a VMM that this process has just started.
type machine struct {
	name   string
	proc   *os.Process
	ended  <-chan struct{} // closed when the process is gone
	status *os.File        // its status pipe, the reading end
	exit   *os.File        // its exit file
}

// spawn starts the VMM of a held sandbox. Everything that can fail without it
// is done before: if spawn fails, the sandbox's status is what it was.
func (h *Host) spawn(held *store.Held, c Config) (*machine, error) {
	device, err := h.Device()
	if err != nil {
		return nil, err
	}
	defer device.Close()
	kernel, err := openKernel(c.Kernel)
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	files, err := held.Prepare()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("sandbox %q: %w", held.Name, err)
	}
	defer files.Close()
	m := &machine{name: held.Name, status: r}
	fds := []uintptr{
		0: null.Fd(), 1: null.Fd(), 2: files.Log.Fd(),
		vmm.FDKVM: device.Fd(), vmm.FDVsock: uintptr(files.Vsock), vmm.FDControl: uintptr(files.Control),
		vmm.FDStatus: w.Fd(), vmm.FDLock: uintptr(held.LockFD()), vmm.FDConsole: files.Console.Fd(),
		vmm.FDExit: files.Exit.Fd(), vmm.FDKernel: kernel.Fd(),
	}
	if m.proc, m.ended, err = startProcess(h.Program, c, fds); err != nil {
		r.Close()
		err = fmt.Errorf("sandbox %q: start the VMM: %w", held.Name, err)
		_ = store.RecordExit(files.Exit, store.Exit{Kind: string(vmm.KindVMMError), Reason: "its VMM could not be started"})
		return nil, err
	}
	m.exit, files.Exit = files.Exit, nil
	_ = held.NotePid(m.proc.Pid) // a hint only
	return m, nil
}

// startProcess starts program as the VMM, in a session of its own, with no
// environment and with these descriptors and no others of ours.
//
// A child is waited for by a goroutine of its own that ends with the child, so
// that no zombie stays in a program that lives longer than its sandboxes.
func startProcess(program string, c Config, fds []uintptr) (*os.Process, <-chan struct{}, error) {
	argv := append([]string{"agentkernel"}, vmm.Args(c.Name, c.CPUs, uint64(c.MemoryMiB))...)
	pid, _, err := syscall.StartProcess(program, argv, &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Files: fds, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, nil, err
	}
	proc, err := os.FindProcess(pid)
	if err != nil {
		return nil, nil, err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = proc.Wait()
		close(ended)
	}()
	return proc, ended, nil
}

func openKernel(path string) (*os.File, error) {
	if path == "" {
		return os.Open(os.DevNull)
	}
	if err := checkKernel(path); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// errSilent: the VMM ended without a word.
var errSilent = errors.New("its VMM ended without a reason")

// ready waits until the guest is ready. The error is ctx's, or says why the
// guest isn't. It may be called once.
func (m *machine) ready(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { m.status.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReaderSize(io.LimitReader(m.status, 4096), 4096).ReadString('\n')
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	line = strings.TrimSuffix(line, "\n")
	if line == "ready" && err == nil {
		return nil
	}
	if reason, ok := strings.CutPrefix(line, "error "); ok {
		return errors.New(reason)
	}
	return errSilent
}

// kill ends the VMM at once, waits for its end, and leaves the reason behind if
// the VMM itself left none.
func (m *machine) kill(kind vmm.Kind, reason string) {
	_ = m.proc.Signal(unix.SIGKILL)
	<-m.ended
	_ = store.RecordExit(m.exit, store.Exit{Kind: string(kind), Reason: reason})
}

// close closes what is left of the starter's side.
func (m *machine) close() {
	m.status.Close()
	m.exit.Close()
}
