package session_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/guest-init/wire"
	"github.com/agentkernel/agentkernel/host/guest"
)

// alive tells whether a process is there and no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest != "" && rest[0] != 'Z' && rest[0] != 'X'
}

// untilDead returns when the process has ended.
func untilDead(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone
	}
	defer unix.Close(fd)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, _ := unix.Poll(fds, 20000); n == 0 {
		t.Errorf("process %d still lives", pid)
		unix.Kill(pid, unix.SIGKILL)
	}
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// G1: a grandchild that holds the pipe does not hold back the return, and lives
// on; what it writes later neither blocks nor kills it.
func TestGrandchildHoldsPipe(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "go")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	done := filepath.Join(dir, "done")
	req := sh(`(read x <"$0"; head -c 1000000 /dev/zero && echo x && echo ok >"$1") & echo $!`)
	req.Args = append(req.Args, fifo, done)
	r := run(t, s, req, nil)
	if r.failure != nil || r.status.Code != 0 {
		t.Fatalf("%+v", r)
	}
	pid := number(t, r.out)
	if !alive(pid) {
		t.Fatal("the grandchild is gone")
	}
	write(t, fifo, "now\n") // it writes far more than a pipe holds
	untilDead(t, pid)
	if text, _ := os.ReadFile(done); string(text) != "ok\n" {
		t.Error("its output failed")
	}
}

// A grandchild that writes without end does not hold back the return either.
func TestGrandchildWritesForEver(t *testing.T) {
	s := newServer(t)
	r := run(t, s, sh("yes >&2 & echo $!; exit 6"), nil)
	if r.failure != nil || r.status.Code != 6 {
		t.Fatalf("%+v", r.status)
	}
	pid := number(t, r.out)
	if !alive(pid) {
		t.Error("the grandchild is gone")
	}
	unix.Kill(pid, unix.SIGKILL)
	untilDead(t, pid)
}

// start runs a command and returns its first line of output and its connection.
func start(t *testing.T, conn net.Conn, req guest.ExecRequest) (line string, done chan result) {
	t.Helper()
	out := &notify{want: "\n", seen: make(chan struct{})}
	done = make(chan result, 1)
	go func() {
		status, err := guest.Exec(context.Background(), conn, req, nil, out, nil, nil)
		done <- result{status: status, failure: err}
	}()
	select {
	case <-out.seen:
	case r := <-done:
		t.Fatalf("ended early: %+v", r)
	}
	return strings.TrimSpace(out.String()), done
}

// G2, G3: a client that goes away takes everything with it: processes in other
// sessions, processes that ignore HUP, stopped ones.
func TestDisconnectKillsAll(t *testing.T) {
	if groups == nil {
		t.Skip("needs cgroup v2")
	}
	s := newServer(t)
	conn := dial(t, s)
	line, done := start(t, conn, sh(`setsid sleep 1001 & a=$!
		setsid sh -c 'trap "" HUP TERM; sleep 1002; sleep 1003' & b=$!
		sleep 1004 & c=$!; kill -STOP $c
		echo $$ $a $b $c; wait`))
	conn.Close()
	if r := <-done; !errors.Is(r.failure, guest.ErrLost) {
		t.Errorf("%+v", r)
	}
	for _, pid := range strings.Fields(line) {
		untilDead(t, number(t, pid))
	}
	s.Wait()
}

// An end of the context is an end of the command.
func TestContext(t *testing.T) {
	s := newServer(t)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	out := writerFunc(func(p []byte) (int, error) { cancel(cause); return len(p), nil })
	_, err := guest.Exec(ctx, dial(t, s), sh("echo; sleep 1000"), nil, out, nil, nil)
	if !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
	s.Wait()
}

// The end of the context is not held up by a writer that blocks.
func TestContextWhileWriterBlocks(t *testing.T) {
	s := newServer(t)
	ctx, cancel := context.WithCancel(context.Background())
	block := make(chan struct{})
	defer close(block)
	out := writerFunc(func(p []byte) (int, error) { cancel(); <-block; return 0, io.ErrClosedPipe })
	if _, err := guest.Exec(ctx, dial(t, s), sh("yes"), nil, out, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	s.Wait()
}

func TestSignals(t *testing.T) {
	s := newServer(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP,
		syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2} {
		status, err := guest.Exec(context.Background(), dial(t, s), guest.ExecRequest{Args: []string{"sleep", "1000"}},
			nil, nil, nil, signalChan(sig))
		if err != nil || status.Signal != sig {
			t.Errorf("%v: %+v %v", sig, status, err)
		}
	}
	s.Wait()
}

// A signal reaches the command's whole process group.
func TestSignalsReachGroup(t *testing.T) {
	s := newServer(t)
	out := &notify{want: "up", seen: make(chan struct{})}
	signals := make(chan syscall.Signal)
	go func() {
		<-out.seen
		signals <- syscall.SIGTERM
	}()
	status, err := guest.Exec(context.Background(), dial(t, s), sh(`trap 'wait; echo parent; exit 3' TERM
		sh -c 'trap "echo child; exit" TERM; echo up; while :; do sleep 0.01; done' & wait`), nil, out, nil, signals)
	if err != nil || status.Code != 3 || out.String() != "up\nchild\nparent\n" {
		t.Errorf("%+v %v %q", status, err, out.String())
	}
}

func TestTimeout(t *testing.T) {
	s := newServer(t)
	req := sh("sleep 1000; exit 1")
	req.Timeout = time.Millisecond
	r := run(t, s, req, nil)
	if r.failure != nil || !r.status.TimedOut || r.status.ExitCode() != 124 {
		t.Errorf("%+v", r)
	}
}

// A command that ignores TERM gets KILL, with all that it started.
func TestTimeoutKills(t *testing.T) {
	s := newServer(t)
	req := sh(`trap '' TERM; setsid sleep 1000 & echo $!; while :; do sleep 1000; done`)
	req.Timeout = 50 * time.Millisecond
	req.KillAfter = time.Millisecond
	r := run(t, s, req, nil)
	if r.failure != nil || r.status.Signal != syscall.SIGKILL || r.status.ExitCode() != 124 {
		t.Errorf("%+v", r)
	}
	if groups != nil && r.out != "" {
		untilDead(t, number(t, r.out))
	}
}

// A command that ends in time is not touched, and one that ends on TERM with a
// code of its own has still timed out.
func TestTimeoutCodes(t *testing.T) {
	s := newServer(t)
	req := sh("exit 7")
	req.Timeout = time.Minute
	if r := run(t, s, req, nil); r.status.ExitCode() != 7 {
		t.Errorf("%+v", r)
	}
	req = sh(`trap 'exit 0' TERM; while :; do sleep 0.01; done`)
	req.Timeout = 50 * time.Millisecond
	if r := run(t, s, req, nil); r.status.ExitCode() != 124 {
		t.Errorf("%+v", r)
	}
}

// G10: many at once; every one's exit is its own.
func TestManyAtOnce(t *testing.T) {
	s := newServer(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			in := pattern(1<<20 + i)
			req := sh("cat; exit $0")
			req.Args = append(req.Args, strconv.Itoa(i))
			r := run(t, s, req, strings.NewReader(string(in)))
			if r.failure != nil || r.status.Code != i || r.out != string(in) {
				t.Errorf("%d: %d bytes %+v %v", i, len(r.out), r.status, r.failure)
			}
		})
	}
	wg.Wait()
}

// G9: orphans are reaped.
func TestOrphansAreReaped(t *testing.T) {
	s := newServer(t)
	r := run(t, s, sh("for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.0$i & echo $!); done"), nil)
	for _, pid := range strings.Fields(r.out) {
		n := number(t, pid)
		untilDead(t, n)
		for unix.Kill(n, 0) == nil { // a zombie still has its number
			time.Sleep(time.Millisecond)
		}
	}
}

// What a client may not send ends the command.
func TestClientBreaksProtocol(t *testing.T) {
	s := newServer(t)
	request, _ := wire.AppendStart(nil, &wire.Start{Args: []string{"sleep", "1000"}})
	withStdin, _ := wire.AppendStart(nil, &wire.Start{Args: []string{"sleep", "1000"}, Stdin: true})
	data := func(n int) []byte {
		b := wire.AppendHeader(nil, wire.Header{Type: wire.TypeData, Length: uint32(n)})
		return append(b, make([]byte, n)...)
	}
	overrun := make([]byte, 0)
	for range wire.Window/wire.MaxData + 2 {
		overrun = append(overrun, data(wire.MaxData)...)
	}
	for _, tt := range []struct {
		name   string
		frames []byte
	}{
		{"data without stdin", append(request, data(1)...)},
		{"credit above the window", append(request, wire.AppendCredit(nil, wire.Stdout, 1)...)},
		{"second start", append(request, request...)},
		{"unknown type", append(request, 99, 0, 0, 0, 0, 0, 0, 0)},
		{"stdin above its window", append(withStdin, overrun...)},
		{"wrong total", append(withStdin, wire.AppendEOF(data(3), wire.Stdin, 4)...)},
		{"data after the end", append(append(withStdin, wire.AppendEOF(nil, wire.Stdin, 0)...), data(1)...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := dial(t, s)
			defer conn.Close()
			go conn.Write(tt.frames)
			io.Copy(io.Discard, conn) // until the guest hangs up
			s.Wait()
		})
	}
}

// A connection that does not begin as it should gets an answer.
func TestBadRequests(t *testing.T) {
	s := newServer(t)
	future, _ := wire.AppendStart(nil, &wire.Start{Args: []string{"true"}})
	future[wire.HeaderSize]++
	short, _ := wire.AppendStart(nil, &wire.Start{Args: []string{"true"}})
	short = append(short[:wire.HeaderSize], short[wire.HeaderSize:len(short)-1]...)
	short[4]--
	for _, tt := range []struct {
		name, want string
		frames     []byte
	}{
		{"future version", "protocol version 2", future},
		{"cut off", "malformed", short},
		{"no request", "not begin with a request", wire.AppendSignal(nil, 9)},
		{"a web browser", "protocol error", []byte("GET / HTTP/1.1\r\n\r\n")},
		{"4 GiB", "protocol error", []byte{1, 0, 0, 0, 255, 255, 255, 255}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := dial(t, s)
			defer conn.Close()
			conn.Write(tt.frames)
			rd := wire.NewReader(conn, wire.FromGuest)
			h, err := rd.Next()
			if err != nil || h.Type != wire.TypeError {
				t.Fatalf("%+v %v", h, err)
			}
			p, _ := rd.Payload()
			f, err := wire.DecodeError(p)
			if err != nil || f.Code != wire.CodeFailed || !strings.Contains(f.Message, tt.want) {
				t.Errorf("%+v %v", f, err)
			}
		})
	}
}

func TestShutdown(t *testing.T) {
	s := newServer(t)
	grace := make(chan time.Duration, 1)
	s.Shutdown = func(d time.Duration) { grace <- d }
	if err := guest.Shutdown(context.Background(), dial(t, s), 3*time.Second); err != nil {
		t.Fatal(err)
	}
	if d := <-grace; d != 3*time.Second {
		t.Errorf("grace %v", d)
	}
}

// Nothing is left behind: descriptors and control groups.
func TestNoLeaks(t *testing.T) {
	s := newServer(t)
	for range 20 {
		run(t, s, sh("cat; true"), strings.NewReader("x"))
	}
	s.Wait()
	before := descriptors(t)
	for i := range 100 {
		switch i % 4 {
		case 0:
			run(t, s, sh("cat; true"), strings.NewReader("x"))
		case 1:
			run(t, s, guest.ExecRequest{Args: []string{"no-such-command"}}, nil)
		case 2:
			run(t, s, guest.ExecRequest{Args: []string{"true"}, Dir: "/no/such/dir"}, nil)
		case 3:
			conn := dial(t, s)
			_, done := start(t, conn, sh("echo; sleep 1000"))
			conn.Close()
			<-done
		}
	}
	s.Wait()
	if after := descriptors(t); after > before+8 { // some of a discarder may be about to close
		t.Errorf("%d descriptors, then %d", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
