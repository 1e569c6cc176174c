package proto

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Outgoing is the sending half of a stream: it spends credit.
type Outgoing struct {
	conn   *Conn
	stream byte

	mu     sync.Mutex
	cond   *sync.Cond
	credit int // bytes that may be sent, 0..Window
	closed bool
}

// NewOutgoing returns the sending half of a stream with a full window.
func NewOutgoing(c *Conn, stream byte) *Outgoing {
	o := &Outgoing{conn: c, stream: stream, credit: Window}
	o.cond = sync.NewCond(&o.mu)
	return o
}

// Write sends p and blocks while there is no credit; io.ErrClosedPipe after Stop.
func (o *Outgoing) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := o.spend(min(len(p)-done, MaxPayload))
		if err != nil {
			return done, err
		}
		if err := o.conn.Send(Data, o.stream, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// End tells the peer that no more data follows.
func (o *Outgoing) End() error { return o.conn.Send(EOF, o.stream, nil) }

// Credit takes the payload of a Credit frame.
func (o *Outgoing) Credit(payload []byte) error {
	if len(payload) != 4 {
		return fmt.Errorf("%w: credit of %d bytes", ErrProtocol, len(payload))
	}
	n := binary.LittleEndian.Uint32(payload)
	o.mu.Lock()
	defer o.mu.Unlock()
	if n > uint32(Window-o.credit) {
		return fmt.Errorf("%w: %d bytes of credit too many", ErrProtocol, n)
	}
	o.credit += int(n)
	o.cond.Broadcast()
	return nil
}

// Stop makes Write fail from now on.
func (o *Outgoing) Stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.cond.Broadcast()
}

func (o *Outgoing) spend(want int) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.credit == 0 && !o.closed {
		o.cond.Wait()
	}
	if o.closed {
		return 0, io.ErrClosedPipe
	}
	n := min(want, o.credit)
	o.credit -= n
	return n, nil
}

// Incoming is the receiving half of a stream: its goroutine writes what arrived
// to a destination and gives the credit back. Memory is bounded by Window.
type Incoming struct {
	conn   *Conn
	stream byte
	dst    io.Writer
	done   chan struct{}

	mu    sync.Mutex
	cond  *sync.Cond
	queue []byte // arrived, not yet handed to dst; with `held` at most Window
	held  int    // handed to dst or written, credit not yet given back
	ended bool
	err   error // dst's first error: what follows is dropped
}

// NewIncoming starts the receiving half. When the stream has ended, or dst has
// failed, dst is closed if it is an io.Closer. End must be called some day.
func NewIncoming(c *Conn, stream byte, dst io.Writer) *Incoming {
	in := &Incoming{conn: c, stream: stream, dst: dst, done: make(chan struct{})}
	in.cond = sync.NewCond(&in.mu)
	go in.run()
	return in
}

// Put queues a copy of p and never blocks; data beyond the window is an error.
func (in *Incoming) Put(p []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended {
		return fmt.Errorf("%w: data after the end of stream %d", ErrProtocol, in.stream)
	}
	if len(p) > Window-len(in.queue)-in.held {
		return fmt.Errorf("%w: stream %d beyond its window", ErrProtocol, in.stream)
	}
	in.queue = append(in.queue, p...)
	in.cond.Broadcast()
	return nil
}

// End says that no more data comes. It may be called again.
func (in *Incoming) End() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
	in.cond.Broadcast()
}

// Done is closed when everything that arrived before the end was written.
func (in *Incoming) Done() <-chan struct{} { return in.done }

// Err returns the destination's error, valid after Done.
func (in *Incoming) Err() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.err
}

func (in *Incoming) run() {
	defer close(in.done)
	defer func() {
		if c, ok := in.dst.(io.Closer); ok {
			c.Close()
		}
	}()
	for {
		p := in.next()
		if p == nil {
			return
		}
		if _, err := in.dst.Write(p); err != nil {
			in.fail(err)
			return
		}
		in.giveBack()
	}
}

// next waits for data and takes all of it; nil at the end.
func (in *Incoming) next() []byte {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.queue) == 0 && !in.ended {
		in.cond.Wait()
	}
	if len(in.queue) == 0 {
		return nil
	}
	p := in.queue
	in.queue = nil
	in.held += len(p)
	return p
}

// fail drops the stream: the peer gets no credit for it and so stops by itself.
func (in *Incoming) fail(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.err = err
}

// giveBack sends credit in portions, to spare frames on a slow link. A sender
// without credit waits for Window bytes, which is more than a portion.
func (in *Incoming) giveBack() {
	in.mu.Lock()
	n := in.held
	if n < Window/4 {
		in.mu.Unlock()
		return
	}
	in.held = 0
	in.mu.Unlock()
	// An error shows at the receiving side of the same link.
	_ = in.conn.Send(Credit, in.stream, binary.LittleEndian.AppendUint32(nil, uint32(n)))
}
