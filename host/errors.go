package host

import (
	"errors"
	"fmt"

	"github.com/agentkernel/agentkernel/host/guest"
	"github.com/agentkernel/agentkernel/host/store"
	"github.com/agentkernel/agentkernel/kvm"
)

// What a caller may branch on.
var (
	ErrName     = store.ErrName
	ErrNotFound = store.ErrNotFound
	ErrExists   = store.ErrExists
	ErrRunning  = store.ErrRunning
	ErrBroken   = store.ErrBroken
	ErrHome     = store.ErrHome
	ErrBusy     = store.ErrBusy
	// ErrNoKVM: the host has no /dev/kvm, or nothing behind it.
	ErrNoKVM = kvm.ErrNoDevice
	// ErrKVMNotReady: /dev/kvm is there, its module is not loaded.
	ErrKVMNotReady = kvm.ErrNotReady
	// ErrKVMPermission: /dev/kvm is there, and not for this user.
	ErrKVMPermission = kvm.ErrPermission
	// ErrNotRunning: the sandbox is there and its VMM is not. The error is a
	// *NotRunningError.
	ErrNotRunning = errors.New("the sandbox is not running")
	// ErrStart: the sandbox didn't get ready. The error is a *StartError.
	ErrStart = errors.New("the sandbox did not start")
	// ErrLost: the connection to the sandbox ended before the command did.
	ErrLost = guest.ErrLost
)

// NotRunningError says what a sandbox is instead of running.
type NotRunningError struct {
	Name   string
	Status Status
	Reason string
}

func (e *NotRunningError) Error() string {
	s := fmt.Sprintf("sandbox %q is %s", e.Name, e.Status)
	switch e.Status {
	case Created:
		s = fmt.Sprintf("sandbox %q is not started yet", e.Name)
	case Died:
		s = fmt.Sprintf("sandbox %q died", e.Name)
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

// Is makes errors.Is(err, ErrNotRunning) true.
func (e *NotRunningError) Is(target error) bool { return target == ErrNotRunning }

// StartError says why a sandbox didn't get ready. Reason and Console may quote
// the guest.
type StartError struct {
	Name    string
	Reason  string
	Console string // the last lines of the guest's log
}

func (e *StartError) Error() string {
	return fmt.Sprintf("sandbox %q did not start: %s", e.Name, e.Reason)
}

// Is makes errors.Is(err, ErrStart) true.
func (e *StartError) Is(target error) bool { return target == ErrStart }
