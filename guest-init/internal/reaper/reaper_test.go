package reaper

import (
	"os"
	"sync"
	"syscall"
	"testing"
)

func newReaper(t *testing.T) *Reaper {
	r := New()
	go r.Run()
	t.Cleanup(r.Close)
	return r
}

func spawn(r *Reaper, args ...string) (*Child, error) {
	return r.Start("/bin/sh", append([]string{"sh", "-c"}, args...),
		&syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}}, nil)
}

// Exactly one status for each child, and its own, however short they live.
func TestEveryStatusOnce(t *testing.T) {
	r := newReaper(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				code := (w*50 + i) % 256
				c, err := spawn(r, "exit $0", itoa(code))
				if err != nil {
					t.Error(err)
					return
				}
				if s := <-c.Exited(); s.ExitStatus() != code {
					t.Errorf("got %d, want %d", s.ExitStatus(), code)
				}
				select {
				case <-c.Exited():
					t.Error("a second status")
				default:
				}
			}
		})
	}
	wg.Wait()
}

func itoa(n int) string {
	return string([]byte{byte('0' + n/100), byte('0' + n/10%10), byte('0' + n%10)})
}

// A program that cannot be run leaves no child behind, and no status for others.
func TestFailedStart(t *testing.T) {
	r := newReaper(t)
	for range 20 {
		if _, err := r.Start("/no/such/program", []string{"x"}, &syscall.ProcAttr{}, nil); err != syscall.ENOENT {
			t.Fatal(err)
		}
		c, err := spawn(r, "exit 3")
		if err != nil {
			t.Fatal(err)
		}
		if s := <-c.Exited(); s.ExitStatus() != 3 {
			t.Errorf("%v", s)
		}
	}
	if len(r.children) != 0 {
		t.Errorf("%d children are left", len(r.children))
	}
}

// A reaped child's number is not signalled: it may be another's.
func TestSignalAfterExit(t *testing.T) {
	r := newReaper(t)
	c, err := spawn(r, "sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	if !r.SignalGroup(c, syscall.SIGTERM) {
		t.Error("not sent")
	}
	if s := <-c.Exited(); s.Signal() != syscall.SIGTERM {
		t.Errorf("%v", s)
	}
	if r.SignalGroup(c, syscall.SIGTERM) {
		t.Error("sent to a reaped child")
	}
}
