package vmm

import (
	"bytes"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// maxConsole bounds the guest's log file, in bytes.
const maxConsole = 4 << 20

// consoleLog is the guest's log: a file that never grows past a limit. When it
// is full the older half gives way, and a line says how much is gone.
//
// It is safe for several goroutines: the console device and, early in boot,
// vCPU threads write to it.
type consoleLog struct {
	fd    int
	limit int64

	mu   sync.Mutex
	size int64
	tail []byte // the last tailSize bytes or so, to find a panic's reason in
}

const tailSize = 8 << 10

func newConsoleLog(fd int, limit int64) (*consoleLog, error) {
	if err := unix.Ftruncate(fd, 0); err != nil {
		return nil, fmt.Errorf("console log: %w", err)
	}
	return &consoleLog{fd: fd, limit: limit}, nil
}

// Write appends p. What the disk refuses is lost: a full disk must not stop
// the guest. It always takes all of p.
func (c *consoleLog) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remember(p)
	rest := p
	for len(rest) > 0 {
		chunk := rest[:min(int64(len(rest)), c.limit/2)]
		if c.size+int64(len(chunk)) > c.limit {
			c.makeRoom()
		}
		n, err := unix.Pwrite(c.fd, chunk, c.size)
		if err != nil {
			break
		}
		c.size += int64(n)
		rest = rest[n:]
	}
	return len(p), nil
}

func (c *consoleLog) remember(p []byte) {
	c.tail = append(c.tail, p[max(0, len(p)-tailSize):]...)
	if len(c.tail) > 2*tailSize {
		c.tail = append(c.tail[:0], c.tail[len(c.tail)-tailSize:]...)
	}
}

// noteSize is more than the line that makeRoom writes ever has.
const noteSize = 80

// makeRoom moves the newer half of the file to its start.
func (c *consoleLog) makeRoom() {
	kept := make([]byte, c.limit/2-noteSize)
	n, err := unix.Pread(c.fd, kept, c.size-int64(len(kept)))
	if err != nil {
		n = 0
	}
	kept = kept[:n]
	if i := bytes.IndexByte(kept, '\n'); i >= 0 {
		kept = kept[i+1:]
	}
	note := fmt.Appendf(nil, "[agentkernel: %d bytes of older log dropped]\n", c.size-int64(len(kept)))
	if err := unix.Ftruncate(c.fd, 0); err != nil {
		return
	}
	c.size = 0
	for _, b := range [][]byte{note, kept} {
		if n, err := unix.Pwrite(c.fd, b, c.size); err == nil {
			c.size += int64(n)
		}
	}
}

// panicReason returns what the guest's kernel said when it panicked, as the
// log's tail has it.
func (c *consoleLog) panicReason() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	const mark = "Kernel panic - not syncing: "
	i := bytes.Index(c.tail, []byte(mark))
	if i < 0 {
		return "", false
	}
	text, _, _ := bytes.Cut(c.tail[i+len(mark):], []byte("\n"))
	return string(bytes.TrimSpace(text)), true
}
