package l1

import (
	"bytes"
	"net"
	"os"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/tests/lab/proto"
)

// pumped returns what a pump sends of f until its EOF.
func pumped(t *testing.T, f *os.File) <-chan []byte {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	done, got := make(chan struct{}), make(chan []byte, 1)
	go pump(proto.NewOutgoing(proto.NewConn(a), proto.Stdout), f, done)
	go func() {
		var all []byte
		c := proto.NewConn(b)
		for {
			f, err := c.Receive()
			if err != nil || f.Kind == proto.EOF {
				<-done
				got <- all
				return
			}
			all = append(all, f.Payload...)
		}
	}()
	return got
}

func TestPumpSendsWhatAPipeHeldAtTheEnd(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close() // stays open, as by a process left behind
	want := bytes.Repeat([]byte("last words\n"), 5000)
	if _, err := w.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if got := <-pumped(t, r); !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d", len(got), len(want))
	}
}

func TestPumpEndsWithItsPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := pumped(t, r)
	w.WriteString("out")
	w.Close()
	if got := <-got; string(got) != "out" {
		t.Errorf("%q", got)
	}
}

func TestCodeOfACommandThatCannotStart(t *testing.T) {
	if _, err := lookUp("no-such-program-at-all"); startCode(err) != 127 {
		t.Errorf("missing: %v", err)
	}
	if code := startCode(os.ErrPermission); code != 126 {
		t.Errorf("not executable: %d", code)
	}
}
