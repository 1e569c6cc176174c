package vsock

import (
	"fmt"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/virtio/queue"
	"golang.org/x/sys/unix"
)

// The steady path of data allocates nothing.
func TestNoAllocations(t *testing.T) {
	r := newRig(t, rigOptions{rxCount: 4})
	s, c := r.connect()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	k := s.conn()
	buf := r.rx.Alloc(4096)
	txBuf := r.tx.Alloc(headerSize + 1024)
	p, one := make([]byte, 1024), []byte{1, 0, 0, 0, 0, 0, 0, 0}
	var events [8]unix.EpollEvent
	var hostFD int
	_ = raw.Control(func(fd uintptr) { hostFD = int(fd) })
	h := s.header(opRW)
	h.srcCID, h.dstCID, h.typ, h.length = guestCID, hostCID, typeStream, 1024
	var head [headerSize]byte
	h.encode(&head)
	r.tx.Write(txBuf.Addr, head[:])
	step := func() {
		k.peerFwd, k.flight = k.sent, flight{}
		_, _ = unix.Write(hostFD, p)
		_, _ = unix.Write(r.d.KickFD(), one)
		n, _ := unix.EpollWait(r.d.fds.epoll, events[:], 0)
		for more := r.d.turn(events[:max(0, n)]); more; {
			more = r.d.turn(nil)
		}
		_, _ = unix.Read(hostFD, p)
	}
	// What the fake driver allocates is counted on its own and subtracted.
	driver := func() {
		r.rx.Add(nil, []queue.Buffer{buf})
		r.tx.Add([]queue.Buffer{txBuf}, nil)
		for _, ok := r.rx.Used(); ok; _, ok = r.rx.Used() {
		}
		for _, ok := r.tx.Used(); ok; _, ok = r.tx.Used() {
		}
	}
	before := r.d.Stats()
	const rounds = 200
	var total float64
	for range rounds {
		driver()
		total += testing.AllocsPerRun(1, step) // runs it twice
	}
	after := r.d.Stats()
	if after.RxBytes-before.RxBytes < rounds*1024 || after.TxBytes-before.TxBytes < rounds*1024 {
		t.Fatalf("moved %d and %d bytes", after.RxBytes-before.RxBytes, after.TxBytes-before.TxBytes)
	}
	if total > rounds/20 {
		t.Errorf("%v allocations in %d rounds", total, rounds)
	}
}

// Data and time: nothing of an idle connection has a deadline.
func TestIdleConnectionLives(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	r.advance(1000 * time.Hour)
	r.quiet()
	s.write([]byte("alive"))
	expect(t, c, "alive")
}

// TestS16PingPong: one byte there and one back, without a stall.
func TestS16PingPong(t *testing.T) {
	r := newRig(t, rigOptions{eventIdx: true})
	s, c := r.connect()
	for i := range 20_000 {
		b := []byte{byte(i)}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		r.pump()
		if got := r.data(); len(got) != 1 || got[0] != b[0] {
			t.Fatalf("round %d: guest got %v, %v", i, got, r.seen)
		}
		s.fwd++
		s.write(b)
		expect(t, c, string(b))
		r.seen = nil // credit
	}
}

func TestThousandsOfConnections(t *testing.T) {
	const n = 2000
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur < 3*n {
		t.Skipf("only %d descriptors", files.Cur)
	}
	r := newRig(t, rigOptions{})
	socks := make([]*sock, n)
	for i := range socks {
		c := r.dial(fmt.Sprintf("CONNECT %d\nhello", i))
		r.pump()
		socks[i] = r.respond()
		expect(t, c, fmt.Sprintf("OK %d\n", socks[i].host))
		if got := r.data(); string(got) != "hello" {
			t.Fatalf("connection %d: guest got %q", i, got)
		}
	}
	if s := r.d.Stats(); s.Open != n || s.Buffered != 0 {
		t.Errorf("%d open, %d bytes buffered", s.Open, s.Buffered)
	}
	for _, s := range socks {
		s.op(opShutdown, shutdownBoth)
		r.want(opRST)
	}
	r.checkEmpty()
}

// bench moves size bytes a round in one direction on the loop's code.
func bench(b *testing.B, size int, toGuest bool) {
	r := newRig(b, rigOptions{eventIdx: true})
	s, c := r.connect()
	k := s.conn()
	raw, err := c.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	p := pattern(size, 1)
	var fd int
	_ = raw.Control(func(f uintptr) { fd = int(f) })
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		k.peerFwd, k.flight = k.sent, flight{}
		if toGuest {
			_, _ = unix.Write(fd, p)
			r.pump()
			r.seen = r.seen[:0]
		} else {
			s.write(p)
			_, _ = unix.Read(fd, p)
			r.seen = r.seen[:0]
		}
	}
}

func BenchmarkToGuest(b *testing.B)   { bench(b, 32<<10, true) }
func BenchmarkFromGuest(b *testing.B) { bench(b, 32<<10, false) }
func BenchmarkByte(b *testing.B)      { bench(b, 1, true) }
