package vsock

import (
	"testing"

	"github.com/agentkernel/agentkernel/virtio/queue"
)

// TestPitfall5Starvation: without buffers nothing is read from the host's
// socket and the loop sleeps (FC #6031); a kick brings everything.
func TestPitfall5Starvation(t *testing.T) {
	r := newRig(t, rigOptions{rxCount: 2})
	_, c := r.connect()
	r.keep = true
	want := fill(t, c, 50_000)
	r.pump() // fails the test when it spins
	got := r.data()
	if len(got) != 2*(4096-headerSize) {
		t.Fatalf("%d bytes in two buffers", len(got))
	}
	for len(got) < len(want) { // one buffer at a time (Q19)
		r.post([]queue.Buffer{r.rx.Alloc(4096)})
		r.pump()
		got = append(got, r.data()...)
	}
	same(t, "stream", got, want)
}

// A receive buffer too small for a packet is returned empty, once.
func TestTinyReceiveBuffers(t *testing.T) {
	r := newRig(t, rigOptions{rxSplit: []int{44}, rxCount: 100})
	r.keep = true
	r.send(header{op: opRW, srcPort: 1, dstPort: 1}, nil)
	r.quiet()
	if n := r.d.Stats().BadBuffers; n != 100 {
		t.Errorf("%d bad buffers", n)
	}
	r.post([]queue.Buffer{r.rx.Alloc(45)})
	r.kick()
	r.pump()
	r.want(opRST)
}

// TestPitfall6Drain: one interrupt for all packets of a wake, and all buffers
// are filled in it (FC #6041, #6077).
func TestPitfall6Drain(t *testing.T) {
	for _, eventIdx := range []bool{false, true} {
		r := newRig(t, rigOptions{rxCount: 128, eventIdx: eventIdx})
		_, c := r.connect()
		r.keep = true
		want := fill(t, c, 60_000)
		r.rx.ArmInterrupt()
		before := r.irq.Used.Load()
		r.pump()
		same(t, "stream", r.data(), want)
		if n := r.irq.Used.Load() - before; n != 1 {
			t.Errorf("EVENT_IDX %v: %d interrupts", eventIdx, n)
		}
	}
}

// No interrupt that the driver did not ask for.
func TestInterruptsSuppressed(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	r.rx.SetNoInterrupt(true)
	r.tx.SetNoInterrupt(true)
	before := r.irq.Used.Load()
	s.write([]byte("x"))
	expect(t, c, "x")
	if n := r.irq.Used.Load() - before; n != 0 {
		t.Errorf("%d interrupts", n)
	}
}

// TestPitfall14Control: a control packet overtakes the data of others.
func TestPitfall14Control(t *testing.T) {
	r := newRig(t, rigOptions{rxCount: 2})
	_, c := r.connect()
	s2, _ := r.connect()
	r.keep = true
	fill(t, c, 100_000)
	r.pump()
	r.data()
	s2.op(opCreditRequest, 0)
	r.post([]queue.Buffer{r.rx.Alloc(4096)})
	r.kick()
	r.pump()
	r.want(opCreditUpdate)
}

// TestS17BothFull: packets from the guest are served while it has no receive
// buffer, for as long as there is credit.
func TestS17BothFull(t *testing.T) {
	r := newRig(t, rigOptions{rxCount: 4})
	s, c := r.connect()
	r.keep = true
	wantGuest := fill(t, c, 100_000)
	r.pump()
	var wantHost []byte
	for i := range 40 {
		p := pattern(5000, byte(i))
		s.write(p)
		wantHost = append(wantHost, p...)
	}
	if len(r.txUse) != 0 {
		t.Fatalf("%d transmit buffers are not used", len(r.txUse))
	}
	got, err := r.readUntil(c, len(wantHost))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "to the host", got, wantHost)
	r.keep = false
	r.post([]queue.Buffer{r.rx.Alloc(4096)})
	r.kick()
	r.pump()
	var all []byte
	for _, p := range r.seen {
		all = append(all, p.payload...)
	}
	same(t, "to the guest", all, wantGuest)
}

// Connections take turns.
func TestFairness(t *testing.T) {
	r := newRig(t, rigOptions{rxCount: 40})
	_, a := r.connect()
	_, b := r.connect()
	r.keep = true
	fill(t, a, 100_000)
	fill(t, b, 100_000)
	r.pump()
	count := map[uint32]int{}
	for len(r.seen) > 0 {
		count[r.want(opRW).srcPort]++
	}
	for port, n := range count {
		if n < 15 {
			t.Errorf("port %d got %d of 40 buffers", port, n)
		}
	}
}
