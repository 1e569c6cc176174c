package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// ExecRequest is a command to run in a guest.
type ExecRequest struct {
	Args []string // the command and its arguments, any bytes but NUL
	Env  []string // KEY=VALUE, over the guest's defaults; a later one wins
	Dir  string   // working directory; "" is the guest's default, /workspace
	User string   // USER[:GROUP] by name or number; "" is the guest's default

	Stdin bool // pass stdin on; else the command reads /dev/null

	Timeout   time.Duration // 0: none. Then the command gets TERM,
	KillAfter time.Duration // and after this KILL; 0 is DefaultKillAfter

	// StdinClosed, if set, is called once when the command reads its stdin no
	// more, so that the caller can close the source.
	StdinClosed func()
}

// DefaultKillAfter is the time between a time-out's TERM and KILL.
const DefaultKillAfter = 5 * time.Second

// Exec runs a command over a connection of its own, which it closes. It returns
// when the command has ended and its output was written, or an error:
//
//   - *Error: the guest did not start the command
//   - *OutputError: a writer failed, or stdout is a pipe or socket that nobody
//     reads any more; the command was killed
//   - wrapping ErrLost: the outcome is unknown; what had arrived was written
//   - wrapping ErrProtocol: the outcome is unknown, and not all may be written
//   - the cause of the context's end; the command was killed
//
// stdin is read only as the command takes it, and only if req.Stdin is set.
// stdout and stderr are written by goroutines of their own; each may be slow for
// as long as it likes without holding up the other. What arrives on signals is
// passed on to the command's process group.
//
// A Read of stdin that is under way when the command ends, and a Write that is
// under way when the context ends, are not waited for: nothing can end them.
//
// Memory is bounded by wire.Window for each of stdout and stderr, and one frame
// for stdin.
func Exec(ctx context.Context, conn net.Conn, req ExecRequest, stdin io.Reader, stdout, stderr io.Writer, signals <-chan syscall.Signal) (ExitStatus, error) {
	c := &client{conn: conn, req: &req, failed: make(chan struct{}), done: make(chan struct{})}
	c.sinks[0] = newSink(c, wire.Stdout, stdout)
	c.sinks[1] = newSink(c, wire.Stderr, stderr)
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	defer stop()
	w := watch(stdout, func() { c.fail(&OutputError{Stream: "stdout", Err: syscall.EPIPE}) })
	defer w.stop()

	exit, err := c.run(stdin, signals)
	if errors.Is(err, ErrProtocol) {
		c.fail(err) // what such a guest sent is not worth waiting for
	}
	c.close() // at once, for the guest: it waits for the client to go
	if first := c.failure(); first != nil {
		return ExitStatus{}, first
	}
	return exit, err
}

// client is one exec. run reads the guest's frames; a goroutine for each sink
// writes output; one passes signals on, and one stdin.
type client struct {
	conn  net.Conn
	req   *ExecRequest
	sinks [2]*sink
	stdin *wire.Credit

	failed  chan struct{} // closed by fail
	done    chan struct{} // closed at the end, for the forwarder
	workers sync.WaitGroup

	writing sync.Mutex // one frame at a time

	mu       sync.Mutex
	err      error // what ended it from this side
	finished bool
}

// fail ends the exec with err, unless it has ended.
func (c *client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !c.finished {
		c.err = err
		close(c.failed)
		c.conn.Close()
		for _, s := range c.sinks {
			s.box.Close()
		}
	}
}

func (c *client) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finished = true
	return c.err
}

// close ends the goroutines, after the sinks have written what has arrived.
func (c *client) close() {
	close(c.done)
	c.conn.Close()
	if c.stdin != nil {
		c.stdin.Close()
	}
	for _, s := range c.sinks {
		s.box.Break()
		s.drain()
	}
	c.workers.Wait()
}

func (c *client) send(frame []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.conn.Write(frame)
	return err
}

// run sends the request and reads frames until the last.
func (c *client) run(stdin io.Reader, signals <-chan syscall.Signal) (ExitStatus, error) {
	start, err := wire.AppendStart(nil, c.start())
	if err != nil {
		return ExitStatus{}, err
	}
	if err := c.send(start); err != nil {
		// The guest may have answered before it hung up: read that.
		if exit, readErr := c.read(); !errors.Is(readErr, ErrLost) {
			return exit, readErr
		}
		return ExitStatus{}, fmt.Errorf("%w: %w", ErrLost, err)
	}
	if c.req.Stdin && stdin != nil {
		c.stdin = wire.NewCredit()
		go c.feed(stdin)
	}
	if signals != nil {
		c.workers.Go(func() { c.forward(signals) })
	}
	return c.read()
}

func (c *client) start() *wire.Start {
	r := c.req
	s := &wire.Start{Args: r.Args, Env: r.Env, Dir: r.Dir, User: r.User,
		Stdin: r.Stdin, Timeout: r.Timeout, KillAfter: r.KillAfter}
	if s.KillAfter == 0 {
		s.KillAfter = DefaultKillAfter
	}
	return s
}

// read reads frames until the last.
func (c *client) read() (ExitStatus, error) {
	rd := wire.NewReader(c.conn, wire.FromGuest)
	started := false
	for {
		h, err := rd.Next()
		if err != nil {
			return ExitStatus{}, lost(err)
		}
		switch h.Type {
		case wire.TypeExit, wire.TypeError:
			return c.last(h, rd, started)
		case wire.TypeStarted:
			if started {
				return ExitStatus{}, fmt.Errorf("%w: started twice", ErrProtocol)
			}
			started = true
			_, err = rd.Payload()
		default:
			err = c.frame(h, rd, started)
		}
		if err != nil {
			return ExitStatus{}, lost(err)
		}
		if rd.Buffered() == 0 {
			c.wake()
		}
	}
}

// lost adds ErrLost to an error of the connection.
func lost(err error) error {
	if errors.Is(err, ErrProtocol) {
		return err
	}
	return fmt.Errorf("%w (%w)", ErrLost, err)
}

func (c *client) frame(h wire.Header, rd *wire.Reader, started bool) error {
	if !started {
		return fmt.Errorf("%w: frame type %d before the start", ErrProtocol, h.Type)
	}
	if h.Type == wire.TypeData {
		return c.sinks[h.Stream-1].box.Fill(rd, int(h.Length))
	}
	p, err := rd.Payload()
	if err != nil {
		return err
	}
	switch h.Type {
	case wire.TypeEOF:
		total, err := wire.DecodeEOF(p)
		if err != nil {
			return err
		}
		return c.sinks[h.Stream-1].box.EOF(total)
	case wire.TypeCredit:
		n, err := wire.DecodeCredit(p)
		if err != nil {
			return err
		}
		if c.stdin == nil {
			return fmt.Errorf("%w: credit without stdin", ErrProtocol)
		}
		return c.stdin.Grant(n)
	case wire.TypeClosed:
		return c.stdinClosed()
	}
	return fmt.Errorf("%w: unexpected frame type %d", ErrProtocol, h.Type)
}

func (c *client) stdinClosed() error {
	if c.stdin == nil {
		return fmt.Errorf("%w: stdin closed without stdin", ErrProtocol)
	}
	c.stdin.Close()
	if f := c.req.StdinClosed; f != nil {
		c.req.StdinClosed = nil
		f()
	}
	return nil
}

// wake starts the writing of what has arrived, before the next blocking read.
func (c *client) wake() {
	for _, s := range c.sinks {
		s.wake()
	}
}

// last handles the last frame.
func (c *client) last(h wire.Header, rd *wire.Reader, started bool) (ExitStatus, error) {
	p, err := rd.Payload()
	if err != nil {
		return ExitStatus{}, lost(err)
	}
	if h.Type == wire.TypeError {
		f, err := wire.DecodeError(p)
		if err != nil {
			return ExitStatus{}, err
		}
		return ExitStatus{}, &Error{Code: int(f.Code), Message: f.Message}
	}
	x, err := wire.DecodeExit(p)
	switch {
	case err != nil:
		return ExitStatus{}, err
	case !started:
		return ExitStatus{}, fmt.Errorf("%w: exit before the start", ErrProtocol)
	case !c.sinks[0].box.Ended() || !c.sinks[1].box.Ended():
		return ExitStatus{}, fmt.Errorf("%w: exit before the output's end", ErrProtocol)
	}
	return ExitStatus{Code: int(x.Code), Signal: syscall.Signal(x.Signal), OOM: x.OOM, TimedOut: x.TimedOut}, nil
}

// forward passes signals on until the end.
func (c *client) forward(signals <-chan syscall.Signal) {
	for {
		select {
		case sig, ok := <-signals:
			if !ok || sig <= 0 || sig > wire.MaxSignal {
				if !ok {
					return
				}
				continue
			}
			if c.send(wire.AppendSignal(nil, uint8(sig))) != nil {
				return // the reader learns of it too
			}
		case <-c.done:
			return
		}
	}
}

// feed sends stdin as far as the guest's credit goes. It is not waited for: it
// may be blocked in a read that nothing can end.
func (c *client) feed(stdin io.Reader) {
	buf := make([]byte, wire.HeaderSize+wire.MaxData)
	var total uint64
	for {
		room := c.stdin.Wait()
		if room == 0 {
			return
		}
		n, err := stdin.Read(buf[wire.HeaderSize : wire.HeaderSize+min(room, wire.MaxData)])
		if n > 0 {
			c.stdin.Use(n)
			total += uint64(n)
			wire.PutHeader(buf, wire.Header{Type: wire.TypeData, Stream: wire.Stdin, Length: uint32(n)})
			if c.send(buf[:wire.HeaderSize+n]) != nil {
				return
			}
		}
		if err != nil {
			// A source that fails ends, as it does in a shell's pipeline.
			c.send(wire.AppendEOF(nil, wire.Stdin, total))
			return
		}
	}
}

// Shutdown asks a guest to end orderly over a connection of its own, which it
// closes: every process gets TERM, what is left after grace gets KILL. It
// returns when the guest has taken the request, not when it has ended.
func Shutdown(ctx context.Context, conn net.Conn, grace time.Duration) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err := shutdown(conn, grace)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func shutdown(conn net.Conn, grace time.Duration) error {
	if _, err := conn.Write(wire.AppendShutdown(nil, wire.Shutdown{Grace: grace})); err != nil {
		return lost(err)
	}
	rd := wire.NewReader(conn, wire.FromGuest)
	h, err := rd.Next()
	if err != nil {
		return lost(err)
	}
	p, err := rd.Payload()
	if err != nil {
		return lost(err)
	}
	switch h.Type {
	case wire.TypeOK:
		return nil
	case wire.TypeError:
		f, err := wire.DecodeError(p)
		if err != nil {
			return err
		}
		return &Error{Code: int(f.Code), Message: f.Message}
	}
	return fmt.Errorf("%w: frame type %d in answer to shutdown", ErrProtocol, h.Type)
}
