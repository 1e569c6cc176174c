package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/host"
)

// config makes the configuration that the flags describe.
func (f *machineFlags) config(name string) (host.Config, error) {
	c := host.Config{Name: name, CPUs: f.CPUs, MemoryMiB: int(f.Memory)}
	if f.CPUs < 1 {
		return c, fmt.Errorf("--cpus: %d is not within 1 to 32", f.CPUs)
	}
	if f.Kernel != "" {
		path, err := filepath.Abs(f.Kernel)
		if err != nil {
			return c, err
		}
		c.Kernel = path
	}
	return c, nil
}

func (c *createCmd) run(a *app) (int, error) {
	config, err := c.config(c.Name)
	if err != nil {
		return 0, err
	}
	h, err := a.open()
	if err != nil {
		return 0, err
	}
	s, err := h.Create(a.ctx, config)
	if err != nil {
		return 0, &onSandbox{name: c.Name, err: err}
	}
	if c.JSON {
		return 0, a.printJSON(sandboxJSON(s))
	}
	return a.print(s.Name + "\n")
}

func (c *startCmd) run(a *app) (int, error) {
	h, err := a.open()
	if err != nil {
		return 0, err
	}
	closeOnExec()
	ctx, release := cancelledBySignals(a.ctx)
	defer release()
	err = h.Start(ctx, c.Name, host.StartOptions{Timeout: time.Duration(c.Timeout)})
	var given gaveUp
	if err != nil && errors.As(context.Cause(ctx), &given) {
		return 0, exitError(exitSignalled + int(given))
	}
	if err != nil {
		return 0, &onSandbox{name: c.Name, err: err}
	}
	if !c.Foreground {
		return 0, nil
	}
	return c.stay(ctx, a, h)
}

// cancelledBySignals returns a context that INT, TERM and HUP end, with a gaveUp
// as the cause.
func cancelledBySignals(parent context.Context) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(parent)
	caught := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(caught, s)
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case s := <-caught:
			cancel(gaveUp(s.(syscall.Signal)))
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(caught)
		cancel(nil)
		<-ended
	}
}

// stay waits for the sandbox's end, and stops it when ctx ends.
func (c *startCmd) stay(ctx context.Context, a *app, h *host.Host) (int, error) {
	s, err := h.Wait(ctx, c.Name)
	if ctx.Err() != nil && err != nil {
		err = h.Stop(a.ctx, c.Name, host.StopOptions{})
		if errors.Is(err, host.ErrNotRunning) {
			err = nil
		}
		if err == nil {
			s, err = h.Wait(a.ctx, c.Name)
		}
	}
	if errors.Is(err, host.ErrNotFound) {
		return 0, nil // removed while it ran: ended by the user
	}
	if err == nil && s.Status == host.Died {
		err = &host.NotRunningError{Name: s.Name, Status: s.Status, Reason: s.Reason}
	}
	if err != nil {
		return 0, &onSandbox{name: c.Name, err: err}
	}
	return 0, nil
}

func (c *stopCmd) run(a *app) (int, error) {
	return a.each(c.Names, func(h *host.Host, name string) error {
		err := h.Stop(a.ctx, name, host.StopOptions{Timeout: time.Duration(c.Timeout), Force: c.Force})
		var down *host.NotRunningError
		if errors.As(err, &down) {
			a.note("%s", printable(down.Error())) // what was wanted is so already
			return nil
		}
		return err
	})
}

func (c *removeCmd) run(a *app) (int, error) {
	return a.each(c.Names, func(h *host.Host, name string) error {
		return h.Remove(a.ctx, name, host.RemoveOptions{Force: c.Force})
	})
}

// each does something to every named sandbox. A failure is reported, and
// doesn't keep it from the others.
func (a *app) each(names []string, do func(h *host.Host, name string) error) (int, error) {
	h, err := a.open()
	if err != nil {
		return 0, err
	}
	code := 0
	for _, name := range names {
		if err := do(h, name); err != nil {
			code = a.fail(&onSandbox{name: name, err: err})
		}
	}
	return code, nil
}
