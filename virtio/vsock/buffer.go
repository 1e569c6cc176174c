package vsock

// A guest may send, on each connection, as many bytes as the window that it
// was told, whether the host's reader takes them or not. What the socket does
// not take waits here, in chunks of a pool.
//
// The memory is bounded by construction, not by a test that could fail in the
// middle of a stream: the sum of all windows never exceeds the total limit
// (see credit.go), a guest that sends more than its window is reset, and a
// chunk list wastes less than two chunks.

// chunkSize is the capacity of a chunk. With its header a chunk fills a 4 KiB
// size class of the Go heap.
const chunkSize = 4096 - 16

// maxFreeChunks bounds what the pool keeps for reuse: 512 KiB. The rest goes
// back to the heap.
const maxFreeChunks = 128

type chunk struct {
	next *chunk
	r, w uint16 // data[r:w] is filled
	data [chunkSize]byte
}

// chunkPool is a free list.
type chunkPool struct {
	free *chunk
	n    int
	used int // chunks handed out, for statistics and leak tests
}

func (p *chunkPool) get() *chunk {
	p.used++
	c := p.free
	if c == nil {
		return new(chunk)
	}
	p.free, p.n = c.next, p.n-1
	c.next, c.r, c.w = nil, 0, 0
	return c
}

func (p *chunkPool) put(c *chunk) {
	p.used--
	if p.n < maxFreeChunks {
		c.next = p.free
		p.free, p.n = c, p.n+1
	}
}

// fifo is a byte queue of chunks. The zero value is empty and holds none.
type fifo struct {
	head, tail *chunk
	n          int // bytes
}

// write appends a copy of p.
func (f *fifo) write(pool *chunkPool, p []byte) {
	f.n += len(p)
	for len(p) > 0 {
		if f.tail == nil || f.tail.w == chunkSize {
			c := pool.get()
			if f.tail == nil {
				f.head = c
			} else {
				f.tail.next = c
			}
			f.tail = c
		}
		n := copy(f.tail.data[f.tail.w:], p)
		f.tail.w += uint16(n)
		p = p[n:]
	}
}

// gather appends the bytes to v without consuming them, as many as fit.
func (f *fifo) gather(v *vector) {
	for c := f.head; c != nil; c = c.next {
		if !v.add(c.data[c.r:c.w]) {
			return
		}
	}
}

// discard drops the first n bytes, n at most f.n, and gives back what gets
// empty.
func (f *fifo) discard(pool *chunkPool, n int) {
	f.n -= n
	for c := f.head; c != nil; c = f.head {
		part := min(n, int(c.w-c.r))
		c.r += uint16(part)
		n -= part
		if c.r != c.w {
			return
		}
		if f.head = c.next; f.head == nil {
			f.tail = nil
		}
		pool.put(c)
	}
}
