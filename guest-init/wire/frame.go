package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the protocol version that this package speaks. A change that an
// older guest would misread raises it.
const Version = 1

// Addresses. CIDs are those of vsock(7).
const (
	HostCID    = 2    // the host, VMADDR_CID_HOST
	ExecPort   = 1    // the guest listens, the host dials
	StatusPort = 1024 // the VMM listens, the guest dials once
)

// Lines that the guest writes on the status connection. StatusError is followed
// by one line of text.
const (
	StatusReady    = "ready\n"
	StatusError    = "error "
	StatusPoweroff = "poweroff\n"
)

// Bounds.
const (
	HeaderSize = 8
	MaxData    = 64 << 10  // payload of one Data frame
	Window     = 256 << 10 // credit of a stream at its start, and at most
	MaxStart   = 4 << 20   // payload of a Start frame; above what execve(2) takes
	MaxMessage = 4 << 10   // text of an Error frame
	MaxSignal  = 64        // highest signal number, _NSIG of Linux
)

// Type is a frame's type.
type Type uint8

// Requests are the first frame of a connection; their numbers are below 16.
const (
	TypeStart    Type = 1 // host: run a command
	TypeShutdown Type = 2 // host: end the guest orderly

	TypeData    Type = 16 // both: bytes of a stream
	TypeEOF     Type = 17 // both: a stream's end and its length
	TypeCredit  Type = 18 // both: the receiver takes so many bytes more
	TypeSignal  Type = 19 // host: a signal for the command's process group
	TypeStarted Type = 32 // guest: the command was started
	TypeExit    Type = 33 // guest: the command's end; the last frame
	TypeError   Type = 34 // guest: the request failed; the last frame
	TypeClosed  Type = 35 // guest: the command reads its stdin no more
	TypeOK      Type = 36 // guest: the request was taken; the last frame
)

// Stream numbers, those of the descriptors.
const (
	Stdin  = 0
	Stdout = 1
	Stderr = 2
)

// Direction tells who sent the frames that a [Reader] reads.
type Direction uint8

// Directions.
const (
	FromHost  Direction = 1
	FromGuest Direction = 2
)

// ErrProtocol is wrapped by every error about bytes that break the protocol.
var ErrProtocol = errors.New("protocol error")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// Header is a frame's header.
type Header struct {
	Type   Type
	Stream uint8
	Length uint32
}

// AppendHeader appends the frame header h to b.
func AppendHeader(b []byte, h Header) []byte {
	b = append(b, byte(h.Type), h.Stream, 0, 0)
	return binary.LittleEndian.AppendUint32(b, h.Length)
}

// PutHeader writes the frame header h to b, which has HeaderSize bytes or more.
func PutHeader(b []byte, h Header) {
	b[0], b[1], b[2], b[3] = byte(h.Type), h.Stream, 0, 0
	binary.LittleEndian.PutUint32(b[4:8], h.Length)
}

// ParseHeader reads a header from the first HeaderSize bytes of b and checks it
// against what the sender may send.
func ParseHeader(b []byte, from Direction) (Header, error) {
	h := Header{Type: Type(b[0]), Stream: b[1], Length: binary.LittleEndian.Uint32(b[4:8])}
	if b[2] != 0 || b[3] != 0 {
		return h, protocolError("reserved header bytes are set")
	}
	r, ok := ruleOf(h.Type, from)
	if !ok {
		return h, protocolError("unexpected frame type %d", h.Type)
	}
	if h.Length < r.min || h.Length > r.max {
		return h, protocolError("frame type %d with length %d", h.Type, h.Length)
	}
	if h.Stream > Stderr || r.streams&(1<<h.Stream) == 0 {
		return h, protocolError("frame type %d for stream %d", h.Type, h.Stream)
	}
	return h, nil
}

// rule bounds a frame type: its payload, and a bit for each stream it may name.
// A type without a stream has 0 in the header's field.
type rule struct {
	min, max uint32
	streams  uint8
}

const (
	onStdin  = 1 << Stdin
	onOutput = 1<<Stdout | 1<<Stderr
	noStream = 1 << 0
)

func ruleOf(t Type, from Direction) (rule, bool) {
	if from == FromHost {
		return hostRule(t)
	}
	return guestRule(t)
}

func hostRule(t Type) (rule, bool) {
	switch t {
	case TypeStart:
		return rule{2, MaxStart, noStream}, true
	case TypeShutdown:
		return rule{2, shutdownSize, noStream}, true
	case TypeData:
		return rule{1, MaxData, onStdin}, true
	case TypeEOF:
		return rule{8, 8, onStdin}, true
	case TypeCredit:
		return rule{4, 4, onOutput}, true
	case TypeSignal:
		return rule{1, 1, noStream}, true
	}
	return rule{}, false
}

func guestRule(t Type) (rule, bool) {
	switch t {
	case TypeStarted:
		return rule{startedSize, startedSize, noStream}, true
	case TypeData:
		return rule{1, MaxData, onOutput}, true
	case TypeEOF:
		return rule{8, 8, onOutput}, true
	case TypeCredit:
		return rule{4, 4, onStdin}, true
	case TypeClosed:
		return rule{0, 0, onStdin}, true
	case TypeExit:
		return rule{exitSize, exitSize, noStream}, true
	case TypeError:
		return rule{1, 1 + MaxMessage, noStream}, true
	case TypeOK:
		return rule{0, 0, noStream}, true
	}
	return rule{}, false
}
