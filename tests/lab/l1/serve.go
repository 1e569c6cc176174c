package l1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/tests/lab/proto"
)

// endOfInput is the terminal's character for the end of input (VEOF).
const endOfInput = 4

// server carries the streams of one command over the link.
type server struct {
	conn *proto.Conn
	cmd  *command
	in   *proto.Incoming
	out  []*proto.Outgoing // stdout, stderr
}

// serve runs the job's command and sends its exit. An error means that the link
// or the machine is broken, so it goes to the console.
func serve(conn *proto.Conn, job *proto.Job) error {
	cmd, err := start(job)
	if err != nil {
		return refuse(conn, job, err)
	}
	s := &server{conn: conn, cmd: cmd}
	s.in = proto.NewIncoming(conn, proto.Stdin, stdinOf(cmd))
	var pumps []chan struct{}
	for i, f := range cmd.output {
		o := proto.NewOutgoing(conn, proto.Stdout+byte(i))
		s.out = append(s.out, o)
		done := make(chan struct{})
		pumps = append(pumps, done)
		go pump(o, f, done)
	}
	go s.receive()
	code, err := cmd.reap()
	if err != nil {
		return err
	}
	for i, done := range pumps {
		// Wakes the pump, which then takes what is still in the pipe.
		if err := cmd.output[i].SetReadDeadline(time.Unix(1, 0)); err != nil {
			return fmt.Errorf("end stream %d: %w", i+1, err)
		}
		<-done
	}
	return conn.Send(proto.Exit, code, nil)
}

// refuse answers like a shell when there is nothing to run.
func refuse(conn *proto.Conn, job *proto.Job, cause error) error {
	msg := fmt.Sprintf("lab: can't run %q in the host: %v\n", job.Args[0], cause)
	if err := conn.Send(proto.Data, proto.Stderr, []byte(msg)); err != nil {
		return err
	}
	return conn.Send(proto.Exit, startCode(cause), nil)
}

// receive handles what the lab sends, until the machine is killed.
func (s *server) receive() {
	for {
		f, err := s.conn.Receive()
		if err == nil {
			err = s.handle(f)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%slink: %v\n", FatalPrefix, err)
			return
		}
	}
}

func (s *server) handle(f proto.Frame) error {
	switch f.Kind {
	case proto.Data:
		return s.in.Put(f.Payload)
	case proto.EOF:
		s.in.End()
	case proto.Credit:
		i := int(f.Arg) - int(proto.Stdout)
		if i < 0 || i >= len(s.out) {
			return fmt.Errorf("%w: credit for stream %d", proto.ErrProtocol, f.Arg)
		}
		return s.out[i].Credit(f.Payload)
	case proto.Pulse: // its interrupt was all
	case proto.Signal:
		s.cmd.signal(f.Arg) // ESRCH: it has just ended
	case proto.Resize:
		rows, cols, err := f.Size()
		if err != nil {
			return err
		}
		return s.cmd.resize(rows, cols)
	default:
		return fmt.Errorf("%w: kind %d from the lab", proto.ErrProtocol, f.Kind)
	}
	return nil
}

// stdinOf returns where input goes. Closing a terminal would hang the command
// up, so the end of input is a character there.
func stdinOf(cmd *command) io.Writer {
	if cmd.tty {
		return terminalInput{cmd.stdin}
	}
	return cmd.stdin
}

type terminalInput struct{ f *os.File }

func (t terminalInput) Write(p []byte) (int, error) { return t.f.Write(p) }

func (t terminalInput) Close() error {
	_, err := t.f.Write([]byte{endOfInput})
	return err
}

// pump sends what f yields until its end, or, once the read deadline of f has
// passed, until what f then held is sent: a process that the command left
// behind may keep the other end for ever.
func pump(o *proto.Outgoing, f *os.File, done chan<- struct{}) {
	defer close(done)
	buf := make([]byte, proto.MaxPayload)
	for {
		n, err := f.Read(buf)
		if _, e := o.Write(buf[:n]); e != nil {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			drain(o, f, buf)
			break
		}
		if err != nil { // the end of the pipe; EIO of a terminal without users
			break
		}
	}
	o.End() // an error of the link shows at its other end
}

// maxHeld bounds what a pipe or a terminal can hold (pipe-max-size), and so the
// work of drain beside a process that writes for ever.
const maxHeld = 1 << 20

// drain sends what f holds. f is non-blocking.
func drain(o *proto.Outgoing, f *os.File, buf []byte) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		for total := 0; total < maxHeld; {
			n, err := unix.Read(int(fd), buf)
			if n <= 0 || err != nil {
				return
			}
			if _, err := o.Write(buf[:n]); err != nil {
				return
			}
			total += n
		}
	})
}
