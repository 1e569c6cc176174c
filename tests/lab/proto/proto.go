// Package proto is the protocol between the lab program on the development
// machine and the init of the emulated host (called L1) that runs its command.
//
// Both ends use the same frames over whatever 8-bit clean byte stream the
// emulator offers: a virtio-serial port under QEMU, a UART under Bochs. A frame
// is four bytes (kind, argument, length as little-endian uint16) and a payload.
//
//	L1 -> lab    Ready, then Data/EOF/Credit of streams, then one Exit (or Fail)
//	lab -> L1    after Ready: Data/EOF of stdin, Credit, Signal, Resize, Pulse
//
// Every stream has a credit window of its own, so neither end's receiver ever
// blocks on a slow consumer and signals and the exit never wait behind data of
// a full stream. A UART has a receive buffer of 16 bytes and no flow control
// under Bochs, therefore the lab may be paced: it keeps at most so many bytes
// unacknowledged, and L1 acknowledges what it has read.
package proto

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Kind says what a frame means.
type Kind byte

// The kinds of frames. "arg" is the header's second byte.
const (
	Ready  Kind = 1 + iota // L1: the host is up, the command starts now
	Data                   // arg: stream; payload: its next bytes
	EOF                    // arg: stream; no more data follows
	Credit                 // arg: stream; payload: uint32, so many more bytes may be sent
	Signal                 // arg: signal number for the command's process group
	Resize                 // payload: rows, columns as uint16 of the command's terminal
	Exit                   // arg: exit code, 128+N when signal N ended the command
	Fail                   // payload: why L1 could not do its part
	Ack                    // arg: so many bytes of the link were read (paced links only)
	Pulse                  // lab: nothing but an interrupt for L1
)

// The streams.
const (
	Stdin byte = iota
	Stdout
	Stderr
)

const (
	// MaxPayload bounds a frame's payload in bytes.
	MaxPayload = 16 << 10
	// Window is the credit of every stream at the beginning, in bytes.
	Window = 256 << 10

	headerSize = 4
)

// ErrProtocol is wrapped by errors about a peer that breaks the protocol.
var ErrProtocol = errors.New("lab protocol broken")

// Frame is one message.
type Frame struct {
	Kind    Kind
	Arg     byte
	Payload []byte
}

// Conn sends and receives frames. Send may be called by any goroutine, Receive
// by one.
type Conn struct {
	r      *bufio.Reader
	buf    [MaxPayload]byte
	header [headerSize]byte

	mu sync.Mutex // guards w: a frame is written whole
	w  io.Writer

	pace *pacer
}

// NewConn returns a connection over rw, with a reliable and flow-controlled
// transport beneath.
func NewConn(rw io.ReadWriter) *Conn {
	return &Conn{r: bufio.NewReaderSize(rw, 64<<10), w: rw}
}

// NewPacedConn returns the lab's end of a link that loses input when more than
// limit bytes are unread; limit is at least 1.
func NewPacedConn(rw io.ReadWriter, limit int) *Conn {
	p := newPacer(rw, limit)
	return &Conn{r: bufio.NewReaderSize(rw, 64<<10), w: p, pace: p}
}

// NewAckingConn returns L1's end of a paced link.
func NewAckingConn(rw io.ReadWriter) *Conn {
	c := &Conn{w: rw}
	c.r = bufio.NewReader(ackReader{rw, c})
	return c
}

// Close makes senders that wait for the link's pace fail. It does not close the
// transport.
func (c *Conn) Close() {
	if c.pace != nil {
		c.pace.close()
	}
}

// Send writes one frame and blocks until the transport has taken it.
func (c *Conn) Send(k Kind, arg byte, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("%w: payload of %d bytes", ErrProtocol, len(payload))
	}
	msg := make([]byte, headerSize, headerSize+len(payload))
	msg[0], msg[1] = byte(k), arg
	binary.LittleEndian.PutUint16(msg[2:], uint16(len(payload)))
	msg = append(msg, payload...)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.w.Write(msg)
	return err
}

// Receive returns the next frame. Its payload is valid until the next call. The
// end of the transport between two frames is io.EOF.
func (c *Conn) Receive() (Frame, error) {
	for {
		f, err := c.receive()
		if err != nil || f.Kind != Ack || c.pace == nil {
			return f, err
		}
		if err := c.pace.ack(int(f.Arg)); err != nil {
			return f, err
		}
	}
}

func (c *Conn) receive() (Frame, error) {
	if _, err := io.ReadFull(c.r, c.header[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{Kind: Kind(c.header[0]), Arg: c.header[1]}
	n := int(binary.LittleEndian.Uint16(c.header[2:]))
	if f.Kind < Ready || f.Kind > Pulse || n > MaxPayload {
		return f, fmt.Errorf("%w: kind %d with %d bytes", ErrProtocol, f.Kind, n)
	}
	f.Payload = c.buf[:n]
	if _, err := io.ReadFull(c.r, f.Payload); err != nil {
		return f, noEOF(err)
	}
	return f, nil
}

// SendSize tells the size of the terminal.
func (c *Conn) SendSize(rows, cols uint16) error {
	p := binary.LittleEndian.AppendUint16(nil, rows)
	return c.Send(Resize, 0, binary.LittleEndian.AppendUint16(p, cols))
}

// Size decodes the payload of a Resize frame.
func (f Frame) Size() (rows, cols uint16, err error) {
	if len(f.Payload) != 4 {
		return 0, 0, fmt.Errorf("%w: size of %d bytes", ErrProtocol, len(f.Payload))
	}
	return binary.LittleEndian.Uint16(f.Payload), binary.LittleEndian.Uint16(f.Payload[2:]), nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
