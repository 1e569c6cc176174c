package guest

import (
	"io"

	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// sink writes one output stream. Its goroutine is started by the first output.
type sink struct {
	client  *client
	stream  uint8
	w       io.Writer
	box     *wire.Inbox
	running bool          // the reader's: the goroutine was started
	ended   chan struct{} // closed by the goroutine
}

func newSink(c *client, stream uint8, w io.Writer) *sink {
	if w == nil {
		w = io.Discard
	}
	return &sink{client: c, stream: stream, w: w, box: wire.NewInbox()}
}

// wake makes sure that somebody writes what has arrived.
func (s *sink) wake() {
	if s.running {
		return
	}
	if p, err := s.box.TryPeek(); err != nil || len(p) == 0 {
		return
	}
	s.running = true
	s.ended = make(chan struct{})
	go func() {
		defer close(s.ended)
		s.run()
	}()
}

// drain returns when all that arrived was written, or the exec has failed from
// this side. No more arrives: the stream has ended or broken off.
func (s *sink) drain() {
	s.wake()
	if !s.running {
		return
	}
	select {
	case <-s.ended:
	case <-s.client.failed:
	}
}

// run writes until the stream's end or its failure.
func (s *sink) run() {
	for {
		p, err := s.box.Peek()
		if err != nil {
			return
		}
		n, err := s.w.Write(p)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		if err != nil {
			s.client.fail(&OutputError{Stream: s.name(), Err: err})
			return
		}
		if grant := s.box.Discard(n); grant > 0 {
			s.client.send(wire.AppendCredit(nil, s.stream, grant)) // the reader learns of a failure
		}
	}
}

func (s *sink) name() string {
	if s.stream == wire.Stdout {
		return "stdout"
	}
	return "stderr"
}
