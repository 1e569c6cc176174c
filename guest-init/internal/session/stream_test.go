package session_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/guest-init/wire"
	"github.com/agentkernel/agentkernel/host/guest"
)

// G5: the last byte before the exit.
func TestLastByte(t *testing.T) {
	s := newServer(t)
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := range 500 {
				want := fmt.Sprintf("%d.%d", w, i)
				if r := run(t, s, guest.ExecRequest{Args: []string{"printf", "%s", want}}, nil); r.out != want || r.failure != nil {
					t.Errorf("got %+v, want %q", r, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestStdin(t *testing.T) {
	s := newServer(t)
	for _, n := range []int{0, 1, wire.MaxData, wire.Window, wire.Window + 1, 5 << 20} {
		in := pattern(n)
		r := run(t, s, guest.ExecRequest{Args: []string{"cat"}}, bytes.NewReader(in))
		if r.failure != nil || r.out != string(in) {
			t.Errorf("%d bytes: got %d, %v", n, len(r.out), r.failure)
		}
	}
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7919 >> 5)
	}
	return p
}

// Without stdin the command reads /dev/null; what the client's stdin does is
// none of its business.
func TestNoStdin(t *testing.T) {
	s := newServer(t)
	if r := run(t, s, sh("cat; readlink /proc/self/fd/0"), nil); r.out != "/dev/null\n" {
		t.Errorf("%+v", r)
	}
}

// `sleep 1000 | exec -i sb -- true` returns.
func TestStdinThatNeverEnds(t *testing.T) {
	s := newServer(t)
	in, w := io.Pipe()
	defer w.Close()
	if r := run(t, s, sh("exit 3"), in); r.failure != nil || r.status.Code != 3 {
		t.Errorf("%+v", r)
	}
}

// G11: stdin that is never read, and stdin that the command closes.
func TestStdinNotRead(t *testing.T) {
	s := newServer(t)
	if r := run(t, s, sh("exit 4"), endless{}); r.failure != nil || r.status.Code != 4 {
		t.Errorf("%+v", r)
	}
	closed := make(chan struct{})
	req := sh("exec 0</dev/null; while ! [ -e $0 ]; do sleep 0.01; done; exit 5")
	mark := t.TempDir() + "/mark"
	req.Args = append(req.Args, mark)
	req.StdinClosed = func() { close(closed); os.WriteFile(mark, nil, 0o644) }
	if r := run(t, s, req, endless{}); r.failure != nil || r.status.Code != 5 {
		t.Errorf("%+v", r)
	}
	<-closed
}

// endless is a source without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// G4: both streams at once, byte-exact.
func TestBothStreams(t *testing.T) {
	s := newServer(t)
	const n = 8 << 20
	r := run(t, s, sh(fmt.Sprintf("yes o | head -c %d & yes e | head -c %d >&2; wait", n, n)), nil)
	if r.out != strings.Repeat("o\n", n/2) || r.err != strings.Repeat("e\n", n/2) || r.failure != nil {
		t.Errorf("%d and %d bytes, %v", len(r.out), len(r.err), r.failure)
	}
}

// 256 MiB one way, with the memory of both sides bounded.
func TestBulk(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	s := newServer(t)
	const n = 256 << 20
	out := &sampler{hash: sha256.New()}
	runtime.GC()
	out.sample()
	before := out.peak
	req := sh(fmt.Sprintf("head -c %d /dev/zero", n))
	status, err := guest.Exec(context.Background(), dial(t, s), req, nil, out, nil, nil)
	want := sha256.New()
	io.CopyN(want, zeros{}, n)
	if err != nil || status.Code != 0 || !bytes.Equal(out.hash.Sum(nil), want.Sum(nil)) {
		t.Errorf("%v %v", status, err)
	}
	if grown := int64(out.peak) - int64(before); grown > 4<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
}

// sampler hashes what is written and watches the heap.
type sampler struct {
	hash hash.Hash
	n    int
	peak uint64
}

func (s *sampler) Write(p []byte) (int, error) {
	if s.n += len(p); s.n > 8<<20 {
		s.n = 0
		s.sample()
	}
	return s.hash.Write(p)
}

func (s *sampler) sample() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.peak = max(s.peak, m.HeapAlloc)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// gate is a writer that blocks until it is opened.
type gate struct {
	open chan struct{}
	buf  bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	return g.buf.Write(p)
}

// A client that reads only stderr still gets it while stdout is full; a signal
// gets through; the exit does not wait behind the output.
func TestStderrWhileStdoutIsFull(t *testing.T) {
	s := newServer(t)
	stdout := &gate{open: make(chan struct{})}
	stderr := &notify{want: "full\n", seen: make(chan struct{})}
	signals := make(chan syscall.Signal)
	// The trap ends the writer when it is blocked for good.
	req := sh(`trap 'kill $!; wait; echo got >&2; exit 9' USR1
		yes & sleep 0.2; echo full >&2; while :; do wait; done`)
	done := make(chan result)
	go func() {
		status, err := guest.Exec(context.Background(), dial(t, s), req, nil, stdout, stderr, signals)
		done <- result{status: status, failure: err}
	}()
	<-stderr.seen
	signals <- syscall.SIGUSR1
	close(stdout.open) // the rest of the output is written before Exec returns
	r := <-done
	if r.failure != nil || r.status.Code != 9 || !strings.HasSuffix(stderr.String(), "got\n") {
		t.Errorf("%+v, stderr %q", r, stderr.String())
	}
	if stdout.buf.Len() < wire.Window {
		t.Errorf("only %d bytes of stdout", stdout.buf.Len())
	}
}

// notify is a writer that tells when its content contains something.
type notify struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	want string
	seen chan struct{}
}

func (n *notify) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.buf.Write(p)
	if n.want != "" && strings.Contains(n.buf.String(), n.want) {
		n.want = ""
		close(n.seen)
	}
	return len(p), nil
}

func (n *notify) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.buf.String()
}

// Output is handed on as it is produced.
func TestStreaming(t *testing.T) {
	s := newServer(t)
	in, feed := io.Pipe()
	out := &notify{want: "one\n", seen: make(chan struct{})}
	req := guest.ExecRequest{Args: []string{"cat"}, Stdin: true}
	done := make(chan error)
	go func() {
		_, err := guest.Exec(context.Background(), dial(t, s), req, in, out, nil, nil)
		done <- err
	}()
	feed.Write([]byte("one\n"))
	<-out.seen
	feed.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A command that closes its stdout and goes on is not waited for in silence:
// what it wrote is there at once.
func TestClosedStdoutIsFlushed(t *testing.T) {
	s := newServer(t)
	in, feed := io.Pipe()
	out := &notify{want: "early", seen: make(chan struct{})}
	req := sh("printf early; exec >&- 2>&-; cat")
	req.Stdin = true
	done := make(chan error)
	go func() {
		_, err := guest.Exec(context.Background(), dial(t, s), req, in, out, nil, nil)
		done <- err
	}()
	<-out.seen
	feed.Close()
	<-done
}

// The writer's failure ends the command and is told from others.
func TestOutputError(t *testing.T) {
	s := newServer(t)
	broken := writerFunc(func(p []byte) (int, error) { return 0, syscall.EPIPE })
	_, err := guest.Exec(context.Background(), dial(t, s), guest.ExecRequest{Args: []string{"yes"}}, nil, broken, nil, nil)
	var oe *guest.OutputError
	if !errors.As(err, &oe) || oe.Stream != "stdout" || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v", err)
	}
	s.Wait() // yes is gone
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
