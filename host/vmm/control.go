package vmm

import (
	"bufio"
	"io"
	"net"
	"os"
	"sync"
)

// The control protocol: the host connects, sends one line, and reads one.
//
//	stop    ends the machine at once; "ok" when its end is recorded
//	wait    only waits; "ok" when the machine's end is recorded
//	tether  "ok" at once; from then on the machine ends when the connection does
//	ping    "ok" at once
//	stats   one line of name=value: KVM's counters, summed over the vCPUs
//
// A connection that ends without "ok" ended with the VMM, which was killed.
const (
	ControlStop   = "stop"
	ControlWait   = "wait"
	ControlTether = "tether"
	ControlPing   = "ping"
	ControlStats  = "stats"
	ControlOK     = "ok"
)

// maxControlLine bounds a request, in bytes.
const maxControlLine = 256

// control serves the control socket and holds the connections that wait for
// the machine's end.
type control struct {
	stop  func()        // ends the machine; does not wait
	stats func() string // what ControlStats is answered with

	mu      sync.Mutex
	ended   bool
	waiting []net.Conn
}

// serve answers connections to the listening socket fd until the process ends.
func (c *control) serve(fd uintptr) error {
	f := os.NewFile(fd, "control socket")
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.answer(conn)
		}
	}()
	return nil
}

func (c *control) answer(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, maxControlLine), maxControlLine)
	lines.Scan() // no line at all is answered like an unknown one
	switch lines.Text() {
	case ControlStop:
		c.stop()
		c.await(conn)
	case ControlWait:
		c.await(conn)
	case ControlTether:
		c.tether(conn)
	case ControlPing:
		release(conn, ControlOK)
	case ControlStats:
		release(conn, c.stats())
	default:
		release(conn, "error unknown request")
	}
}

// tether ends the machine when the other end of conn goes, however it goes.
func (c *control) tether(conn net.Conn) {
	defer conn.Close()
	if _, err := conn.Write([]byte(ControlOK + "\n")); err == nil {
		_, _ = io.Copy(io.Discard, conn) // until the end, or an error that is one
	}
	c.stop()
}

// await keeps conn until the machine's end.
func (c *control) await(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		release(conn, ControlOK)
		return
	}
	c.waiting = append(c.waiting, conn)
}

// end tells everybody who waits that the machine's end is on record.
func (c *control) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, conn := range c.waiting {
		release(conn, ControlOK)
	}
}

// release answers conn and closes it.
func release(conn net.Conn, line string) {
	_, _ = conn.Write([]byte(line + "\n")) // the host may be gone
	conn.Close()
}
