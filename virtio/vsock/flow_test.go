package vsock

import (
	"math"
	"net"
	"testing"

	"github.com/agentkernel/agentkernel/virtio/queue"
	"golang.org/x/sys/unix"
)

// fill writes to c until its socket is full and returns what it wrote.
func fill(t testing.TB, c *net.UnixConn, limit int) (all []byte) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	p := pattern(limit, 9)
	_ = raw.Control(func(fd uintptr) {
		for len(all) < limit {
			n, err := unix.SendmsgN(int(fd), p[len(all):], nil, nil, unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			all = p[:len(all)+n]
		}
	})
	return all
}

// TestS5HostileCredit is pitfall 1 too.
func TestS5HostileCredit(t *testing.T) {
	c := credit{peerAlloc: 100_000}
	c.transmitted(60_000)
	for name, row := range map[string]struct{ alloc, fwd, want uint32 }{
		"shrinks below what is outstanding": {alloc: 10_000, want: 0},
		"zero":                              {alloc: 0, want: 0},
		"exactly what is outstanding":       {alloc: 60_000, want: 0},
		"all":                               {alloc: math.MaxUint32, want: maxPayload},
		"took more than was sent":           {alloc: 100_000, fwd: 60_001, want: 40_000 - 2*packetOverhead},
		"took 4 GiB":                        {alloc: 100_000, fwd: math.MaxUint32, want: 40_000 - 2*packetOverhead},
		"took it":                           {alloc: 50_000, fwd: 60_000, want: 50_000 - packetOverhead},
		"one byte":                          {alloc: 1, fwd: 60_000, want: 1},
	} {
		c := c
		c.update(row.alloc, row.fwd)
		if got := c.sendable(); got != row.want {
			t.Errorf("%s: %d bytes may be sent, want %d", name, got, row.want)
		}
	}
	back := c
	back.update(100_000, 50_000)
	if back.update(100_000, 20_000) || back.peerFwd != 50_000 {
		t.Error("fwd_cnt went backwards")
	}
}

func TestS5MoreThanTheWindow(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	want := s.stuff(t)
	other, oc := r.connect()
	for range 20 { // without looking at credit
		s.write(pattern(60_000, 1))
		if len(r.seen) > 0 {
			break
		}
	}
	r.want(opRST)
	if n := r.d.Stats().Buffered; n > 256<<10+2*chunkSize {
		t.Errorf("%d bytes buffered", n)
	}
	other.write([]byte("alive"))
	expect(t, oc, "alive")
	if got := r.readAll(c); len(got) < len(want) {
		t.Errorf("host got %d bytes of what was within the window, %d", len(got), len(want))
	}
}

func TestS5WindowsOfTheGuest(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	s.alloc = 0
	s.op(opCreditUpdate, 0)
	if _, err := c.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	r.pump()
	r.want(opCreditRequest)
	r.quiet()
	for i, want := range []string{"a", "b", "c"} { // one byte at a time
		s.alloc = 1
		s.fwd = uint32(i)
		s.op(opCreditUpdate, 0)
		if got := r.data(); string(got) != want {
			t.Fatalf("guest got %q, want %q", got, want)
		}
		r.seen = nil // further CREDIT_REQUESTs
	}
}

// TestS6CountersWrap starts the counters near 2^32 and moves 8 MiB each way.
func TestS6CountersWrap(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	k := s.conn()
	const start = math.MaxUint32 - 3<<20
	k.sent, k.peerFwd, k.fwdCnt, k.fwdTold = start, start, start, start
	s.fwd, s.hostFwd = start, start
	sent := uint32(start)
	for i := range 256 {
		p := pattern(32<<10, byte(i))
		if s.window-(sent-s.hostFwd) < uint32(len(p)) {
			t.Fatalf("round %d: no credit", i)
		}
		s.write(p)
		sent += uint32(len(p))
		for len(r.seen) > 0 {
			s.hostFwd = r.want(opCreditUpdate).fwdCnt
		}
		got, err := r.readUntil(c, len(p))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "to the host", got, p)

		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		r.pump()
		s.hostFwd = r.seen[0].fwdCnt // every packet carries it
		same(t, "to the guest", r.data(), p)
		r.quiet()
		s.fwd += uint32(len(p))
		s.op(opCreditUpdate, 0)
	}
	if k.sent > start || k.fwdCnt > start {
		t.Error("the counters did not wrap")
	}
}

func TestS7CreditRequest(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, _ := r.connect()
	s.write(make([]byte, 1000))
	s.op(opCreditRequest, 0)
	if p := r.want(opCreditUpdate); p.bufAlloc != 256<<10 || p.fwdCnt != 1000 {
		t.Errorf("credit %d, %d", p.bufAlloc, p.fwdCnt)
	}
	r.quiet()
}

func TestS7CreditFlood(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, _ := r.connect()
	other, oc := r.connect()
	for range 1000 {
		for range 32 {
			r.put(s.header(opCreditUpdate), nil)
			r.put(s.header(opCreditRequest), nil)
		}
		r.kick()
		r.pump()
		if len(r.seen) > 1 {
			t.Fatalf("%d answers to one batch", len(r.seen))
		}
		r.seen = nil
	}
	other.write([]byte("alive"))
	expect(t, oc, "alive")
}

// A guest that never answers CREDIT_REQUEST holds up nobody else.
func TestS7CreditRequestIsNotAnswered(t *testing.T) {
	r := newRig(t, rigOptions{rxSplit: []int{44 + 100}})
	_, c := r.connect()
	_, oc := r.connect()
	fill(t, c, 100_000)
	r.pump()
	n := len(r.data())
	if n == 0 || n >= 100_000 {
		t.Fatalf("%d bytes sent", n)
	}
	r.want(opCreditRequest)
	for i := range 10 { // asks again, and less and less often
		r.advance(creditRetry + 1)
		if i < creditTries {
			r.want(opCreditRequest)
		}
	}
	if len(r.seen) > 1 {
		t.Errorf("%d more", len(r.seen))
	}
	r.seen = nil
	if _, err := oc.Write([]byte("alive")); err != nil {
		t.Fatal(err)
	}
	r.pump()
	if got := r.data(); string(got) != "alive" {
		t.Errorf("guest got %q", got)
	}
}

// TestPitfall2CreditOnThreshold also is: no credit packet before RESPONSE.
func TestPitfall2CreditOnThreshold(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	updates := 0
	const total = 1 << 20
	for range total / 1024 {
		s.write(make([]byte, 1024))
		expect(t, c, string(make([]byte, 1024)))
		for len(r.seen) > 0 {
			r.want(opCreditUpdate)
			updates++
		}
	}
	if most := total / (256 << 10 / 4); updates == 0 || updates > most {
		t.Errorf("%d credit updates, want up to %d", updates, most)
	}
	r.dial("CONNECT 8\n")
	r.pump()
	q := r.want(opRequest)
	r.send(header{op: opCreditRequest, srcPort: 8, dstPort: q.srcPort}, nil)
	r.quiet()
}

// TestS13ShortReadsAndWrites makes every write short by a small socket buffer;
// TestEchoManyConnections does the rest.
func TestS13ShortReadsAndWrites(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	if err := unix.SetsockoptInt(s.conn().fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil {
		t.Fatal(err)
	}
	var want, got []byte
	for i := range 200 {
		p := pattern(1+i*37, byte(i))
		h := s.header(opRW)
		h.srcCID, h.dstCID, h.typ, h.length = guestCID, hostCID, typeStream, uint32(len(p))
		var head [headerSize]byte
		h.encode(&head)
		bufs := []queue.Buffer{r.tx.AllocBytes(head[:])}
		for rest := p; len(rest) > 0; { // FC #5485: an error in a later segment
			n := min(len(rest), 1+i)
			bufs = append(bufs, r.tx.AllocBytes(rest[:n]))
			rest = rest[n:]
		}
		r.tx.AddIndirect(bufs[:min(len(bufs), 200)], nil)
		r.kick()
		r.pump()
		want = append(want, p...)
		for s.conn().out.n > 150_000 {
			part, err := r.readUntil(c, 1000)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, part...)
		}
	}
	rest, err := r.readUntil(c, len(want)-len(got))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "stream", append(got, rest...), want)
	if n := r.d.Stats().Buffered; n != 0 {
		t.Errorf("%d bytes still buffered", n)
	}
}

// TestS14SlowReader is pitfall 8 too: bounded memory, nobody else waits, and
// not a byte is lost.
func TestS14SlowReader(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	other, oc := r.connect()
	var want []byte
	sent, fwd := uint32(0), uint32(0)
	for i := 0; ; i++ { // all the credit there is
		p := pattern(int(min(50_000, s.window-(sent-fwd))), byte(i))
		if len(p) == 0 {
			break
		}
		s.write(p)
		want = append(want, p...)
		sent += uint32(len(p))
		for len(r.seen) > 0 {
			fwd = r.want(opCreditUpdate).fwdCnt
		}
	}
	if n := r.d.Stats().Buffered; n < 200_000 || n > 256<<10+2*chunkSize {
		t.Errorf("%d bytes buffered", n)
	}
	other.write([]byte("alive"))
	expect(t, oc, "alive")
	got, err := r.readUntil(c, len(want))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "stream", got, want)
	if n := r.d.Stats().Buffered; n != 0 {
		t.Errorf("%d bytes still buffered", n)
	}
	if p := r.want(opCreditUpdate); p.fwdCnt == fwd {
		t.Error("no new credit")
	}
}

// TestS15PacketsInFlight: a guest of Linux 6.12.92 resets a connection when
// 576 bytes for each queued packet, and its payload, do not fit buf_alloc.
func TestS15PacketsInFlight(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	var want, got []byte
	queued, cost := 0, 0
	for i := range 20_000 {
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		want = append(want, byte(i))
		r.pump()
		for len(r.seen) > 0 {
			p := r.next()
			if p.op == opCreditRequest {
				// The reader gets around to it.
				s.fwd += uint32(queued)
				queued, cost = 0, 0
				s.op(opCreditUpdate, 0)
				continue
			}
			got = append(got, p.payload...)
			queued += len(p.payload)
			if cost += len(p.payload) + 576; cost > 256<<10 {
				t.Fatalf("after %d bytes: the guest would reset the connection", len(got))
			}
		}
	}
	same(t, "stream", got, want)
}

func TestFlightNeverCountsTooFew(t *testing.T) {
	var f flight
	var ends []uint32
	end, read := uint32(math.MaxUint32-5000), 0
	for i := range 5000 {
		end += uint32(1 + i%7)
		f.add(end)
		ends = append(ends, end)
		if i%3 == 0 && i > 500 {
			read += 3
			f.read(ends[read-1], end-ends[read-1])
		}
		if exact := len(ends) - read; f.packets < exact {
			t.Fatalf("%d packets counted, %d there", f.packets, exact)
		}
	}
	f.read(end, 0)
	if f.packets != 0 || f.n != 0 {
		t.Errorf("%d packets in %d groups left", f.packets, f.n)
	}
}

// Windows shrink as connections come, so that their sum stays below the total.
func TestWindowsAreBounded(t *testing.T) {
	d := &Device{limits: Limits{Connections: 4096, BufferTotal: 64 << 20, Window: 256 << 10}}
	for d.connections < d.limits.Connections {
		w := d.newWindow()
		if w < minWindow || w > 256<<10 || d.connections < 50 && w != 256<<10 {
			t.Fatalf("connection %d gets %d", d.connections, w)
		}
		d.connections++
		d.committed += int(w)
	}
	if d.committed > d.limits.BufferTotal {
		t.Errorf("%d bytes promised", d.committed)
	}
}
