package vsock

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/virtio/queue"
	"golang.org/x/sys/unix"
)

func TestParseConnect(t *testing.T) {
	for line, want := range map[string]int64{
		"CONNECT 1":           1,
		"CONNECT 0":           0,
		"CONNECT 0052":        52,
		"CONNECT 4294967294":  4294967294,
		"CONNECT 4294967295":  -1, // VMADDR_PORT_ANY
		"CONNECT 4294967296":  -1,
		"CONNECT 99999999999": -1,
		"CONNECT ":            -1,
		"CONNECT":             -1,
		"":                    -1,
		"CONNECT -1":          -1,
		"CONNECT +1":          -1,
		"CONNECT  1":          -1,
		"CONNECT 1 ":          -1,
		"CONNECT 1\r":         -1,
		"CONNECT 0x10":        -1,
		"connect 1":           -1,
		"\x00\xff":            -1,
		"CONNECT \u0661":      -1,
	} {
		port, ok := parseConnect([]byte(line))
		if ok != (want >= 0) || ok && int64(port) != want {
			t.Errorf("%q: %d, %v; want %d", line, port, ok, want)
		}
	}
}

// TestS21LineInPieces is every splitting of the line in two, and byte by byte,
// each with data right behind it.
func TestS21LineInPieces(t *testing.T) {
	r := newRig(t, rigOptions{})
	line := "CONNECT 7\nDATA"
	for cut := 1; cut < len(line); cut++ {
		c := r.dial(line[:cut])
		r.pump()
		if _, err := c.Write([]byte(line[cut:])); err != nil {
			t.Fatal(err)
		}
		r.pump()
		s := r.respond()
		expect(t, c, fmt.Sprintf("OK %d\n", s.host))
		if got := r.data(); string(got) != "DATA" {
			t.Fatalf("cut at %d: guest got %q", cut, got)
		}
	}
	c := r.dial(line[:1])
	for i := 1; i < len(line); i++ {
		r.pump()
		if _, err := c.Write([]byte{line[i]}); err != nil {
			t.Fatal(err)
		}
	}
	r.pump()
	r.respond()
	if got := r.data(); string(got) != "DATA" {
		t.Fatalf("guest got %q", got)
	}
}

func TestS21BadLines(t *testing.T) {
	for name, line := range map[string]string{
		"no newline in 64 bytes": strings.Repeat("C", 64),
		"1 MiB":                  strings.Repeat("C", 1<<20),
		"newline as 65th":        "CONNECT " + strings.Repeat("0", 56) + "\n",
		"negative":               "CONNECT -5\n",
		"huge":                   "CONNECT 18446744073709551616\n",
		"binary":                 "\x00\x01\x02\n",
		"empty":                  "\n",
		"other word":             "GET / HTTP/1.1\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			c, err := net.Dial("unix", r.sock)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.(*net.UnixConn).SetWriteDeadline(time.Now()) // write what fits, no more
			raw, _ := c.(*net.UnixConn).SyscallConn()
			_ = raw.Control(func(fd uintptr) { _, _ = unix.Write(int(fd), []byte(line)) })
			r.pump()
			expectEOF(t, c)
			r.quiet()
			r.checkEmpty()
		})
	}
}

func TestS21LineNeverComes(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.dial("CONN")
	r.pump()
	r.advance(1900 * time.Millisecond)
	if r.d.Stats().Open != 1 {
		t.Fatal("closed early")
	}
	r.advance(200 * time.Millisecond)
	expectEOF(t, c)
	r.checkEmpty()
}

// TestS21DialerLeaves is Cloud Hypervisor #6621: the dialer closes before it
// has finished its line.
func TestS21DialerLeaves(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, line := range []string{"", "C", "CONNECT 7"} {
		for _, half := range []bool{false, true} {
			c := r.dial(line)
			if half {
				_ = c.CloseWrite()
			} else {
				_ = c.Close()
			}
			r.pump()
			r.quiet()
			r.checkEmpty()
			if half {
				expectEOF(t, c)
			}
		}
	}
}

// A dialer may write and go: what it wrote is delivered.
func TestDialerWritesAndLeaves(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.dial("CONNECT 7\nlast words")
	_ = c.Close()
	r.pump()
	r.respond()
	r.want(opShutdown) // nobody reads any more
	if got := r.data(); string(got) != "last words" {
		t.Errorf("guest got %q", got)
	}
	if p := r.want(opShutdown); p.flags != shutdownBoth {
		t.Errorf("flags %d", p.flags)
	}
}

// TestS9GuestNeverAnswers is pitfall 12 too.
func TestS9GuestNeverAnswers(t *testing.T) {
	r := newRig(t, rigOptions{config: Config{Limits: Limits{Connect: 3 * time.Second}}})
	c := r.dial("CONNECT 7\n")
	r.pump()
	q := r.want(opRequest)
	r.advance(2900 * time.Millisecond)
	r.quiet()
	r.advance(200 * time.Millisecond)
	if p := r.want(opRST); p.srcPort != q.srcPort {
		t.Errorf("%v", p)
	}
	expectEOF(t, c)
	r.checkEmpty()
	// A late answer is to nobody.
	r.send(header{op: opResponse, srcPort: 7, dstPort: q.srcPort}, nil)
	r.want(opRST)
}

// The time for an answer starts when the guest has the question.
func TestConnectWaitsForBuffers(t *testing.T) {
	r := newRig(t, rigOptions{rxCount: 1})
	r.keep = true
	r.send(header{op: opRW, srcPort: 1, dstPort: 1}, nil) // takes the buffer
	r.want(opRST)
	c := r.dial("CONNECT 7\n")
	r.pump()
	r.advance(time.Hour)
	r.quiet()
	r.post([]queue.Buffer{r.rx.Alloc(4096)})
	r.kick()
	r.pump()
	s := r.respond()
	expect(t, c, fmt.Sprintf("OK %d\n", s.host))
}

func TestDialsAreHeldUntilAccept(t *testing.T) {
	r := newRig(t, rigOptions{noListen: true})
	r.sock = t.TempDir() + "/s"
	r.d.fds.listener = listen(t, r.sock)
	_ = unix.SetNonblock(r.d.fds.listener, true)
	r.d.accepting.enabled = false
	c := r.dial("CONNECT 7\n")
	r.pump()
	r.quiet()
	r.d.Accept()
	r.pump()
	s := r.respond()
	expect(t, c, fmt.Sprintf("OK %d\n", s.host))
}

// At the limit dialers wait; nothing spins, and the oldest goes on as soon as
// there is room.
func TestConnectionLimitHoldsDialers(t *testing.T) {
	r := newRig(t, rigOptions{config: Config{Limits: Limits{Connections: 2}}})
	s1, _ := r.connect()
	r.connect()
	c3 := r.dial("CONNECT 7\n")
	r.pump()
	r.quiet()
	s1.op(opRST, 0)
	s3 := r.respond()
	expect(t, c3, fmt.Sprintf("OK %d\n", s3.host))
}

func TestNoDescriptorsLeft(t *testing.T) {
	logged := 0
	r := newRig(t, rigOptions{config: Config{Log: func(string, ...any) { logged++ }}})
	s, c := r.connect()
	c2 := r.dial("CONNECT 7\n")
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	r.pump() // ends: no spin
	r.advance(500 * time.Millisecond)
	r.advance(600 * time.Millisecond) // tries again by itself
	s.write([]byte("alive"))
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, c, "alive")
	if logged != 1 {
		t.Errorf("logged %d times", logged)
	}
	s.op(opRST, 0) // gives a descriptor back
	r.pump()
	s2 := r.respond()
	expect(t, c2, fmt.Sprintf("OK %d\n", s2.host))
}

// TestPitfall11HostPorts: unique, from a random start, also across the end of
// the range.
func TestPitfall11HostPorts(t *testing.T) {
	r := newRig(t, rigOptions{})
	if r.d.nextPort < firstPort || r.d.nextPort >= 2*firstPort {
		t.Errorf("first port %d", r.d.nextPort)
	}
	r.d.nextPort = maxPort - 1
	seen := map[uint32]bool{}
	for range 5 {
		s, _ := r.connect()
		if seen[s.host] || s.host < firstPort || s.host > maxPort {
			t.Errorf("port %d", s.host)
		}
		seen[s.host] = true
	}
	r.d.nextPort = maxPort // all of the next ones are in use
	s, _ := r.connect()
	if seen[s.host] {
		t.Errorf("port %d again", s.host)
	}
}
