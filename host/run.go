package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentkernel/agentkernel/host/store"
	"github.com/agentkernel/agentkernel/host/vmm"
)

// RunOptions say how to run one command in a sandbox of its own.
type RunOptions struct {
	Config Config
	Start  StartOptions
	Keep   bool // leave the sandbox behind, running
	// Created, if not nil, is called with the sandbox's name as soon as it has
	// one.
	Created func(name string)
}

// Run makes a sandbox, runs one command in it, and removes it. It returns when
// the command's status, its output and the state on disk are final; the kernel
// may still be freeing the VM then. A sandbox that isn't kept ends with the
// caller, however the caller ends.
//
// The command is sent while the guest boots, and waits at its door.
func (h *Host) Run(ctx context.Context, r ExecRequest, s Streams, o RunOptions) (ExitStatus, error) {
	o.Config.Ephemeral = !o.Keep
	held, c, err := h.create(ctx, o.Config)
	if err != nil {
		return ExitStatus{}, err
	}
	b := held.Sandbox
	defer b.Close()
	if o.Created != nil {
		o.Created(c.Name)
	}
	m, err := h.spawn(held, c)
	held.Release()
	if err != nil {
		return ExitStatus{}, errors.Join(err, b.Discard(context.WithoutCancel(ctx)))
	}
	if o.Keep {
		if err := awaitReady(ctx, b, m, o.Start); err != nil {
			return ExitStatus{}, err
		}
		return execIn(ctx, b, r, s)
	}
	return h.runOnce(ctx, b, m, r, s, o)
}

// runOnce runs the command in an ephemeral sandbox and ends the sandbox.
func (h *Host) runOnce(ctx context.Context, b *store.Sandbox, m *machine, r ExecRequest, s Streams, o RunOptions) (ExitStatus, error) {
	t := tether(ctx, b)
	defer t.close()
	execCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	booted := make(chan error, 1)
	go func() {
		err := awaitReady(execCtx, b, m, o.Start)
		if err != nil {
			cancel()
		}
		booted <- err
	}()
	h.sweep(ctx) // while the guest boots
	status, err := execIn(execCtx, b, r, s)
	// Whatever ended the command, the VMM's one line is on its way (if only as the
	// pipe's end), and it knows best why a guest didn't get ready.
	if berr := <-booted; berr != nil && !errors.Is(berr, context.Canceled) {
		err = berr
	}
	return status, errors.Join(err, h.discard(context.WithoutCancel(ctx), b))
}

// discard ends an ephemeral sandbox and removes it. Nothing in it outlives the
// command, so there is nothing to shut down in order.
func (h *Host) discard(ctx context.Context, b *store.Sandbox) error {
	ctx, cancel := context.WithTimeout(ctx, forceWait)
	defer cancel()
	c, err := dialControl(ctx, b, vmm.ControlStop)
	if err == nil {
		defer c.close()
		err = c.finished(ctx)
	}
	if err != nil && !gone(err) && !b.Kill() {
		return fmt.Errorf("sandbox %q can't be stopped: %w", b.Name, err)
	}
	err = b.Discard(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// tether asks the VMM to end when this process does. A VMM that can't leaves
// the sandbox to the next sweep, so failure is no error.
func tether(ctx context.Context, b *store.Sandbox) *control {
	c, err := dialControl(ctx, b, vmm.ControlTether)
	if err != nil {
		return nil
	}
	return c
}
