package wire

import (
	"io"
	"sync"
)

// Credit is the sender's side of a stream's window: how much it may still send.
// One goroutine waits and uses, another grants.
type Credit struct {
	mu     sync.Mutex
	cond   sync.Cond
	avail  uint32
	closed bool
}

// NewCredit returns a credit of Window bytes.
func NewCredit() *Credit {
	c := &Credit{avail: Window}
	c.cond.L = &c.mu
	return c
}

// Wait blocks until there is credit and returns how much, or 0 after Close.
func (c *Credit) Wait() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.avail == 0 && !c.closed {
		c.cond.Wait()
	}
	if c.closed {
		return 0
	}
	return int(c.avail)
}

// Use takes n bytes, no more than Wait returned.
func (c *Credit) Use(n int) {
	c.mu.Lock()
	c.avail -= uint32(n)
	c.mu.Unlock()
}

// Grant adds n bytes. A credit above Window is the receiver's protocol error.
func (c *Credit) Grant(n uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uint64(c.avail)+uint64(n) > Window {
		return protocolError("credit above the window")
	}
	c.avail += n
	c.cond.Signal()
	return nil
}

// Close ends the waiting for credit, now and later.
func (c *Credit) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cond.Broadcast()
}

// grantAt is how much a receiver lets gather before it grants it anew: few
// credit frames, and a sender that never runs dry while the receiver keeps up.
const grantAt = Window / 2

// Inbox is the receiver's side of a stream: a ring with room for all that was
// granted. One goroutine fills it from the connection and never blocks on the
// other, which takes the bytes out and passes them on.
type Inbox struct {
	mu       sync.Mutex
	cond     sync.Cond
	buf      []byte // nil until the first byte
	pos, len int    // the bytes held: len of them from pos on, wrapping around
	credit   int    // what the sender may still send
	consumed int    // taken out, not yet granted anew
	total    uint64 // received
	ended    bool   // by EOF
	closed   bool   // by Close
}

// NewInbox returns an empty inbox that has granted Window bytes.
func NewInbox() *Inbox {
	b := &Inbox{credit: Window}
	b.cond.L = &b.mu
	return b
}

// Fill reads n bytes from src. More than was granted, or any after EOF, is the
// sender's protocol error. After Close the bytes are read and dropped.
func (b *Inbox) Fill(src io.Reader, n int) error {
	b.mu.Lock()
	if b.ended || n > b.credit {
		b.mu.Unlock()
		return protocolError("%d bytes more than the stream's window", n)
	}
	b.credit -= n
	if b.buf == nil {
		b.buf = make([]byte, Window)
	}
	if b.len == 0 {
		b.pos = 0 // stay in the same, warm pages
	}
	end := (b.pos + b.len) % Window
	b.mu.Unlock()

	// The free part is this goroutine's alone: the taker touches what len
	// covers, and frees only.
	for got := 0; got < n; {
		m, err := src.Read(b.buf[end:min(end+n-got, Window)])
		if m == 0 && err != nil {
			return err
		}
		got += m
		end = (end + m) % Window
	}
	b.mu.Lock()
	b.total += uint64(n)
	if b.closed {
		b.len = 0
	} else {
		b.len += n
	}
	b.mu.Unlock()
	b.cond.Signal()
	return nil
}

// EOF ends the stream. A total that differs from what arrived, or a second end,
// is the sender's protocol error.
func (b *Inbox) EOF(total uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || total != b.total {
		return protocolError("a stream of %d bytes ended after %d", total, b.total)
	}
	b.ended = true
	b.cond.Signal()
	return nil
}

// Ended tells whether the stream's end has arrived.
func (b *Inbox) Ended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended
}

// Peek waits for bytes and returns some, which stay in the ring until Discard.
// It returns io.EOF after the last, and io.ErrClosedPipe after Close.
func (b *Inbox) Peek() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.len == 0 && !b.ended && !b.closed {
		b.cond.Wait()
	}
	return b.peek()
}

// TryPeek is Peek without waiting: it returns no bytes and no error when there
// are none yet.
func (b *Inbox) TryPeek() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.len == 0 && !b.ended && !b.closed {
		return nil, nil
	}
	return b.peek()
}

func (b *Inbox) peek() ([]byte, error) {
	switch {
	case b.closed:
		return nil, io.ErrClosedPipe
	case b.len > 0:
		return b.buf[b.pos:min(b.pos+b.len, Window)], nil
	default:
		return nil, io.EOF
	}
}

// Discard takes n of the peeked bytes out. It returns how many bytes to grant
// the sender now: 0, or what gathered since the last time, counted as granted.
func (b *Inbox) Discard(n int) (grant uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0
	}
	b.pos = (b.pos + n) % Window
	b.len -= n
	b.consumed += n
	if b.consumed < grantAt || b.ended {
		return 0
	}
	grant = uint32(b.consumed)
	b.credit += b.consumed
	b.consumed = 0
	return grant
}

// Break ends the stream where it stands: the taker gets what is held, then io.EOF.
func (b *Inbox) Break() {
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	b.cond.Broadcast()
}

// Close drops what is held and what is still to come, and wakes the taker.
func (b *Inbox) Close() {
	b.mu.Lock()
	b.closed = true
	b.len = 0
	b.mu.Unlock()
	b.cond.Broadcast()
}
