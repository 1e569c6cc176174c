package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/agentkernel/agentkernel/tests/lab/proto"
)

// session carries the command's streams until its exit.
type session struct {
	o     *Options
	m     *machine
	alarm <-chan string // L1's last words
	conn  *proto.Conn
	stdin *proto.Outgoing
	out   [2]*proto.Incoming // stdout, stderr
	ready chan struct{}      // closed when the command starts
}

func newSession(m *machine, console *tail, o *Options) *session {
	s := &session{o: o, m: m, alarm: console.alarm, ready: make(chan struct{})}
	if m.pace > 0 {
		s.conn = proto.NewPacedConn(m.link, m.pace)
	} else {
		s.conn = proto.NewConn(m.link)
	}
	s.stdin = proto.NewOutgoing(s.conn, proto.Stdin)
	s.out[0] = proto.NewIncoming(s.conn, proto.Stdout, writerOnly{o.Stdout})
	s.out[1] = proto.NewIncoming(s.conn, proto.Stderr, writerOnly{o.Stderr})
	return s
}

// writerOnly hides Close, for the streams are the caller's.
type writerOnly struct{ io.Writer }

// result is how receive ended.
type result struct {
	code int
	err  error
}

func (s *session) run(ctx context.Context) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, 1)
	go func() {
		code, err := s.receive()
		results <- result{code, err}
	}()
	go s.sendStdin(ctx)
	go s.sendEvents(ctx)
	r := s.wait(ctx, results)
	s.conn.Close()
	s.stdin.Stop()
	for _, in := range s.out {
		in.End()
	}
	if r.err != nil {
		return 0, r.err // what arrived may not all be written: the caller may be stuck
	}
	for _, in := range s.out {
		select {
		case <-in.Done():
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		if err := in.Err(); err != nil {
			return 0, fmt.Errorf("write the command's output: %w", err)
		}
	}
	return r.code, nil
}

// wait waits for the exit, the emulator's end, L1's failure or the time limit.
func (s *session) wait(ctx context.Context, results <-chan result) result {
	select {
	case r := <-results:
		return r
	case <-ctx.Done():
		return result{err: context.Cause(ctx)}
	case line := <-s.alarm:
		time.Sleep(time.Second) // for the lines that follow, which tell why
		return result{err: fmt.Errorf("the emulated host died: %s", line)}
	case <-s.m.process.done:
	}
	// The emulator has ended. What it sent before may still be under way.
	select {
	case r := <-results:
		return r
	case <-time.After(3 * time.Second):
		return result{err: errEmulatorEnded}
	}
}

var errEmulatorEnded = errors.New("the emulated host ended before its command")

// receive handles what L1 sends, until its exit.
func (s *session) receive() (int, error) {
	for {
		f, err := s.conn.Receive()
		if errors.Is(err, proto.ErrProtocol) {
			return 0, err
		}
		if err != nil {
			return 0, errEmulatorEnded
		}
		switch f.Kind {
		case proto.Ready:
			select {
			case <-s.ready:
				return 0, fmt.Errorf("%w: ready twice", proto.ErrProtocol)
			default:
				close(s.ready)
			}
		case proto.Exit:
			return int(f.Arg), nil
		default:
			if err := s.handle(f); err != nil {
				return 0, err
			}
		}
	}
}

func (s *session) handle(f proto.Frame) error {
	if f.Kind == proto.Credit && f.Arg == proto.Stdin {
		return s.stdin.Credit(f.Payload)
	}
	i := int(f.Arg) - int(proto.Stdout)
	if i < 0 || i >= len(s.out) {
		return fmt.Errorf("%w: kind %d of stream %d from L1", proto.ErrProtocol, f.Kind, f.Arg)
	}
	switch f.Kind {
	case proto.Data:
		return s.out[i].Put(f.Payload)
	case proto.EOF:
		s.out[i].End()
		return nil
	}
	return fmt.Errorf("%w: kind %d from L1", proto.ErrProtocol, f.Kind)
}

// sendStdin forwards the caller's input. It ends with the input, or with the
// session, but for a read that is under way.
func (s *session) sendStdin(ctx context.Context) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return
	}
	if s.o.Stdin != nil {
		if _, err := io.Copy(s.stdin, s.o.Stdin); err != nil {
			return // the session is over
		}
	}
	s.stdin.End()
}

// pulseEvery is how often an emulated host gets an interrupt from outside.
// QEMU's emulated SVM now and then loses a timer interrupt of the host itself;
// an idle host then sleeps for good, unless something else wakes it.
const pulseEvery = time.Second

// pulses returns a channel that says when to send a Pulse. A paced link (Bochs)
// and the instruction clock, which outside events would disturb, have none.
func (s *session) pulses() (<-chan time.Time, func()) {
	if s.m.pace > 0 || s.o.Clock {
		return nil, func() {}
	}
	ticker := time.NewTicker(pulseEvery)
	return ticker.C, ticker.Stop
}

// sendEvents forwards signals and sizes of the terminal, and sends pulses.
func (s *session) sendEvents(ctx context.Context) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return
	}
	pulses, stop := s.pulses()
	defer stop()
	for {
		var err error
		select {
		case <-pulses:
			err = s.conn.Send(proto.Pulse, 0, nil)
		case n := <-s.o.Signals:
			err = s.conn.Send(proto.Signal, n, nil)
		case size := <-s.o.Resizes:
			err = s.conn.SendSize(size[0], size[1])
		case <-ctx.Done():
			return
		}
		if err != nil {
			return // the receiver sees it too
		}
	}
}
