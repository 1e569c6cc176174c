package vsock

import (
	"errors"
	"math"
	"testing"

	"github.com/agentkernel/agentkernel/virtio/queue"
	"golang.org/x/sys/unix"
)

// Tests named S… are the rows of the suite of public vsock bugs; those named
// after a rule cover the clause in their comment.

func TestS1UnknownTypeAndOperation(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	for _, typ := range []uint16{2, 3, math.MaxUint16} {
		h := s.header(opRW)
		h.typ = typ
		r.send(h, nil)
		if p := r.want(opRST); p.typ != typ || p.dstPort != s.guest || p.srcPort != s.host {
			t.Errorf("type %d: answer %+v", typ, p.header)
		}
		h.op = opRST
		r.send(h, nil)
	}
	for _, op := range []uint16{0, 8, 9, 0x100, math.MaxUint16} {
		s.op(op, math.MaxUint32)
		r.quiet()
	}
	s.write([]byte("alive"))
	expect(t, c, "alive")
}

func TestS1TypeZero(t *testing.T) {
	r := newRig(t, rigOptions{})
	var head [headerSize]byte
	h := header{srcCID: guestCID, dstCID: hostCID, op: opRequest, srcPort: 1, dstPort: 2}
	h.encode(&head)
	r.tx.Add([]queue.Buffer{r.tx.AllocBytes(head[:])}, nil)
	r.kick()
	r.pump()
	if p := r.want(opRST); p.typ != 0 {
		t.Errorf("answer has type %d", p.typ)
	}
}

func TestS2ShortHeader(t *testing.T) {
	r := newRig(t, rigOptions{})
	for n := 1; n < headerSize; n++ {
		r.tx.Add([]queue.Buffer{r.tx.Alloc(n)}, nil)
	}
	r.tx.Add(nil, []queue.Buffer{r.tx.Alloc(100)}) // no readable part at all
	r.kick()
	r.pump()
	r.quiet()
	if n := r.d.Stats().Dropped; n != headerSize {
		t.Errorf("%d packets dropped, want %d", n, headerSize)
	}
}

func TestS2SplitAtEveryByte(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	payload := "0123456789abcdef"
	h := s.header(opRW)
	h.srcCID, h.dstCID, h.typ, h.length = guestCID, hostCID, typeStream, uint32(len(payload))
	var head [headerSize]byte
	h.encode(&head)
	all := append(head[:], payload...)
	for cut := 1; cut < len(all); cut++ {
		r.tx.Add([]queue.Buffer{r.tx.AllocBytes(all[:cut]), r.tx.AllocBytes(all[cut:])}, nil)
		r.kick()
		r.pump()
		expect(t, c, payload)
	}
	var bytewise []queue.Buffer
	for _, b := range all {
		bytewise = append(bytewise, r.tx.AllocBytes([]byte{b}))
	}
	r.tx.AddIndirect(bytewise, nil)
	r.kick()
	r.pump()
	expect(t, c, payload)
}

func TestS2ReceiveBufferSplitAnywhere(t *testing.T) {
	for _, split := range [][]int{{44, 10}, {45}, {1, 43, 1}, {20, 20, 20, 20}, {44, 1, 1, 1, 1, 1, 1, 4096}} {
		r := newRig(t, rigOptions{rxSplit: split})
		_, c := r.connect()
		want := pattern(300, 1) // no more: the guest gives no credit, and one byte is one packet
		if _, err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		r.pump()
		same(t, "stream", r.data(), want)
	}
}

func TestS3LengthLies(t *testing.T) {
	for name, row := range map[string]struct {
		length  uint32
		payload int
		reset   bool
		want    string
	}{
		"more than the chain holds":   {length: 11, payload: 10, reset: true},
		"4 GiB":                       {length: math.MaxUint32, payload: 10, reset: true},
		"more than the window":        {length: 300 << 10, payload: 10, reset: true},
		"less than the chain, legal":  {length: 4, payload: 10, want: "AAAA"},
		"nothing, whatever the chain": {length: 0, payload: 10},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			s, c := r.connect()
			h := s.header(opRW)
			h.length = row.length
			r.send(h, []byte("AAAAAAAAAAAA")[:row.payload])
			if row.reset {
				r.want(opRST)
				expectEOF(t, c)
				r.checkEmpty()
				return
			}
			r.quiet()
			expect(t, c, row.want)
			if n, err := peek(t, c); !errors.Is(err, unix.EAGAIN) {
				t.Errorf("further data: %d, %v", n, err)
			}
		})
	}
}

func TestS4WrongCID(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	for _, cid := range []uint64{1, 2, 4, 1<<32 | guestCID, math.MaxUint64} {
		h := s.header(opRST)
		h.srcCID = cid
		r.send(h, nil)
	}
	for _, cid := range []uint64{1, 3, 1<<32 | hostCID, math.MaxUint64} {
		h := s.header(opRST)
		h.dstCID = cid
		r.send(h, nil)
	}
	r.quiet()
	s.write([]byte("alive"))
	expect(t, c, "alive")
}

func TestS8RequestFlood(t *testing.T) {
	calls := 0
	r := newRig(t, rigOptions{config: Config{
		Limits:    Limits{Connections: 20},
		HostPorts: map[uint32]func() (int, error){1024: func() (int, error) { calls++; return socketEnd(t), nil }},
	}})
	s, c := r.connect()
	opened, refused := 0, 0
	for i := range 10_000 {
		h := header{op: opRequest, srcPort: uint32(i % 5000), dstPort: 1024}
		if i%3 == 0 {
			h.dstPort = []uint32{0, math.MaxUint32, 1 << 30, 7}[i%4]
		}
		r.send(h, nil)
		for len(r.seen) > 0 {
			switch p := r.next(); p.op {
			case opResponse:
				opened++
			case opRST:
				refused++
			default:
				t.Fatalf("answer %v", p)
			}
		}
	}
	if opened != 19 || calls != 19 || refused < 5000 {
		t.Errorf("%d opened, %d made, %d refused", opened, calls, refused)
	}
	s.write([]byte("alive"))
	expect(t, c, "alive")
}

func TestS8SameTupleTwice(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	s.op(opRequest, 0)
	s.op(opResponse, 0)
	r.quiet()
	s.write([]byte("alive"))
	expect(t, c, "alive")
}

// TestS10RSTIsNeverAnswered also is pitfall 4.
func TestS10RSTIsNeverAnswered(t *testing.T) {
	r := newRig(t, rigOptions{})
	for i := range uint32(1000) {
		r.send(header{op: opRST, srcPort: i, dstPort: i}, nil)
	}
	r.quiet()
	for _, op := range []uint16{opResponse, opShutdown, opRW, opCreditUpdate, opCreditRequest} {
		r.send(header{op: op, srcPort: 5, dstPort: 6}, nil)
		if p := r.want(opRST); p.srcPort != 6 || p.dstPort != 5 || p.typ != typeStream {
			t.Errorf("op %d: answer %+v", op, p.header)
		}
	}
	s, c := r.connect()
	s.op(opRST, 0)
	s.op(opRST, 0)
	r.quiet()
	expectEOF(t, c)
	r.checkEmpty()
}

func TestS10RSTDuringConnect(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.dial("CONNECT 7\npipelined")
	r.pump()
	q := r.want(opRequest)
	r.send(header{op: opRST, srcPort: q.dstPort, dstPort: q.srcPort}, nil)
	expectEOF(t, c) // no OK
	r.quiet()
	r.checkEmpty()
}

func TestS10RSTWhileDataIsQueued(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	want := s.stuff(t)
	s.op(opRST, 0)
	r.quiet()
	s.write([]byte("x")) // a new life of the tuple is none of the old one's
	r.want(opRST)
	same(t, "stream", r.readAll(c), want)
	r.checkEmpty()
}

func TestS10UnknownTuplesAreBounded(t *testing.T) {
	r := newRig(t, rigOptions{rxCount: 1})
	r.keep = true
	for i := range uint32(1000) {
		r.send(header{op: opRW, srcPort: i, dstPort: i}, nil)
	}
	if n := r.d.refused.n; n > len(r.d.refused.entry) {
		t.Errorf("%d answers kept", n)
	}
}

func TestS11ShutdownFlagsAreSticky(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	s.op(opShutdown, 0)
	r.quiet()
	s.write([]byte("a"))
	s.op(opShutdown, shutdownSend)
	s.op(opShutdown, 0) // does not take it back
	expect(t, c, "a")
	expectEOF(t, c)
	s.write([]byte("late")) // is dropped
	if _, err := c.Write([]byte("still open")); err != nil {
		t.Fatal(err)
	}
	r.pump()
	if got := r.data(); string(got) != "still open" {
		t.Errorf("guest got %q", got)
	}
	s.op(opShutdown, shutdownReceive) // with the earlier one: both
	r.want(opRST)
	r.quiet()
	r.checkEmpty()
}

func TestS20UnservedPorts(t *testing.T) {
	r := newRig(t, rigOptions{config: Config{HostPorts: map[uint32]func() (int, error){
		1025: func() (int, error) { return -1, errors.New("no") },
	}}})
	for _, port := range []uint32{0, 1, 1024, 1025, math.MaxUint32} {
		r.send(header{op: opRequest, srcPort: 99, dstPort: port}, nil)
		if p := r.want(opRST); p.srcPort != port || p.dstPort != 99 {
			t.Errorf("port %d: answer %v", port, p)
		}
	}
	r.checkEmpty()
}

func TestGuestConnects(t *testing.T) {
	var host int
	r := newRig(t, rigOptions{config: Config{HostPorts: map[uint32]func() (int, error){
		1024: func() (int, error) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			host = fds[1]
			return fds[0], err
		},
	}}})
	s := &sock{r: r, host: 1024, guest: 70000, alloc: 65536}
	s.put2(header{op: opRequest}, opRW, "ready\n") // data right behind, as Linux may send after RESPONSE
	r.kick()
	r.pump()
	r.want(opResponse)
	p := make([]byte, 16)
	n, err := unix.Read(host, p)
	if err != nil || string(p[:n]) != "ready\n" {
		t.Errorf("host read %q, %v", p[:n], err)
	}
	_ = unix.Close(host)
	r.pump()
	if p := r.want(opShutdown); p.flags&shutdownReceive == 0 {
		t.Errorf("flags %d", p.flags)
	}
}

func (s *sock) put2(h header, op uint16, payload string) {
	h.srcPort, h.dstPort, h.bufAlloc = s.guest, s.host, s.alloc
	s.r.put(h, nil)
	h.op, h.length = op, uint32(len(payload))
	s.r.put(h, []byte(payload))
}

// socketEnd returns one end of a socket pair whose other end lives as long as
// the test.
func socketEnd(t testing.TB) int {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fds[1]) })
	return fds[0]
}
