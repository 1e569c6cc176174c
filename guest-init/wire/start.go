package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Start asks the guest to run a command. Its payload:
//
//	u16 version, u16 flags, u64 timeout, u64 kill-after (nanoseconds),
//	string dir, string user, u32 n and n strings args, u32 n and n strings env
//
// where a string is a u32 length and that many bytes of any value.
type Start struct {
	Args []string
	Env  []string // KEY=VALUE; a later one wins
	Dir  string   // "" the default directory
	User string   // USER[:GROUP] by name or number; "" the default user

	Stdin bool // stdin streams follow; else the command reads /dev/null

	Timeout   time.Duration // 0 none
	KillAfter time.Duration // from the timeout's TERM to KILL
}

const (
	startStdin = 1 << 0
	startFlags = startStdin // all that are known
)

// VersionError is a request of a protocol version that this side does not speak.
type VersionError struct{ Peer uint16 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("the client speaks protocol version %d, this sandbox version %d: "+
		"stop and start the sandbox with the same agentkernel, or use the one that started it", e.Peer, Version)
}

// ErrTooLarge says that a Start does not fit in MaxStart bytes.
var ErrTooLarge = errors.New("arguments and environment are too large")

// AppendStart appends a Start frame to b.
func AppendStart(b []byte, s *Start) ([]byte, error) {
	n := s.size()
	if n > MaxStart {
		return b, ErrTooLarge
	}
	b = AppendHeader(b, Header{Type: TypeStart, Length: uint32(n)})
	b = binary.LittleEndian.AppendUint16(b, Version)
	var flags uint16
	if s.Stdin {
		flags |= startStdin
	}
	b = binary.LittleEndian.AppendUint16(b, flags)
	b = binary.LittleEndian.AppendUint64(b, duration(s.Timeout))
	b = binary.LittleEndian.AppendUint64(b, duration(s.KillAfter))
	b = appendString(b, s.Dir)
	b = appendString(b, s.User)
	b = appendStrings(b, s.Args)
	return appendStrings(b, s.Env), nil
}

func (s *Start) size() int {
	n := 2 + 2 + 8 + 8 + 4 + len(s.Dir) + 4 + len(s.User) + 4 + 4
	for _, v := range s.Args {
		n += 4 + len(v)
	}
	for _, v := range s.Env {
		n += 4 + len(v)
	}
	return n
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

func appendStrings(b []byte, ss []string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(ss)))
	for _, s := range ss {
		b = appendString(b, s)
	}
	return b
}

// DecodeStart reads a Start frame's payload. The result shares no memory with p.
func DecodeStart(p []byte) (*Start, error) {
	if err := checkVersion(p); err != nil {
		return nil, err
	}
	d := decoder{s: string(p[2:])}
	flags := d.uint16()
	s := &Start{
		Stdin:     flags&startStdin != 0,
		Timeout:   d.duration(),
		KillAfter: d.duration(),
		Dir:       d.string(),
		User:      d.string(),
		Args:      d.strings(),
		Env:       d.strings(),
	}
	switch {
	case d.bad || d.s != "":
		return nil, protocolError("malformed start request")
	case flags&^startFlags != 0:
		return nil, protocolError("start with unknown flags %#x", flags)
	}
	return s, nil
}

func checkVersion(p []byte) error {
	if len(p) < 2 {
		return protocolError("request without a version")
	}
	if v := binary.LittleEndian.Uint16(p); v != Version {
		return &VersionError{Peer: v}
	}
	return nil
}

// decoder takes fields off the front of s. The first field that does not fit
// sets bad, after which every field is zero. Strings are cut out of s, not copied.
type decoder struct {
	s   string
	bad bool
}

func (d *decoder) take(n uint32) string {
	if d.bad || uint64(n) > uint64(len(d.s)) {
		d.bad = true
		return ""
	}
	v := d.s[:n]
	d.s = d.s[n:]
	return v
}

func (d *decoder) uint16() uint16 {
	v := d.take(2)
	if d.bad {
		return 0
	}
	return uint16(v[0]) | uint16(v[1])<<8
}

func (d *decoder) uint32() uint32 {
	lo, hi := d.uint16(), d.uint16()
	return uint32(lo) | uint32(hi)<<16
}

func (d *decoder) duration() time.Duration {
	lo, hi := d.uint32(), d.uint32()
	v := uint64(lo) | uint64(hi)<<32
	if v > math.MaxInt64 {
		d.bad = true
	}
	return time.Duration(v)
}

func (d *decoder) string() string { return d.take(d.uint32()) }

func (d *decoder) strings() []string {
	n := d.uint32()
	// Each string takes 4 bytes at least: n is bounded by what is there.
	if uint64(n)*4 > uint64(len(d.s)) {
		d.bad = true
	}
	if d.bad || n == 0 {
		return nil
	}
	ss := make([]string, 0, n)
	for range n {
		ss = append(ss, d.string())
	}
	return ss
}
