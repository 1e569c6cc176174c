package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/agentkernel/agentkernel/host"
)

// session is the terminal's side of one command: its streams, and the signals
// that are passed on to it.
type session struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	streams host.Streams
	signals *forwarder
}

// gaveUp is the cause of the end of a command that a signal of ours ended.
type gaveUp syscall.Signal

func (g gaveUp) Error() string { return "given up: " + syscall.Signal(g).String() }

// newSession makes the streams of a command. Signals are caught from here on.
func newSession(a *app, stdin bool) *session {
	s := &session{streams: host.Streams{Stdout: a.Out, Stderr: a.Err}}
	s.ctx, s.cancel = context.WithCancelCause(a.ctx)
	if stdin {
		s.streams.Stdin = a.In
	}
	s.signals = forward(s.cancel, a.note)
	s.streams.Signals = s.signals.out
	s.streams.Started = func() { s.signals.started.Store(true) }
	return s
}

func (s *session) close() {
	s.signals.stop()
	s.cancel(nil)
}

// result turns a command's end into an exit code.
func (s *session) result(a *app, status host.ExitStatus, err error) (int, error) {
	var given gaveUp
	if err != nil && errors.As(context.Cause(s.ctx), &given) {
		return 0, exitError(exitSignalled + int(given))
	}
	var output *host.OutputError
	if errors.As(err, &output) && errors.Is(err, syscall.EPIPE) {
		return 0, exitError(exitSignalled + int(syscall.SIGPIPE))
	}
	if err != nil {
		return 0, err
	}
	if status.OOM {
		a.note("the command was ended by the guest's out-of-memory killer: " +
			"give the sandbox more memory (agentkernel create --memory SIZE)")
	}
	return status.ExitCode(), nil
}

// giveUpAfter is the number of INTs that end a command that doesn't end.
const giveUpAfter = 3

// forwarder passes signals on to a command.
type forwarder struct {
	out     chan syscall.Signal
	caught  chan os.Signal
	done    chan struct{}
	ended   chan struct{}
	started atomic.Bool // whether there is a command to take signals
	cancel  context.CancelCauseFunc
	note    func(string, ...any)
}

// forward begins to pass on signals, except those that were ignored when the
// program started (nohup). SIGPIPE is caught too, so that a write to a closed
// pipe fails and the command can be ended before we are.
func forward(cancel context.CancelCauseFunc, note func(string, ...any)) *forwarder {
	f := &forwarder{
		out: make(chan syscall.Signal), caught: make(chan os.Signal, 16),
		done: make(chan struct{}), ended: make(chan struct{}), cancel: cancel, note: note,
	}
	for _, s := range []syscall.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE,
	} {
		if !signal.Ignored(s) {
			signal.Notify(f.caught, s)
		}
	}
	go f.run()
	return f
}

// stop gives the signals back and waits for the forwarder's end.
func (f *forwarder) stop() {
	signal.Stop(f.caught)
	close(f.done)
	<-f.ended
}

// run passes signals on in their order. Those that nobody has taken yet wait.
func (f *forwarder) run() {
	defer close(f.ended)
	var waiting []syscall.Signal
	interrupts := 0
	for {
		var out chan syscall.Signal
		var next syscall.Signal
		if len(waiting) > 0 {
			out, next = f.out, waiting[0]
		}
		select {
		case out <- next:
			waiting = waiting[1:]
		case s := <-f.caught:
			sig := s.(syscall.Signal)
			if sig == syscall.SIGINT {
				interrupts++
			}
			if f.accept(sig, interrupts) && len(waiting) < maxWaiting {
				waiting = append(waiting, sig)
			}
		case <-f.done:
			return
		}
	}
}

// maxWaiting bounds the signals that wait for a guest to take them.
const maxWaiting = 64

// accept reports whether a signal is to be passed on. The third INT ends the
// command from outside, and so does every signal that comes before there is one:
// it is us that it means.
func (f *forwarder) accept(sig syscall.Signal, interrupts int) bool {
	switch {
	case sig == syscall.SIGPIPE:
		return false
	case !f.started.Load() && sig != syscall.SIGUSR1 && sig != syscall.SIGUSR2,
		sig == syscall.SIGINT && interrupts >= giveUpAfter:
		f.cancel(gaveUp(sig))
		return false
	case sig == syscall.SIGINT && interrupts == giveUpAfter-1:
		f.note("interrupt once more to kill the command")
	}
	return true
}
