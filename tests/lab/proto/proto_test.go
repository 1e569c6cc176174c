package proto

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
)

// pair returns two connected ends.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	a, b = net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestFrameArrivesAsSent(t *testing.T) {
	a, b := pair(t)
	lab, host := NewConn(a), NewConn(b)
	big := bytes.Repeat([]byte{0, 0xff, '\n', 0x11, 0x13}, MaxPayload/5)
	go func() {
		lab.Send(Data, Stdin, big)
		lab.Send(EOF, Stdin, nil)
		lab.SendSize(65535, 1)
		a.Close()
	}()
	for _, want := range []Frame{
		{Data, Stdin, big},
		{EOF, Stdin, nil},
		{Resize, 0, []byte{0xff, 0xff, 1, 0}},
	} {
		got, err := host.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if got.Kind != want.Kind || got.Arg != want.Arg || !bytes.Equal(got.Payload, want.Payload) {
			t.Fatalf("got kind %d arg %d and %d bytes, want kind %d", got.Kind, got.Arg, len(got.Payload), want.Kind)
		}
	}
	if _, err := host.Receive(); err != io.EOF {
		t.Fatalf("after the last frame: %v, want EOF", err)
	}
}

func TestBrokenInputIsAnError(t *testing.T) {
	for name, row := range map[string]struct {
		input string
		want  error
	}{
		"nothing":             {"", io.EOF},
		"end in a header":     {"\x02\x01\x04", io.ErrUnexpectedEOF},
		"end in a payload":    {"\x02\x01\x04\x00abc", io.ErrUnexpectedEOF},
		"end before payload":  {"\x02\x01\x04\x00", io.ErrUnexpectedEOF},
		"kind 0":              {"\x00\x00\x00\x00", ErrProtocol},
		"unknown kind":        {"\xff\x00\x00\x00", ErrProtocol},
		"payload over bounds": {"\x02\x01\x01\x40" + string(make([]byte, MaxPayload+1)), ErrProtocol},
	} {
		c := NewConn(bytes.NewBufferString(row.input))
		if _, err := c.Receive(); !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
	}
}

func TestSendRefusesTooLargePayload(t *testing.T) {
	var out bytes.Buffer
	if err := NewConn(&out).Send(Data, Stdout, make([]byte, MaxPayload+1)); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
	if out.Len() != 0 {
		t.Error("something was sent all the same")
	}
}

// uart is a link end that counts what is unread, as a UART's receive buffer does.
type uart struct {
	net.Conn
	t     *testing.T
	limit int
}

func (u uart) Write(p []byte) (int, error) {
	if len(p) > u.limit {
		u.t.Errorf("%d bytes at once into a buffer of %d", len(p), u.limit)
	}
	return u.Conn.Write(p)
}

func TestPacedLinkNeverExceedsItsLimit(t *testing.T) {
	const limit = 16
	a, b := pair(t)
	lab := NewPacedConn(uart{a, t, limit}, limit)
	host := NewAckingConn(b)
	want := bytes.Repeat([]byte("0123456789abc"), 100)
	go func() {
		for { // takes the acknowledgements
			if _, err := lab.Receive(); err != nil {
				return
			}
		}
	}()
	sent := make(chan error, 1)
	go func() { sent <- lab.Send(Data, Stdin, want) }()
	f, err := host.Receive()
	if err != nil || !bytes.Equal(f.Payload, want) {
		t.Fatalf("%d bytes, %v", len(f.Payload), err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func TestPacedLinkStopsWithoutAcks(t *testing.T) {
	var out bytes.Buffer
	c := NewPacedConn(&out, 16)
	done := make(chan error, 1)
	go func() { done <- c.Send(Data, Stdin, make([]byte, 100)) }()
	c.Close()
	if err := <-done; !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	if out.Len() > 16 {
		t.Errorf("%d bytes sent without an acknowledgement", out.Len())
	}
}

func TestAckOfUnsentBytesIsAnError(t *testing.T) {
	in := bytes.NewBuffer([]byte{byte(Ack), 1, 0, 0})
	c := NewPacedConn(in, 16)
	if _, err := c.Receive(); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x02\x01\x04\x00abcd\x03\x01\x00\x00"))
	f.Add([]byte(fmt.Sprintf("%c\x10\x00\x00", Ack)))
	f.Add([]byte("\x06\x00\x04\x00\x18\x00\x50\x00"))
	f.Fuzz(func(t *testing.T, input []byte) {
		c := NewConn(bytes.NewBuffer(input))
		out := NewOutgoing(c, Stdin)
		in := NewIncoming(c, Stdout, io.Discard)
		defer func() { in.End(); <-in.Done() }()
		for {
			frame, err := c.Receive()
			if err != nil {
				return
			}
			switch frame.Kind {
			case Data:
				err = in.Put(frame.Payload)
			case EOF:
				in.End()
			case Credit:
				err = out.Credit(frame.Payload)
			case Resize:
				_, _, err = frame.Size()
			}
			if err != nil && !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
		}
	})
}
