package proto

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// transfer sends data over a pair of ends, into dst.
func transfer(t *testing.T, data []byte, dst io.Writer) *Incoming {
	t.Helper()
	a, b := pair(t)
	sender, receiver := NewConn(a), NewConn(b)
	out := NewOutgoing(sender, Stdout)
	in := NewIncoming(receiver, Stdout, dst)
	go func() { // the sender's receiving side: credit
		for {
			f, err := sender.Receive()
			if err != nil {
				return
			}
			if err := out.Credit(f.Payload); err != nil {
				t.Error(err)
			}
		}
	}()
	go func() {
		out.Write(data)
		out.End()
	}()
	for {
		f, err := receiver.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind == EOF {
			in.End()
			return in
		}
		if err := in.Put(f.Payload); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStreamIsByteExactBeyondItsWindow(t *testing.T) {
	data := make([]byte, 5*Window+17)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	var got bytes.Buffer
	in := transfer(t, data, &got)
	<-in.Done()
	if !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes arrived, want %d, or they differ", got.Len(), len(data))
	}
}

func TestSenderWaitsForCredit(t *testing.T) {
	var link bytes.Buffer
	out := NewOutgoing(NewConn(&link), Stdout)
	done := make(chan error, 1)
	go func() {
		_, err := out.Write(make([]byte, Window+1))
		done <- err
	}()
	out.Stop()
	if err := <-done; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a write beyond the window ended with %v", err)
	}
}

func TestCreditBeyondTheWindowIsAnError(t *testing.T) {
	out := NewOutgoing(NewConn(&bytes.Buffer{}), Stdout)
	for _, payload := range []string{"\x01\x00\x00\x00", "\xff\xff\xff\xff", "\x00", ""} {
		if err := out.Credit([]byte(payload)); !errors.Is(err, ErrProtocol) {
			t.Errorf("credit %q: %v", payload, err)
		}
	}
}

func TestDataBeyondTheWindowIsAnError(t *testing.T) {
	r, w := io.Pipe() // nobody reads: the stream's consumer is stuck
	in := NewIncoming(NewConn(&bytes.Buffer{}), Stdout, w)
	if err := in.Put(make([]byte, Window)); err != nil {
		t.Error(err)
	}
	if err := in.Put([]byte{1}); !errors.Is(err, ErrProtocol) {
		t.Errorf("one byte too many: %v", err)
	}
	in.End()
	if err := in.Put(nil); !errors.Is(err, ErrProtocol) {
		t.Errorf("after the end: %v", err)
	}
	r.Close()
	<-in.Done()
	if in.Err() == nil {
		t.Error("the consumer's failure is not told")
	}
}

func TestIncomingClosesItsDestination(t *testing.T) {
	r, w := io.Pipe()
	in := NewIncoming(NewConn(&bytes.Buffer{}), Stdin, w)
	if err := in.Put([]byte("last")); err != nil {
		t.Fatal(err)
	}
	in.End()
	got, err := io.ReadAll(r)
	if string(got) != "last" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	<-in.Done()
}
