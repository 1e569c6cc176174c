package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// machineKind is what L1 must know of the machine it runs on.
type machineKind struct {
	link    string   // see proto.Job
	modules []string // to load, without their dependencies
	params  map[string]string
}

// machine is a running emulator.
type machine struct {
	link    io.ReadWriteCloser
	pace    int // bytes that may be unread in L1's end of the link; 0: no bound
	process *process
	output  *tail // what the emulator itself said
	readers sync.WaitGroup
	closers []io.Closer
	once    sync.Once
}

// stop kills the emulator, if it runs, and waits until it and the readers of its output have
// ended. It may be called again.
func (m *machine) stop() {
	m.once.Do(func() {
		if m.process != nil {
			m.process.kill()
			<-m.process.done
		}
		if m.link != nil {
			m.link.Close()
		}
		for _, c := range m.closers {
			c.Close()
		}
		m.readers.Wait()
	})
}

// collect copies r into t until r ends. It sees every byte, for an emulator
// blocks when nobody reads what it says.
func (m *machine) collect(r io.Reader, t *tail) {
	m.readers.Go(func() { io.Copy(t, r) })
}

// report returns the last lines of the console and of the emulator, for the end
// of an error.
func (m *machine) report(console *tail) string {
	var b strings.Builder
	for _, part := range []struct {
		name string
		t    *tail
	}{{"emulator", m.output}, {"host's console", console}} {
		if text := part.t.lines(40); text != "" {
			fmt.Fprintf(&b, "\n--- last lines of the %s:\n%s", part.name, text)
		}
	}
	return b.String()
}

// process is a child that dies with the lab.
type process struct {
	pid  int
	done chan struct{} // closed when it has been waited for
}

// startProcess starts cmd in a session of its own, so that the terminal's
// signals reach the lab alone, and has the kernel kill it when the lab dies.
// That tie is to the thread that starts it (prctl(2), PR_SET_PDEATHSIG), so the
// thread is kept until the child has ended.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			cmd.Wait() // how it ended says nothing that its output does not
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("%w: run ./build.sh, which installs it", err)
		}
		return nil, err
	}
	return p, nil
}

// kill ends the child's whole session; it is harmless once the child has ended,
// as long as nobody has waited for it.
func (p *process) kill() {
	select {
	case <-p.done:
	default:
		unix.Kill(-p.pid, unix.SIGKILL)
	}
}

// socketPair returns a connected pair of stream sockets, ours non-blocking for
// Go's poller and theirs for a child.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "lab"), os.NewFile(uintptr(fds[1]), "emulator"), nil
}
