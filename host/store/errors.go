package store

import "errors"

// What a caller may branch on. Every error of this package that has one of
// these causes wraps it.
var (
	// ErrName: the name is not one that a sandbox may have.
	ErrName = errors.New("not a valid sandbox name")
	// ErrNotFound: there is no sandbox of that name.
	ErrNotFound = errors.New("no such sandbox")
	// ErrExists: there is a sandbox of that name already.
	ErrExists = errors.New("a sandbox of that name exists")
	// ErrRunning: the sandbox's lock is held by its VMM, so that lives.
	ErrRunning = errors.New("the sandbox is running")
	// ErrBroken: the sandbox's files are not what this program writes. They
	// are never repaired or deleted except by an explicit forced remove.
	ErrBroken = errors.New("the sandbox's state is broken")
	// ErrHome: the state directory can't be used.
	ErrHome = errors.New("the state directory can't be used")
	// ErrBusy: another command is starting or removing the sandbox this moment.
	ErrBusy = errors.New("another agentkernel command is at work on it")
)
