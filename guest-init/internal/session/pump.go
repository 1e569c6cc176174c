package session

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// pump carries what a command writes to one pipe into Data frames, as far as the
// client's credit goes. Its states:
//
//	copying     until the pipe's end, the child's exit or the client's loss
//	draining    after the child's exit: what the pipe held then, which includes
//	            the child's last byte, and no more
//	discarding  the pipe's end is kept open and emptied for the processes that
//	            still hold it, so that they neither block nor get SIGPIPE
//
// An idle pump holds no buffer.
type pump struct {
	stream uint8
	file   *os.File // read end, non-blocking
	raw    syscall.RawConn
	credit *wire.Credit
	out    *output
	ended  *sync.WaitGroup // Done when the EOF frame was handed over

	finished atomic.Bool
	total    uint64

	// Of one fill.
	buf   *[frameBuffer]byte
	limit int // bytes to read at most
	n     int // bytes read
	eof   bool
}

var past = time.Unix(1, 0)

// run copies until the stream is over and then discards until the pipe's end.
func (p *pump) run() {
	defer p.file.Close()
	for !p.eof {
		limit := p.credit.Wait()
		if limit == 0 {
			break // the client is gone
		}
		p.fill(min(limit, wire.MaxData), p.raw.Read)
		if p.draining() {
			break
		}
		p.emit()
	}
	p.finish()
	if !p.eof {
		p.discard()
	}
}

// fill reads up to limit bytes by way of (raw.Read or raw.Control).
func (p *pump) fill(limit int, way func(func(uintptr) bool) error) {
	p.limit, p.n = limit, 0
	if err := way(p.tryRead); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		p.eof = true
	}
}

// tryRead reads until the limit, the pipe's end or an empty pipe. It returns
// false to be called again when there is something to read.
func (p *pump) tryRead(fd uintptr) bool {
	if p.buf == nil {
		p.buf = buffers.Get().(*[frameBuffer]byte)
	}
	for p.n < p.limit {
		m, err := unix.Read(int(fd), p.buf[wire.HeaderSize+p.n:wire.HeaderSize+p.limit])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if p.n == 0 {
				p.release()
			}
			return p.n > 0
		case err != nil || m == 0:
			p.eof = true
			return true
		default:
			p.n += m
		}
	}
	return true
}

func (p *pump) release() {
	buffers.Put(p.buf)
	p.buf = nil
}

// emit sends what was filled. The pipe's end is likely to be followed by the
// command's exit: it waits for that a little.
func (p *pump) emit() {
	if p.buf == nil {
		return
	}
	frame := p.buf[:0]
	if p.n > 0 {
		p.credit.Use(p.n)
		p.total += uint64(p.n)
		wire.PutHeader(p.buf[:], wire.Header{Type: wire.TypeData, Stream: p.stream, Length: uint32(p.n)})
		frame = p.buf[:wire.HeaderSize+p.n]
	}
	switch {
	case !p.eof:
		p.out.send(frame)
	case len(frame) > smallFrame:
		p.out.send(frame)
	default:
		p.out.later(frame)
	}
	p.release()
}

// childGone moves a copying pump to draining. The child is dead: all that it
// wrote is in the pipe.
func (p *pump) childGone() {
	if !p.finished.Load() {
		p.file.SetReadDeadline(past)
	}
}

// draining takes over once childGone has struck: fill then returned without
// bytes and without the pipe's end.
func (p *pump) draining() bool {
	if p.n > 0 || p.eof {
		return false
	}
	left := 0
	p.raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	for left > 0 && !p.eof {
		limit := p.credit.Wait()
		if limit == 0 {
			return true
		}
		p.fill(min(limit, wire.MaxData, left), p.control)
		if p.n == 0 {
			return true
		}
		left -= p.n
		p.emit()
	}
	return true
}

// control calls f once, whatever the deadline.
func (p *pump) control(f func(uintptr) bool) error {
	return p.raw.Control(func(fd uintptr) { f(fd) })
}

// finish hands the EOF frame over.
func (p *pump) finish() {
	if p.buf != nil {
		p.release()
	}
	var eof [wire.HeaderSize + 8]byte
	p.out.later(wire.AppendEOF(eof[:0], p.stream, p.total))
	p.finished.Store(true)
	p.ended.Done()
}

// discard reads and drops until every writer has closed the pipe.
func (p *pump) discard() {
	var buf [4 << 10]byte
	for {
		p.file.SetReadDeadline(time.Time{})
		_, err := p.file.Read(buf[:])
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}
