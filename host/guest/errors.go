package guest

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// ErrLost is wrapped by the error of a request whose connection ended before its
// outcome was known: the guest ended, the VMM died, or the guest's first process
// failed. What became of the command is unknown.
var ErrLost = errors.New("connection to the sandbox lost before the command's exit status arrived")

// ErrProtocol is wrapped by the error of a request to a guest that broke the
// protocol.
var ErrProtocol = wire.ErrProtocol

// ErrTooLarge is wrapped by the error of a request with more arguments and
// environment than the protocol carries, which is more than Linux takes.
var ErrTooLarge = wire.ErrTooLarge

// Error is a request that the guest could not carry out.
type Error struct {
	Code    int    // 125 the sandbox's or the request's fault, 126 not executable, 127 not found
	Message string // from the guest: escape control characters before printing
}

func (e *Error) Error() string { return e.Message }

// OutputError says that the command's output could not be written. The command
// was ended for it. Err is EPIPE if the reader went away.
type OutputError struct {
	Stream string // "stdout" or "stderr"
	Err    error
}

func (e *OutputError) Error() string { return fmt.Sprintf("%s: %v", e.Stream, e.Err) }

// Unwrap returns the writer's error.
func (e *OutputError) Unwrap() error { return e.Err }

// ExitStatus is how a command ended.
type ExitStatus struct {
	Code     int            // exit code, 0 to 255; 0 if a signal ended the command
	Signal   syscall.Signal // the signal that ended it, or 0
	OOM      bool           // the guest's out-of-memory killer struck
	TimedOut bool           // the time limit had passed
}

// ExitCode is the status as a shell's $?: 124 after a time-out, 128 and the
// signal's number after a signal, else the code.
func (s ExitStatus) ExitCode() int {
	switch {
	case s.TimedOut:
		return 124
	case s.Signal != 0:
		return 128 + int(s.Signal)
	}
	return s.Code
}
