package lab

import (
	"strings"
	"testing"
)

func TestTailKeepsTheEnd(t *testing.T) {
	c := newTail()
	for range tailSize {
		c.Write([]byte("xyz\r\n"))
	}
	c.Write([]byte("qemu-system-x86_64: warning: TCG doesn't support requested feature: X\r\nlast\r\n"))
	if got := c.lines(2); got != "xyz\nlast" {
		t.Errorf("%q", got)
	}
	if len(c.buf) > tailSize {
		t.Errorf("keeps %d bytes", len(c.buf))
	}
}

func TestAlarmHoldsTheWholeLine(t *testing.T) {
	var all strings.Builder
	c := newConsole(&all, "Kernel panic")
	for _, part := range []string{"[1.0] Kernel pa", "nic - not syn", "cing: x\r", "\nKernel panic again\n"} {
		if len(c.alarm) != 0 {
			t.Fatal("too early")
		}
		c.Write([]byte(part))
	}
	if got := <-c.alarm; got != "Kernel panic - not syncing: x" {
		t.Errorf("%q", got)
	}
	c.Write([]byte("Kernel panic\n")) // must not block
	if !strings.HasPrefix(all.String(), "[1.0] Kernel panic") {
		t.Errorf("log: %q", all.String())
	}
}
