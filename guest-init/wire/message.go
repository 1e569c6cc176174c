package wire

import (
	"encoding/binary"
	"math"
	"time"
)

const (
	startedSize  = 4
	exitSize     = 3
	shutdownSize = 2 + 8
)

// Exit is how a command ended.
type Exit struct {
	Code     uint8 // exit code; 0 if a signal ended the command
	Signal   uint8 // the signal that ended it, or 0
	OOM      bool  // the guest's out-of-memory killer struck
	TimedOut bool  // the time limit of Start had passed
}

// Bits of the Exit frame's flag byte.
const (
	exitOOM      = 1 << 0
	exitTimedOut = 1 << 1
)

// AppendExit appends an Exit frame to b.
func AppendExit(b []byte, e Exit) []byte {
	var flags uint8
	if e.OOM {
		flags |= exitOOM
	}
	if e.TimedOut {
		flags |= exitTimedOut
	}
	b = AppendHeader(b, Header{Type: TypeExit, Length: exitSize})
	return append(b, e.Code, e.Signal, flags)
}

// DecodeExit reads an Exit frame's payload.
func DecodeExit(p []byte) (Exit, error) {
	if len(p) != exitSize {
		return Exit{}, protocolError("exit with length %d", len(p))
	}
	e := Exit{Code: p[0], Signal: p[1], OOM: p[2]&exitOOM != 0, TimedOut: p[2]&exitTimedOut != 0}
	switch {
	case p[2]&^(exitOOM|exitTimedOut) != 0:
		return Exit{}, protocolError("exit with flags %#x", p[2])
	case e.Signal > MaxSignal:
		return Exit{}, protocolError("exit by signal %d", e.Signal)
	case e.Signal != 0 && e.Code != 0:
		return Exit{}, protocolError("exit with both a code and a signal")
	}
	return e, nil
}

// Failure is a request that the guest could not carry out.
type Failure struct {
	Code    uint8  // 125 the sandbox's fault or the request's, 126 not executable, 127 not found
	Message string // made in the guest: escape control characters before printing
}

// Codes of a Failure.
const (
	CodeFailed        = 125
	CodeNotExecutable = 126
	CodeNotFound      = 127
)

// AppendError appends an Error frame to b, cutting the message to MaxMessage.
func AppendError(b []byte, f Failure) []byte {
	msg := f.Message
	if len(msg) > MaxMessage {
		msg = msg[:MaxMessage]
	}
	b = AppendHeader(b, Header{Type: TypeError, Length: uint32(1 + len(msg))})
	b = append(b, f.Code)
	return append(b, msg...)
}

// DecodeError reads an Error frame's payload.
func DecodeError(p []byte) (Failure, error) {
	if len(p) < 1 || len(p) > 1+MaxMessage {
		return Failure{}, protocolError("error with length %d", len(p))
	}
	if p[0] < CodeFailed || p[0] > CodeNotFound {
		return Failure{}, protocolError("error with code %d", p[0])
	}
	return Failure{Code: p[0], Message: string(p[1:])}, nil
}

// AppendStarted appends a Started frame with the command's process id.
func AppendStarted(b []byte, pid uint32) []byte {
	b = AppendHeader(b, Header{Type: TypeStarted, Length: startedSize})
	return binary.LittleEndian.AppendUint32(b, pid)
}

// DecodeStarted reads a Started frame's payload.
func DecodeStarted(p []byte) (pid uint32, err error) {
	if len(p) != startedSize {
		return 0, protocolError("started with length %d", len(p))
	}
	return binary.LittleEndian.Uint32(p), nil
}

// AppendEOF appends the end of a stream that was total bytes long.
func AppendEOF(b []byte, stream uint8, total uint64) []byte {
	b = AppendHeader(b, Header{Type: TypeEOF, Stream: stream, Length: 8})
	return binary.LittleEndian.AppendUint64(b, total)
}

// DecodeEOF reads an EOF frame's payload.
func DecodeEOF(p []byte) (total uint64, err error) {
	if len(p) != 8 {
		return 0, protocolError("end of stream with length %d", len(p))
	}
	return binary.LittleEndian.Uint64(p), nil
}

// AppendCredit appends a grant of n more bytes of a stream.
func AppendCredit(b []byte, stream uint8, n uint32) []byte {
	b = AppendHeader(b, Header{Type: TypeCredit, Stream: stream, Length: 4})
	return binary.LittleEndian.AppendUint32(b, n)
}

// DecodeCredit reads a Credit frame's payload.
func DecodeCredit(p []byte) (n uint32, err error) {
	if len(p) != 4 {
		return 0, protocolError("credit with length %d", len(p))
	}
	n = binary.LittleEndian.Uint32(p)
	if n == 0 || n > Window {
		return 0, protocolError("credit of %d bytes", n)
	}
	return n, nil
}

// AppendSignal appends a signal for the command's process group.
func AppendSignal(b []byte, sig uint8) []byte {
	b = AppendHeader(b, Header{Type: TypeSignal, Length: 1})
	return append(b, sig)
}

// DecodeSignal reads a Signal frame's payload.
func DecodeSignal(p []byte) (sig uint8, err error) {
	if len(p) != 1 || p[0] == 0 || p[0] > MaxSignal {
		return 0, protocolError("bad signal")
	}
	return p[0], nil
}

// AppendEmpty appends a frame without payload: Closed or OK.
func AppendEmpty(b []byte, t Type) []byte {
	return AppendHeader(b, Header{Type: t})
}

// Shutdown asks the guest to end orderly: every process gets TERM, what is left
// after Grace gets KILL, file systems are synced, the machine ends.
type Shutdown struct {
	Grace time.Duration
}

// AppendShutdown appends a Shutdown request to b.
func AppendShutdown(b []byte, s Shutdown) []byte {
	b = AppendHeader(b, Header{Type: TypeShutdown, Length: shutdownSize})
	b = binary.LittleEndian.AppendUint16(b, Version)
	return binary.LittleEndian.AppendUint64(b, duration(s.Grace))
}

// DecodeShutdown reads a Shutdown request's payload.
func DecodeShutdown(p []byte) (Shutdown, error) {
	if err := checkVersion(p); err != nil {
		return Shutdown{}, err
	}
	if len(p) != shutdownSize {
		return Shutdown{}, protocolError("shutdown with length %d", len(p))
	}
	n := binary.LittleEndian.Uint64(p[2:])
	if n > math.MaxInt64 {
		return Shutdown{}, protocolError("shutdown with a grace of %d", n)
	}
	return Shutdown{Grace: time.Duration(n)}, nil
}

// duration is d as it travels: nanoseconds, a negative one as 0.
func duration(d time.Duration) uint64 { return uint64(max(d, 0)) }
