package vsock

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// dial connects to the listening socket and writes line.
func (r *rig) dial(line string) *net.UnixConn {
	r.t.Helper()
	c, err := net.Dial("unix", r.sock)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if _, err := c.Write([]byte(line)); err != nil {
		r.t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// expect reads exactly want from c. What is read was written before, so that
// it does not wait.
func expect(t testing.TB, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		k, err := c.Read(got[n:])
		if err != nil {
			t.Fatalf("read %q, then %v; want %q", got[:n], err, want)
		}
		n += k
	}
	if string(got) != want {
		t.Fatalf("read %q, want %q", got, want)
	}
}

// expectEOF checks that c ends here, in order.
func expectEOF(t testing.TB, c net.Conn) {
	t.Helper()
	var p [16]byte
	if n, err := c.Read(p[:]); n != 0 || err == nil || err.Error() != "EOF" {
		t.Fatalf("read %q, %v; want EOF", p[:n], err)
	}
}

// peek reads what is there without waiting; n is -1 when nothing is.
func peek(t testing.TB, c *net.UnixConn) (n int, err error) {
	t.Helper()
	raw, rawErr := c.SyscallConn()
	if rawErr != nil {
		t.Fatal(rawErr)
	}
	var p [16]byte
	_ = raw.Control(func(fd uintptr) { n, _, err = unix.Recvfrom(int(fd), p[:], unix.MSG_PEEK|unix.MSG_DONTWAIT) })
	return n, err
}

// openFiles counts this process's descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// pattern returns n bytes without a short period.
func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	x := uint32(seed) + 1
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}

func same(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: %d bytes differ from the %d wanted", what, len(got), len(want))
	}
}

// stuff writes until the socket is full and something waits in the device, and
// returns what it wrote. The host reads nothing meanwhile.
func (s *sock) stuff(t testing.TB) []byte {
	t.Helper()
	var all []byte
	for i := 0; s.conn().out.n < 100_000; i++ {
		p := pattern(40_000, byte(i))
		s.write(p)
		all = append(all, p...)
		for len(s.r.seen) > 0 { // only credit may come
			s.r.want(opCreditUpdate)
		}
		if i > 100 {
			t.Fatal("the socket never fills")
		}
	}
	return all
}

// readAll reads c to its end, running the loop as often as there is nothing.
func (r *rig) readAll(c *net.UnixConn) []byte {
	r.t.Helper()
	all, err := r.readUntil(c, -1)
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// readUntil reads n bytes, or to the end when n is negative.
func (r *rig) readUntil(c *net.UnixConn, n int) (all []byte, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := make([]byte, 10_000)
	idle := 0
	for n < 0 || len(all) < n {
		var k int
		_ = raw.Control(func(fd uintptr) { k, _, err = unix.Recvfrom(int(fd), p, unix.MSG_DONTWAIT) })
		switch {
		case err == unix.EAGAIN:
			if idle++; idle > 3 {
				return all, fmt.Errorf("stuck after %d bytes", len(all))
			}
			r.pump()
		case err != nil:
			return all, err
		case k == 0:
			return all, nil
		default:
			idle = 0
			all = append(all, p[:k]...)
		}
	}
	return all, nil
}
