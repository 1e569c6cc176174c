// Package guest is the host's client of the guest's first process: it runs
// commands in a sandbox over a connection to the sandbox's socket.
//
// The guest is untrusted. Whatever it sends is bounded before it is stored, and
// a guest that breaks the protocol ends its own request with an error: never a
// success, never more memory than the streams' windows. Text that comes from the
// guest (Error.Message) is handed on as it is; whoever prints it must escape
// control characters.
package guest
