package session

import (
	"net"
	"sync"
	"time"

	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// flushDelay is how long a frame may wait for others that are likely to follow
// at once: a command's exit for the end of its output.
const flushDelay = time.Millisecond

// smallFrame is what is rather copied than written by a system call of its own.
const smallFrame = 4 << 10

// output sends frames. Every frame is written whole; the frames of one goroutine
// keep their order.
type output struct {
	conn net.Conn

	mu      sync.Mutex
	pending []byte      // frames that wait for company
	timer   *time.Timer // flushes pending
	armed   bool
	ended   bool // the last frame was written, or writing failed
}

// later sends frames within flushDelay, or with the next frames that are sent.
func (o *output) later(frames []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return
	}
	o.pending = append(o.pending, frames...)
	switch {
	case o.armed:
	case o.timer == nil:
		o.timer = time.AfterFunc(flushDelay, o.flush)
	default:
		o.timer.Reset(flushDelay)
	}
	o.armed = true
}

func (o *output) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.armed = false
	o.write(nil)
}

// send sends frames now, after those that wait.
func (o *output) send(frames []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write(frames)
}

// last sends frames and drops whatever is sent after.
func (o *output) last(frames []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write(frames)
	o.end()
}

func (o *output) end() {
	o.ended = true
	if o.timer != nil {
		o.timer.Stop()
	}
}

// write writes pending and frames; with o.mu held. A failure closes the
// connection, which tells the reader.
func (o *output) write(frames []byte) {
	if o.ended {
		return
	}
	if len(o.pending) > 0 {
		if len(frames) <= smallFrame {
			o.pending = append(o.pending, frames...)
			frames = nil
		}
		o.writeConn(o.pending)
		o.pending = o.pending[:0]
	}
	if len(frames) > 0 && !o.ended {
		o.writeConn(frames)
	}
}

func (o *output) writeConn(p []byte) {
	if _, err := o.conn.Write(p); err != nil {
		o.end()
		o.conn.Close()
	}
}

// frameBuffer holds a Data frame and the EOF frame that may follow it.
const frameBuffer = wire.HeaderSize + wire.MaxData + wire.HeaderSize + 8

var buffers = sync.Pool{New: func() any { return new([frameBuffer]byte) }}
