package eventfd

import (
	"errors"
	"os"
	"testing"
)

func TestSignalDrain(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if f.Drain() {
		t.Error("a new counter is signalled")
	}
	f.Signal()
	f.Signal()
	if !f.Drain() || f.Drain() {
		t.Error("Drain does not take all signals at once")
	}
	if n := testing.AllocsPerRun(100, func() { f.Signal(); f.Drain() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	f.Signal() // must not hit another file
}

func TestWait(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	f.Signal()
	if err := f.Wait(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- f.Wait() }()
	f.Signal()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	go func() { done <- f.Wait() }()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait on a closed counter = %v", err)
	}
}
