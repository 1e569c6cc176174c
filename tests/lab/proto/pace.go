package proto

import (
	"fmt"
	"io"
	"sync"
)

// pacer is a writer that keeps at most limit bytes unacknowledged.
type pacer struct {
	w     io.Writer
	limit int

	mu     sync.Mutex
	cond   *sync.Cond
	out    int // bytes written and not acknowledged, 0..limit
	closed bool
}

func newPacer(w io.Writer, limit int) *pacer {
	p := &pacer{w: w, limit: limit}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// Write blocks until the peer has acknowledged all but the last limit bytes.
func (p *pacer) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := p.reserve(len(b) - done)
		if err != nil {
			return done, err
		}
		if _, err := p.w.Write(b[done : done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// reserve waits for room and takes up to want bytes of it.
func (p *pacer) reserve(want int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.out == p.limit && !p.closed {
		p.cond.Wait()
	}
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	n := min(want, p.limit-p.out)
	p.out += n
	return n, nil
}

func (p *pacer) ack(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > p.out {
		return fmt.Errorf("%w: %d bytes acknowledged of %d", ErrProtocol, n, p.out)
	}
	p.out -= n
	p.cond.Broadcast()
	return nil
}

func (p *pacer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.cond.Broadcast()
}

// ackReader acknowledges whatever it reads.
type ackReader struct {
	r io.Reader
	c *Conn
}

func (a ackReader) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	for left := n; left > 0; {
		step := min(left, 255)
		if e := a.c.Send(Ack, byte(step), nil); e != nil {
			return n, e
		}
		left -= step
	}
	return n, err
}
