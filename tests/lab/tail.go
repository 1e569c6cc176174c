package lab

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"sync"
)

// tailSize is how many bytes a tail keeps.
const tailSize = 16 << 10

// tail keeps the last bytes that were written to it.
type tail struct {
	also   io.Writer   // gets everything, may be nil
	alarms []string    // texts to look for
	alarm  chan string // gets the first line with one of them; room for one

	mu  sync.Mutex
	buf []byte
}

func newTail() *tail { return &tail{} }

// newConsole returns the tail of L1's console, with an alarm for its death.
func newConsole(also io.Writer, alarms ...string) *tail {
	return &tail{also: also, alarms: alarms, alarm: make(chan string, 1)}
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.also != nil {
		t.also.Write(p) // a log that can't be written must not stop the lab
	}
	t.buf = append(t.buf, p...)
	t.ring()
	if extra := len(t.buf) - tailSize; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

// ring raises the alarm for a whole line that holds one of the texts, once.
func (t *tail) ring() {
	for _, text := range t.alarms {
		i := bytes.Index(t.buf, []byte(text))
		if i < 0 {
			continue
		}
		line, _, whole := bytes.Cut(t.buf[i:], []byte("\n"))
		if !whole {
			continue
		}
		t.alarms = nil
		t.alarm <- strings.TrimSpace(string(line))
		return
	}
}

// lines returns the last n lines, without carriage returns, "" if there is nothing.
func (t *tail) lines(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(bytes.ReplaceAll(t.buf, []byte("\r"), nil))
	if len(text) == 0 {
		return ""
	}
	all := slices.DeleteFunc(strings.Split(string(text), "\n"), isNoise)
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// isNoise tells QEMU's warnings about what TCG leaves out of the processor.
func isNoise(line string) bool {
	return strings.Contains(line, "warning: TCG doesn't support requested feature")
}
