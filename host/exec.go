package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/guest-init/wire"
	"github.com/agentkernel/agentkernel/host/guest"
	"github.com/agentkernel/agentkernel/host/store"
	"github.com/agentkernel/agentkernel/host/vmm"
)

// ExecRequest is a command to run in a sandbox.
type ExecRequest = guest.ExecRequest

// ExitStatus is how a command ended.
type ExitStatus = guest.ExitStatus

// ProtocolVersion is the version of the protocol between this program and the
// guests that it starts. A guest that speaks another refuses requests.
const ProtocolVersion = wire.Version

// GuestError says that the guest could not start the command. Its text is the
// guest's.
type GuestError = guest.Error

// OutputError says that the command's output could not be written; the command
// was ended for it.
type OutputError = guest.OutputError

// Streams connect a command to its caller. A nil Stdin gives the command an
// empty one; nil writers drop what the command writes. A signal from Signals
// goes to the command's process group.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Signals        <-chan syscall.Signal
	// Started, if not nil, is called once, when the guest has taken the request.
	// Until then a signal waits with it.
	Started func()
}

// Exec runs a command in a running sandbox and returns how it ended, when its
// output has been written. When ctx ends, the command is killed. If the
// sandbox isn't running, the error is a *NotRunningError.
//
// Errors that a caller may want to tell apart are *GuestError, *OutputError,
// ErrLost and the cause of the context's end. A program whose standard streams
// are given to Exec must catch SIGPIPE, or die of it with the command.
func (h *Host) Exec(ctx context.Context, name string, r ExecRequest, s Streams) (ExitStatus, error) {
	b, err := h.store.Open(name)
	if err != nil {
		return ExitStatus{}, err
	}
	defer b.Close()
	return execIn(ctx, b, r, s)
}

func execIn(ctx context.Context, b *store.Sandbox, r ExecRequest, s Streams) (ExitStatus, error) {
	conn, err := guest.Dial(ctx, b.Socket(store.VsockSocket))
	if err != nil {
		if ctx.Err() != nil {
			return ExitStatus{}, ctx.Err()
		}
		return ExitStatus{}, notRunning(ctx, b, err)
	}
	defer conn.Close()
	r.Stdin = s.Stdin != nil
	if s.Started != nil {
		conn = &answeredConn{Conn: conn, answered: s.Started}
	}
	status, err := guest.Exec(ctx, conn, r, s.Stdin, s.Stdout, s.Stderr, s.Signals)
	if errors.Is(err, ErrLost) && ctx.Err() == nil {
		err = lostIn(ctx, b, err)
	}
	return status, err
}

// answeredConn tells when the first bytes come from the other side.
type answeredConn struct {
	net.Conn
	answered func() // nil once it was called; the reader's
}

func (c *answeredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.answered != nil {
		c.answered()
		c.answered = nil
	}
	return n, err
}

// lostIn explains a connection that ended before the command did.
func lostIn(ctx context.Context, b *store.Sandbox, err error) error {
	var down *NotRunningError
	if errors.As(notRunning(ctx, b, err), &down) {
		return fmt.Errorf("%w: %w", ErrLost, down)
	}
	return fmt.Errorf("sandbox %q: %w", b.Name, err)
}

// lost reports whether an error means that the peer is gone.
func lost(err error) bool {
	return errors.Is(err, guest.ErrLost) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// Wait returns when the sandbox's VM has ended, and says how. If it isn't
// running, Wait returns at once.
func (h *Host) Wait(ctx context.Context, name string) (Sandbox, error) {
	b, err := h.store.Open(name)
	if err != nil {
		return Sandbox{}, err
	}
	defer b.Close()
	holder, err := b.Holder(ctx)
	if err != nil {
		return Sandbox{}, err
	}
	c, err := dialControl(ctx, b, vmm.ControlWait)
	if err == nil {
		defer c.close()
		if err = c.finished(ctx); err != nil {
			return Sandbox{}, err
		}
		err = released(ctx, b, holder)
	} else if gone(err) || lost(err) {
		err = nil
	}
	if err != nil {
		return Sandbox{}, err
	}
	return h.Inspect(ctx, name)
}

// Console opens the guest's log, as the guest wrote it.
func (h *Host) Console(name string) (io.ReadCloser, error) {
	return h.openLog(name, (*store.Sandbox).Console)
}

// VMMLog opens the VMM's own log: empty unless something is wrong with the VMM.
func (h *Host) VMMLog(name string) (io.ReadCloser, error) {
	return h.openLog(name, (*store.Sandbox).VMMLog)
}
