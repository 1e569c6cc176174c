package wire

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

func TestCreditWindow(t *testing.T) {
	c := NewCredit()
	if c.Wait() != Window {
		t.Fatal("not a window at the start")
	}
	if err := c.Grant(1); !errors.Is(err, ErrProtocol) {
		t.Errorf("grant above the window: %v", err)
	}
	c.Use(Window)
	done := make(chan int)
	go func() { done <- c.Wait() }()
	if err := c.Grant(5); err != nil {
		t.Error(err)
	}
	if n := <-done; n != 5 {
		t.Errorf("waited for %d", n)
	}
	c.Use(5)
	go func() { done <- c.Wait() }()
	c.Close()
	if n := <-done; n != 0 {
		t.Errorf("after close: %d", n)
	}
}

func TestInboxWindow(t *testing.T) {
	b := NewInbox()
	src := endless{}
	for range Window / MaxData {
		if err := b.Fill(src, MaxData); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Fill(src, 1); !errors.Is(err, ErrProtocol) {
		t.Errorf("above the window: %v", err)
	}
	// What is taken out is granted in halves.
	if n := b.Discard(grantAt - 1); n != 0 {
		t.Errorf("granted %d early", n)
	}
	if err := b.Fill(src, 1); !errors.Is(err, ErrProtocol) {
		t.Errorf("before the grant: %v", err)
	}
	if n := b.Discard(1); n != grantAt {
		t.Errorf("granted %d", n)
	}
	if err := b.Fill(src, grantAt+1); !errors.Is(err, ErrProtocol) {
		t.Errorf("above the grant: %v", err)
	}
	if err := b.Fill(src, grantAt); err != nil {
		t.Error(err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestInboxEOF(t *testing.T) {
	b := NewInbox()
	b.Fill(bytes.NewReader([]byte("abc")), 3)
	if err := b.EOF(4); !errors.Is(err, ErrProtocol) {
		t.Errorf("wrong total: %v", err)
	}
	if err := b.EOF(3); err != nil || !b.Ended() {
		t.Error(err)
	}
	if err := b.EOF(3); !errors.Is(err, ErrProtocol) {
		t.Errorf("second end: %v", err)
	}
	if err := b.Fill(endless{}, 1); !errors.Is(err, ErrProtocol) {
		t.Errorf("data after the end: %v", err)
	}
	if p, err := b.Peek(); string(p) != "abc" || err != nil {
		t.Errorf("%q %v", p, err)
	}
	b.Discard(3)
	if _, err := b.Peek(); err != io.EOF {
		t.Error(err)
	}
}

func TestInboxClose(t *testing.T) {
	b := NewInbox()
	done := make(chan error)
	go func() { _, err := b.Peek(); done <- err }()
	b.Close()
	if err := <-done; err != io.ErrClosedPipe {
		t.Error(err)
	}
	// What comes after is dropped, within the window, and the total still holds.
	if err := b.Fill(endless{}, 10); err != nil {
		t.Error(err)
	}
	if err := b.EOF(10); err != nil {
		t.Error(err)
	}
}

func TestInboxSourceFails(t *testing.T) {
	b := NewInbox()
	if err := b.Fill(bytes.NewReader([]byte("ab")), 3); err != io.EOF {
		t.Error(err)
	}
	if p, _ := b.TryPeek(); len(p) != 0 {
		t.Errorf("half a frame was handed on: %q", p)
	}
}

// Bytes come out as they went in, around the ring, with both sides at work.
func TestInboxStream(t *testing.T) {
	const total = 8 << 20
	b, c := NewInbox(), NewCredit()
	go func() {
		rng := rand.New(rand.NewPCG(1, 2))
		for sent := 0; sent < total; {
			n := min(c.Wait(), total-sent, 1+rng.IntN(MaxData))
			c.Use(n)
			if err := b.Fill(&counter{sent}, n); err != nil {
				t.Error(err)
				return
			}
			sent += n
		}
		b.EOF(total)
	}()
	got := 0
	for {
		p, err := b.Peek()
		if err != nil {
			break
		}
		for i, v := range p {
			if v != byte((got+i)*31>>3) {
				t.Fatalf("byte %d", got+i)
			}
		}
		got += len(p)
		if grant := b.Discard(len(p)); grant > 0 {
			if err := c.Grant(grant); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got != total {
		t.Errorf("%d bytes", got)
	}
}

// counter reads a sequence from position n on.
type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c.n * 31 >> 3)
		c.n++
	}
	return len(p), nil
}
