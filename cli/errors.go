package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/agentkernel/agentkernel/host"
)

// usageError is a command line that can't be understood.
type usageError struct {
	op  string
	err error
}

func (e *usageError) Error() string { return e.err.Error() }

// exitError ends the program with a code and without a word.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// silentExit reports whether err says no more than an exit code.
func silentExit(err error) (code int, silent bool) {
	var e exitError
	if errors.As(err, &e) {
		return int(e), true
	}
	return 0, false
}

// codeOf is the exit code for an error: 125, or what the guest says of a command
// that it couldn't start (126, 127).
func codeOf(err error) int {
	var guest *host.GuestError
	if errors.As(err, &guest) {
		return guest.Code
	}
	return exitFailed
}

// onSandbox is an error of a command on one sandbox; it lets hints name it.
type onSandbox struct {
	name string
	err  error
}

func (e *onSandbox) Error() string { return e.err.Error() }
func (e *onSandbox) Unwrap() error { return e.err }

// sentences says what went wrong, the cause and the next command to type. The
// first line stands for itself; others are the guest's console.
func sentences(err error) []string {
	line := printable(strings.ReplaceAll(text(err), "\n", "; ")) // joined errors
	if h := hint(err); h != "" {
		line += " (" + h + ")"
	}
	lines := []string{line}
	var start *host.StartError
	if errors.As(err, &start) && start.Console != "" {
		for l := range strings.SplitSeq(start.Console, "\n") {
			lines = append(lines, "console: "+printable(strings.TrimRight(l, "\r")))
		}
	}
	return lines
}

// text is the error's own sentence; for the causes whose name says it all, one
// about the sandbox.
func text(err error) string {
	var on *onSandbox
	if !errors.As(err, &on) {
		return err.Error()
	}
	switch {
	case errors.Is(err, host.ErrNotFound):
		return fmt.Sprintf("there is no sandbox %q", on.name)
	case errors.Is(err, host.ErrExists):
		return fmt.Sprintf("a sandbox %q exists already", on.name)
	case errors.Is(err, host.ErrRunning):
		return fmt.Sprintf("sandbox %q is running", on.name)
	case errors.Is(err, host.ErrBusy):
		return fmt.Sprintf("another command is starting or removing sandbox %q this moment", on.name)
	case errors.Is(err, host.ErrBroken):
		return fmt.Sprintf("sandbox %q is broken: %s", on.name, strings.TrimPrefix(err.Error(), host.ErrBroken.Error()+": "))
	}
	return err.Error()
}

// hint is the next command to type.
func hint(err error) string {
	var usage *usageError
	if errors.As(err, &usage) {
		if usage.op == "" {
			return "see: agentkernel --help"
		}
		return "see: agentkernel " + usage.op + " --help"
	}
	switch {
	case errors.Is(err, host.ErrKVMPermission):
		return "join the group kvm: sudo usermod -aG kvm $USER, then log in again"
	case errors.Is(err, host.ErrNoKVM), errors.Is(err, host.ErrKVMNotReady):
		return "find out why: agentkernel doctor"
	}
	var on *onSandbox
	if errors.As(err, &on) {
		return sandboxHint(err, on.name)
	}
	return ""
}

func sandboxHint(err error, name string) string {
	var down *host.NotRunningError
	switch {
	case errors.As(err, &down):
		return "start it with: agentkernel start " + down.Name
	case errors.Is(err, host.ErrNotFound):
		return "see: agentkernel list"
	case errors.Is(err, host.ErrExists):
		return "choose another name, or: agentkernel remove " + name
	case errors.Is(err, host.ErrRunning):
		return "stop it with: agentkernel stop " + name
	case errors.Is(err, host.ErrBroken):
		return "remove it with: agentkernel remove -f " + name
	}
	return ""
}
