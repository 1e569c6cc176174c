package guest

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// silent is a guest whose command says nothing and does not end.
func silent(t *testing.T) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		if readRequest(theirs) {
			theirs.Write(started)
			theirs.Read(make([]byte, 1)) // until the client hangs up
		}
	}()
	return ours
}

// The reader of stdout goes away while the command is silent.
func TestReaderOfStdoutIsGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	_, err = Exec(context.Background(), silent(t), ExecRequest{Args: []string{"sleep"}}, nil, w, nil, nil)
	var oe *OutputError
	if !errors.As(err, &oe) || !errors.Is(err, syscall.EPIPE) {
		t.Error(err)
	}
}

// Watching ends with the command, whether it had begun or not, and leaves no
// descriptor behind.
func TestWatchEnds(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	gone := func() { t.Error("the reader is there") }
	before := descriptors(t)
	early := watch(w, gone)
	early.stop()
	late := watch(w, gone)
	for running := false; !running; time.Sleep(time.Millisecond) {
		late.mu.Lock()
		running = late.done != nil
		late.mu.Unlock()
	}
	late.stop()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, then %d", before, after)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, w := range []any{null, new(strings.Builder), nil} {
		if watch(w, gone) != nil {
			t.Errorf("%T is watched", w)
		}
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
