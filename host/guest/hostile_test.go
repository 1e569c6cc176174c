package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// script is a guest that reads the request and then sends what it is told.
func script(t testing.TB, frames ...[]byte) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		if !readRequest(theirs) {
			return
		}
		go io.Copy(io.Discard, theirs)
		for _, f := range frames {
			if _, err := theirs.Write(f); err != nil {
				return
			}
		}
	}()
	return ours
}

func readRequest(c net.Conn) bool {
	rd := wire.NewReader(c, wire.FromHost)
	if _, err := rd.Next(); err != nil {
		return false
	}
	_, err := rd.Payload()
	return err == nil
}

// outcome is what Exec made of a guest.
type outcome struct {
	status    ExitStatus
	err       error
	out, errs bytes.Buffer
}

func exec(conn net.Conn, req ExecRequest) *outcome {
	var o outcome
	if req.Args == nil {
		req.Args = []string{"true"}
	}
	o.status, o.err = Exec(context.Background(), conn, req, strings.NewReader(""), &o.out, &o.errs, nil)
	return &o
}

func data(stream uint8, text string) []byte {
	b := wire.AppendHeader(nil, wire.Header{Type: wire.TypeData, Stream: stream, Length: uint32(len(text))})
	return append(b, text...)
}

var (
	started  = wire.AppendStarted(nil, 1)
	noOutput = wire.AppendEOF(wire.AppendEOF(nil, wire.Stdout, 0), wire.Stderr, 0)
	exit0    = wire.AppendExit(nil, wire.Exit{})
)

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// A guest as it should be.
func TestExec(t *testing.T) {
	o := exec(script(t, started, data(1, "out"), data(2, "err"), wire.AppendEOF(nil, 1, 3),
		wire.AppendEOF(nil, 2, 3), wire.AppendExit(nil, wire.Exit{Code: 3})), ExecRequest{})
	if o.err != nil || o.status.Code != 3 || o.out.String() != "out" || o.errs.String() != "err" {
		t.Errorf("%+v", o)
	}
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		s    ExitStatus
		want int
	}{
		{ExitStatus{Code: 255}, 255},
		{ExitStatus{Signal: syscall.SIGKILL, OOM: true}, 137},
		{ExitStatus{Signal: syscall.SIGTERM, TimedOut: true}, 124},
		{ExitStatus{TimedOut: true}, 124},
	} {
		if got := tt.s.ExitCode(); got != tt.want {
			t.Errorf("%+v: %d", tt.s, got)
		}
	}
}

// P1, P2, P5: what a guest may not send. Each is an error that is ErrProtocol or
// ErrLost, never a success.
func TestHostileGuest(t *testing.T) {
	header := func(h ...byte) []byte { return h }
	for _, tt := range []struct {
		name   string
		frames []byte
		want   error
	}{
		{"nothing", nil, ErrLost},
		{"data of length 0", join(started, header(16, 1, 0, 0, 0, 0, 0, 0)), ErrProtocol},
		{"data of 4 GiB", join(started, header(16, 1, 0, 0, 255, 255, 255, 255)), ErrProtocol},
		{"data of 64 KiB and one", join(started, header(16, 1, 0, 0, 1, 0, 1, 0)), ErrProtocol},
		{"unknown type", join(started, header(77, 0, 0, 0, 0, 0, 0, 0)), ErrProtocol},
		{"unknown stream", join(started, header(16, 9, 0, 0, 1, 0, 0, 0, 0)), ErrProtocol},
		{"output on stdin", join(started, header(16, 0, 0, 0, 1, 0, 0, 0, 0)), ErrProtocol},
		{"a request", join(started, wire.AppendShutdown(nil, wire.Shutdown{})), ErrProtocol},
		{"data before the start", join(data(1, "x")), ErrProtocol},
		{"exit before the start", join(noOutput, exit0), ErrProtocol},
		{"exit at once", exit0, ErrProtocol},
		{"started twice", join(started, started), ErrProtocol},
		{"ok", join(started, wire.AppendEmpty(nil, wire.TypeOK)), ErrProtocol},
		{"exit before the output's end", join(started, exit0), ErrProtocol},
		{"exit before one output's end", join(started, wire.AppendEOF(nil, 1, 0), exit0), ErrProtocol},
		{"lost output", join(started, data(1, "abc"), wire.AppendEOF(nil, 1, 4)), ErrProtocol},
		{"output after its end", join(started, noOutput, data(1, "x"), exit0), ErrProtocol},
		{"two ends", join(started, noOutput, noOutput, exit0), ErrProtocol},
		{"exit by signal 200", join(started, noOutput, header(33, 0, 0, 0, 3, 0, 0, 0, 0, 200, 0)), ErrProtocol},
		{"exit with code and signal", join(started, noOutput, header(33, 0, 0, 0, 3, 0, 0, 0, 1, 9, 0)), ErrProtocol},
		{"exit with unknown flags", join(started, noOutput, header(33, 0, 0, 0, 3, 0, 0, 0, 0, 0, 4)), ErrProtocol},
		{"error with code 0", header(34, 0, 0, 0, 2, 0, 0, 0, 0, 'x'), ErrProtocol},
		{"error of 4 GiB", header(34, 0, 0, 0, 255, 255, 255, 255), ErrProtocol},
		{"credit of 0", join(started, wire.AppendCredit(nil, 0, 0)), ErrProtocol},
		{"credit above the window", join(started, wire.AppendCredit(nil, 0, 1)), ErrProtocol},
		{"gone after the start", started, ErrLost},
		{"gone after the output", join(started, data(1, "x"), wire.AppendEOF(nil, 1, 1)), ErrLost},
		{"gone inside a frame", join(started, data(1, "xyz")[:9]), ErrLost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := exec(script(t, tt.frames), ExecRequest{Stdin: true})
			if !errors.Is(o.err, tt.want) || o.status != (ExitStatus{}) {
				t.Errorf("%v, %+v", o.err, o.status)
			}
		})
	}
}

func TestCreditWithoutStdin(t *testing.T) {
	for _, frame := range [][]byte{wire.AppendCredit(nil, 0, 1), wire.AppendEmpty(nil, wire.TypeClosed)} {
		if o := exec(script(t, started, frame, noOutput, exit0), ExecRequest{}); !errors.Is(o.err, ErrProtocol) {
			t.Errorf("%x: %v", frame, o.err)
		}
	}
}

// P1: a guest that is cut off at any byte is an error; what it sent is written.
func TestCutAnywhere(t *testing.T) {
	whole := join(started, data(1, "out"), data(2, "err"), wire.AppendEOF(nil, 1, 3), wire.AppendEOF(nil, 2, 3), exit0)
	for n := range len(whole) {
		if o := exec(script(t, whole[:n]), ExecRequest{}); !errors.Is(o.err, ErrLost) {
			t.Fatalf("after %d bytes: %v", n, o.err)
		}
	}
	o := exec(script(t, whole[:len(whole)-1]), ExecRequest{})
	if o.out.String() != "out" || o.errs.String() != "err" {
		t.Errorf("output is missing: %+v", o)
	}
	if o := exec(script(t, whole), ExecRequest{}); o.err != nil {
		t.Error(o.err)
	}
}

// The bytes of a guest that ignores the window stop at the window.
func TestGuestIgnoresWindow(t *testing.T) {
	flood := bytes.Repeat(data(1, strings.Repeat("x", wire.MaxData)), 2*wire.Window/wire.MaxData)
	blocked := make(chan struct{})
	defer close(blocked)
	stdout := writerFunc(func(p []byte) (int, error) { <-blocked; return 0, io.ErrClosedPipe })
	done := make(chan error, 1)
	go func() {
		_, err := Exec(context.Background(), script(t, started, flood), ExecRequest{Args: []string{"yes"}}, nil, stdout, nil, nil)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, ErrProtocol) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the flood was taken, or its end waits for the writer")
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// P3, P4: endless small frames cost bounded memory, and the context's end is
// taken at once.
func TestEndlessSmallFrames(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		if !readRequest(theirs) {
			return
		}
		go io.Copy(io.Discard, theirs)
		theirs.Write(started)
		one := bytes.Repeat(data(1, "x"), 1000)
		for {
			if _, err := theirs.Write(one); err != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	var n int
	out := writerFunc(func(p []byte) (int, error) {
		if n += len(p); n > 1<<20 {
			cancel()
		}
		return len(p), nil
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Exec(ctx, ours, ExecRequest{Args: []string{"x"}}, nil, out, nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("%d KiB were allocated", grown>>10)
	}
}

// P5: a guest of another version says so in words.
func TestOtherVersion(t *testing.T) {
	o := exec(script(t, wire.AppendError(nil, wire.Failure{Code: 125, Message: (&wire.VersionError{Peer: 1}).Error()})), ExecRequest{})
	var e *Error
	if !errors.As(o.err, &e) || e.Code != 125 {
		t.Errorf("%v", o.err)
	}
}

// P6: the text of an error is the guest's, byte for byte; printing it safely is
// the caller's part, as the package says.
func TestErrorTextIsUntouched(t *testing.T) {
	text := "\x1b]0;owned\x07\xff"
	o := exec(script(t, wire.AppendError(nil, wire.Failure{Code: 127, Message: text})), ExecRequest{})
	var e *Error
	if !errors.As(o.err, &e) || e.Message != text || e.Code != 127 {
		t.Errorf("%v", o.err)
	}
}

func TestHostileShutdown(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"gone", nil, ErrLost},
		{"exit", exit0, ErrProtocol},
		{"nonsense", []byte("HTTP/1.1 200"), ErrProtocol},
	} {
		if err := Shutdown(context.Background(), script(t, tt.frame), 0); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if err := Shutdown(context.Background(), script(t, wire.AppendEmpty(nil, wire.TypeOK)), 0); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { readRequest(theirs); cancel() }()
	if err := Shutdown(ctx, ours, 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// FuzzGuest lets a guest send arbitrary bytes. The client must end, and must not
// succeed unless the bytes hold an exit.
func FuzzGuest(f *testing.F) {
	f.Add(join(started, data(1, "out"), wire.AppendEOF(nil, 1, 3), wire.AppendEOF(nil, 2, 0), exit0))
	f.Add(join(started, wire.AppendEmpty(nil, wire.TypeClosed), noOutput, wire.AppendExit(nil, wire.Exit{Signal: 9})))
	f.Add(wire.AppendError(nil, wire.Failure{Code: 126, Message: "no"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		o := exec(script(t, b), ExecRequest{Stdin: true})
		if o.err == nil && !bytes.Contains(b, []byte{byte(wire.TypeExit), 0, 0, 0, 3, 0, 0, 0}) {
			t.Fatalf("success without an exit: %+v", o.status)
		}
	})
}
