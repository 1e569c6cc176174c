package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/host/guest"
	"github.com/agentkernel/agentkernel/host/store"
	"github.com/agentkernel/agentkernel/host/vmm"
)

// DefaultStopTimeout is how long a guest may take to shut down in order.
const DefaultStopTimeout = 10 * time.Second

// forceWait is how long a VMM may take to end when it is told to end at once,
// and the kernel to take it apart when it was killed.
const forceWait = 10 * time.Second

// StopOptions say how to stop a sandbox.
type StopOptions struct {
	Timeout time.Duration // for the orderly shutdown; 0 means DefaultStopTimeout
	Force   bool          // no orderly shutdown
}

// Stop ends a sandbox and returns when it has ended: it asks the guest to shut
// down, and after the timeout ends the VM. If the sandbox isn't running, the
// error is a *NotRunningError.
func (h *Host) Stop(ctx context.Context, name string, o StopOptions) error {
	b, err := h.store.Open(name)
	if err != nil {
		return err
	}
	defer b.Close()
	return stop(ctx, b, o)
}

func stop(ctx context.Context, b *store.Sandbox, o StopOptions) error {
	holder, err := b.Holder(ctx)
	if err != nil {
		return err
	}
	c, err := dialControl(ctx, b, vmm.ControlWait)
	if err != nil {
		return notRunning(ctx, b, err)
	}
	defer c.close()
	if !o.Force {
		err = shutdown(ctx, b, c, o.Timeout)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if o.Force || err != nil {
		err = force(ctx, b)
	}
	if err != nil {
		return err
	}
	return released(ctx, b, holder)
}

// shutdown asks the guest to power off and waits for the VM's end.
func shutdown(ctx context.Context, b *store.Sandbox, c *control, limit time.Duration) error {
	if limit <= 0 {
		limit = DefaultStopTimeout
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := guest.Dial(limited, b.Socket(store.VsockSocket))
	if err == nil {
		defer conn.Close()
		err = guest.Shutdown(limited, conn, limit-limit/5)
	}
	// Whatever became of the request, the VM's end is what counts: a guest
	// that goes down cuts the connection.
	if err != nil && limited.Err() == nil && !lost(err) {
		return err
	}
	return c.finished(limited)
}

// force ends the VM by its VMM, or if that doesn't answer, by SIGKILL.
func force(ctx context.Context, b *store.Sandbox) error {
	limited, cancel := context.WithTimeout(ctx, forceWait)
	defer cancel()
	c, err := dialControl(limited, b, vmm.ControlStop)
	if err == nil {
		defer c.close()
		err = c.finished(limited)
	}
	if err != nil && !gone(err) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !b.Kill() {
			return fmt.Errorf("sandbox %q: its VMM (process %d) does not answer: %w", b.Name, b.Pid(), err)
		}
	}
	return nil
}

// released waits for the lock of a VMM that has ended.
func released(ctx context.Context, b *store.Sandbox, h store.Holder) error {
	ctx, cancel := context.WithTimeout(ctx, forceWait)
	defer cancel()
	err := b.Wait(ctx, h)
	if errors.Is(err, store.ErrNotFound) {
		return nil // removed meanwhile: it has ended
	}
	return err
}

// notRunning explains a failed dial. If the sandbox runs all the same, it is
// the dial's own error.
func notRunning(ctx context.Context, b *store.Sandbox, err error) error {
	if !gone(err) && !lost(err) {
		return fmt.Errorf("sandbox %q: %w", b.Name, err)
	}
	s, reason, serr := status(ctx, b)
	if serr != nil {
		return serr
	}
	if s == Running {
		return fmt.Errorf("sandbox %q: %w: %w", b.Name, ErrLost, err)
	}
	return &NotRunningError{Name: b.Name, Status: s, Reason: reason}
}

// gone reports whether a dial failed because nobody listens.
func gone(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}

// RemoveOptions say how to remove a sandbox.
type RemoveOptions struct {
	Force bool // stop it if it runs, at once; remove it even if it is broken
}

// Remove removes a sandbox and all that belongs to it. One that runs is
// ErrRunning, one that is broken ErrBroken, unless Force is set.
func (h *Host) Remove(ctx context.Context, name string, o RemoveOptions) error {
	defer h.sweep(ctx)
	b, err := h.store.Open(name)
	if errors.Is(err, store.ErrBroken) && o.Force {
		return h.store.ForceRemove(name)
	}
	if err != nil {
		return err
	}
	defer b.Close()
	held, err := h.acquire(ctx, b)
	if errors.Is(err, store.ErrRunning) && o.Force {
		if err = stop(ctx, b, StopOptions{Force: true}); err != nil && !errors.Is(err, ErrNotRunning) {
			return err
		}
		held, err = h.acquire(ctx, b)
	}
	if errors.Is(err, store.ErrBroken) && o.Force {
		return h.store.ForceRemove(name)
	}
	if err != nil {
		return err
	}
	defer held.Release()
	if _, err := b.Config(); err != nil && !o.Force {
		return err
	}
	return held.Remove(ctx)
}
