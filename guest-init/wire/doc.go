// Package wire is the protocol between the host's client and the guest's first
// process. It is versioned, uses the standard library alone, and bounds every
// length that it reads.
//
// # Connections
//
// The host dials [ExecPort] in the guest; one connection carries one request.
// The first frame is the request ([TypeStart] or [TypeShutdown]); its payload
// opens with the protocol version, so that a guest can refuse a newer client
// with a sentence. The guest itself dials the host once, on [StatusPort], and
// writes lines there ([StatusReady] and its kin).
//
// # Frames
//
// A frame is a header of [HeaderSize] bytes and a payload:
//
//	byte 0    type
//	byte 1    stream (0 stdin, 1 stdout, 2 stderr; 0 where there is none)
//	byte 2-3  zero
//	byte 4-7  length of the payload, little endian
//
// The life of an exec, each side reading from left to right:
//
//	host  → guest:  Start, then any of Data(0) EOF(0) Credit(1,2) Signal
//	guest → host:   Started, then any of Data(1,2) EOF(1,2) Credit(0) Closed(0),
//	                then Exit as the last frame; or Error as the last frame
//
// # Flow control
//
// stdin, stdout and stderr each have a credit window of [Window] bytes of their
// own. A sender never has more payload under way than it was granted; more is a
// protocol error. Since a receiver has room for all that it granted ([Inbox]),
// it always goes on reading the connection: a reader of stdout that has stopped
// holds up neither stderr, nor a signal, nor the exit.
//
// A stream ends with an EOF frame that carries its length; the receiver compares
// it with what arrived. A connection that ends before Exit or Error has failed:
// the absence of an exit status is never a success.
package wire
