package wire

import "io"

// readBuffer holds a frame's header and the small frames around it, so that
// short commands cost few reads; payloads of size go past it.
const readBuffer = 4 << 10

// Reader reads frames from a connection. After Next, the payload must be taken
// by Payload, or read through Read, before the next Next; what is left is an
// error of the caller and is skipped by nobody.
//
// It is for one goroutine.
type Reader struct {
	src  io.Reader
	from Direction
	buf  [readBuffer]byte
	r, w int    // buf[r:w] is unread
	left uint32 // of the current payload
}

// NewReader returns a reader of the frames that the given side sends on src.
func NewReader(src io.Reader, from Direction) *Reader {
	return &Reader{src: src, from: from}
}

// Buffered tells how many bytes can be read without blocking.
func (r *Reader) Buffered() int { return r.w - r.r }

// Next reads and checks the next frame's header. It returns io.EOF at the end of
// the connection between two frames, io.ErrUnexpectedEOF inside one, and an
// error that wraps ErrProtocol for a header that the sender may not send.
func (r *Reader) Next() (Header, error) {
	if err := r.fill(HeaderSize); err != nil {
		return Header{}, err
	}
	h, err := ParseHeader(r.buf[r.r:r.r+HeaderSize], r.from)
	if err != nil {
		return h, err
	}
	r.r += HeaderSize
	r.left = h.Length
	return h, nil
}

// fill makes buf[r:w] hold n bytes or more; n ≤ readBuffer.
func (r *Reader) fill(n int) error {
	if r.w-r.r >= n {
		return nil
	}
	if r.r > 0 {
		copy(r.buf[:], r.buf[r.r:r.w])
		r.r, r.w = 0, r.w-r.r
	}
	for r.w < n {
		m, err := r.src.Read(r.buf[r.w:])
		r.w += m
		if r.w >= n {
			return nil
		}
		if err != nil {
			return r.short(err)
		}
	}
	return nil
}

// short is the error for a source that ended where more was to come.
func (r *Reader) short(err error) error {
	if err == io.EOF && (r.w > r.r || r.left > 0) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Payload returns the current frame's payload. It is valid until the next call.
func (r *Reader) Payload() ([]byte, error) {
	n := int(r.left)
	if n > readBuffer {
		p := make([]byte, n) // bounded by ParseHeader: MaxStart
		_, err := io.ReadFull(r, p)
		return p, err
	}
	if err := r.fill(n); err != nil {
		return nil, err
	}
	p := r.buf[r.r : r.r+n]
	r.r += n
	r.left = 0
	return p, nil
}

// Read reads from the current frame's payload, past the buffer where it is
// empty. At the payload's end it returns io.EOF, at the connection's
// io.ErrUnexpectedEOF.
func (r *Reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if uint32(len(p)) > r.left {
		p = p[:r.left]
	}
	var n int
	var err error
	if r.r < r.w {
		n = copy(p, r.buf[r.r:r.w])
		r.r += n
	} else {
		n, err = r.src.Read(p)
	}
	r.left -= uint32(n)
	if n > 0 {
		err = nil // it comes again with the next read
	}
	if err != nil {
		err = r.short(err)
	}
	return n, err
}
