package console

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio"
	"github.com/agentkernel/agentkernel/virtio/mmio"
	"github.com/agentkernel/agentkernel/virtio/queue"
	qt "github.com/agentkernel/agentkernel/virtio/queue/queuetest"
)

// log is a writer that a test waits on.
type log struct {
	mu   sync.Mutex
	cond sync.Cond
	b    bytes.Buffer
}

func newLog() *log {
	l := &log{}
	l.cond.L = &l.mu
	return l
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cond.Broadcast()
	return l.b.Write(p)
}

// await returns the log once it holds n bytes or more.
func (l *log) await(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.b.Len() < n {
		l.cond.Wait()
	}
	return l.b.String()
}

// rig is an active console whose transmit queue the test drives.
type rig struct {
	*Device
	tx, rx *qt.Driver
	irq    *qt.Interrupts
	ended  chan error

	started, closed bool
}

func newRig(t testing.TB, out io.Writer, o qt.Options) *rig {
	t.Helper()
	d, err := New(out)
	if err != nil {
		t.Fatal(err)
	}
	mem := qt.NewMemory(t, 4<<20)
	o.Base, o.Limit = 0x10000, 0x200000
	r := &rig{Device: d, tx: qt.New(t, mem, o), irq: qt.NewInterrupts(), ended: make(chan error, 1)}
	o.Base, o.Limit = 0x200000, 0x300000
	r.rx = qt.New(t, mem, o)
	r.activate(t, mem)
	t.Cleanup(func() { r.end(t) })
	return r
}

func (r *rig) activate(t testing.TB, mem *guestmem.Memory) {
	t.Helper()
	err := r.Activate(virtio.Activation{
		Features: virtio.TransportFeatures, Memory: mem, Interrupt: r.irq,
		Queues: []*queue.Queue{r.rx.Queue(), r.tx.Queue()},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) run() {
	r.started = true
	go func() { r.ended <- r.Run() }()
}

// end closes the device, with Run or without, and resets it.
func (r *rig) end(t testing.TB) {
	t.Helper()
	if r.closed {
		return
	}
	r.closed = true
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if r.started {
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	}
	r.Reset()
}

func (r *rig) send(parts ...string) {
	var bufs []queue.Buffer
	for _, p := range parts {
		bufs = append(bufs, r.tx.AllocBytes([]byte(p)))
	}
	r.tx.Add(bufs, nil)
}

func TestLog(t *testing.T) {
	for _, o := range []qt.Options{{}, {EventIdx: true}} {
		out := newLog()
		r := newRig(t, out, o)
		r.send("early ") // before the loop runs, and without a kick
		r.run()
		if got := out.await(6); got != "early " {
			t.Errorf("log %q", got)
		}
		r.send("one, ", "two, ", "three")
		r.Notify(transmitQueue)
		if got := out.await(21); got != "early one, two, three" {
			t.Errorf("log %q", got)
		}
		<-r.irq.Wake()
		r.end(t)
		for range 2 {
			if u := r.tx.MustUsed(); u.Len != 0 {
				t.Errorf("used %+v: the device wrote nothing", u)
			}
		}
	}
}

// Everything that the guest transmitted before Close is in the log after it.
func TestCloseDrains(t *testing.T) {
	var out bytes.Buffer
	r := newRig(t, &out, qt.Options{Size: 64})
	want := new(strings.Builder)
	r.run()
	for i := range 64 {
		line := strings.Repeat("0123456789abcde\n", 100)
		want.WriteString(line)
		r.send(line)
		if i == 0 {
			r.Notify(transmitQueue)
			<-r.irq.Wake() // Run runs
		}
	}
	r.end(t)
	if out.String() != want.String() {
		t.Errorf("log of %d bytes, want %d", out.Len(), want.Len())
	}
}

// gate is a writer that blocks until it is opened.
type gate struct {
	entered, open chan struct{}
	once          sync.Once
	n             int
}

func (g *gate) Write(p []byte) (int, error) {
	g.once.Do(func() { close(g.entered) })
	<-g.open
	g.n += len(p)
	return len(p), nil
}

// C3, Q17: with a writer that is stuck, kicks and Reset return, and nothing is
// done with the rings after Reset.
func TestStuckWriter(t *testing.T) {
	out := &gate{entered: make(chan struct{}), open: make(chan struct{})}
	r := newRig(t, out, qt.Options{})
	r.send("stuck")
	r.run()
	<-out.entered
	r.send("never seen")
	r.Notify(transmitQueue)
	r.Reset()
	used := r.tx.UsedIdx()
	close(out.open)
	r.end(t)
	if out.n != len("stuck") || r.tx.UsedIdx() != used {
		t.Errorf("%d bytes written; used.idx %d, was %d at Reset", out.n, r.tx.UsedIdx(), used)
	}
}

type failing struct{}

func (failing) Write(p []byte) (int, error) { return 1, errors.New("disk full") }

// C4: a log that cannot be written does not hold the guest up.
func TestFullDisk(t *testing.T) {
	r := newRig(t, failing{}, qt.Options{})
	r.run()
	for range 100 {
		r.send("four")
		r.Notify(transmitQueue)
		for {
			if _, ok := r.tx.Used(); ok {
				break
			}
			if !r.tx.ArmInterrupt() {
				<-r.irq.Wake()
			}
		}
	}
	r.end(t)
	if r.Lost() != 300 {
		t.Errorf("%d bytes lost, want 300", r.Lost())
	}
}

// A chain of nearly 4 GiB, made of the same memory over and over, costs a
// bounded pass each time, and Reset gets in between.
func TestHugeChain(t *testing.T) {
	r := newRig(t, io.Discard, qt.Options{Size: 2048})
	huge := make([]queue.Buffer, 1024)
	for i := range huge {
		huge[i] = queue.Buffer{Addr: 0x1000, Len: 4<<20 - 0x1000}
	}
	r.tx.Add(huge[:1023], nil)
	for range 10 {
		if n, more, _ := r.pass(); n != passBytes || !more {
			t.Fatalf("pass moved %d bytes, more %v", n, more)
		}
	}
	if r.tx.UsedIdx() != 0 {
		t.Error("the chain was returned before it was copied")
	}
	r.Reset()
	if n, more, _ := r.pass(); n != 0 || more {
		t.Errorf("pass after Reset moved %d bytes, more %v", n, more)
	}
}

// Chains without bytes are returned, a bounded number in a pass.
func TestEmptyAndWritableChains(t *testing.T) {
	var out bytes.Buffer
	r := newRig(t, &out, qt.Options{Size: 1024})
	for range passChains + 1 {
		r.tx.Add(nil, []queue.Buffer{r.tx.Alloc(8)}) // Q11: nothing to read
	}
	if n, more, _ := r.pass(); n != 0 || !more || r.tx.UsedIdx() != passChains {
		t.Errorf("first pass: %d bytes, more %v, used.idx %d", n, more, r.tx.UsedIdx())
	}
	if n, more, _ := r.pass(); n != 0 || more || r.tx.UsedIdx() != passChains+1 {
		t.Errorf("second pass: %d bytes, more %v, used.idx %d", n, more, r.tx.UsedIdx())
	}
}

// A broken ring ends in NEEDS_RESET, once, and a reset mends it.
func TestBrokenRing(t *testing.T) {
	out := newLog()
	r := newRig(t, out, qt.Options{})
	r.run()
	r.tx.SetAvailIdx(1000)
	r.Notify(transmitQueue)
	for r.irq.Reset.Load() == 0 {
		<-r.irq.Wake()
	}
	r.Reset()
	r.tx.Reset()
	r.activate(t, r.tx.Memory())
	r.send("again")
	r.Notify(transmitQueue)
	if got := out.await(5); got != "again" || r.irq.Reset.Load() != 1 {
		t.Errorf("log %q, %d resets asked for", got, r.irq.Reset.Load())
	}
}

// However often the driver kicks, a broken ring is reported once and then left
// alone.
func TestBrokenRingOnce(t *testing.T) {
	r := newRig(t, io.Discard, qt.Options{})
	r.tx.SetAvailIdx(1000)
	for range 3 {
		if n, more, _ := r.pass(); n != 0 || more {
			t.Errorf("pass moved %d bytes, more %v", n, more)
		}
	}
	if n := r.irq.Reset.Load(); n != 1 {
		t.Errorf("%d resets asked for", n)
	}
}

// C6: control queues do not exist, configuration reads as 0.
func TestC6NoMultiport(t *testing.T) {
	d, err := New(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	tr := mmio.New(d, qt.NewMemory(t, 1<<20), func() {})
	tr.Write(0x30, []byte{2, 0, 0, 0})
	p := []byte{1, 1, 1, 1}
	if tr.Read(0x34, p); !bytes.Equal(p, make([]byte, 4)) {
		t.Errorf("queue 2 exists: %x", p)
	}
	config := bytes.Repeat([]byte{1}, 12)
	if tr.Read(0x100, config); !bytes.Equal(config, make([]byte, 12)) {
		t.Errorf("configuration %x", config)
	}
	if err := d.Activate(virtio.Activation{Queues: make([]*queue.Queue, 2)}); err == nil {
		t.Error("activated without a transmit queue")
	}
	if err := d.Close(); err != nil { // Run was never called
		t.Error(err)
	}
	d.Notify(1)
	if err := d.Run(); err != nil {
		t.Errorf("Run after Close = %v", err)
	}
}

func TestNoAllocations(t *testing.T) {
	r := newRig(t, io.Discard, qt.Options{EventIdx: true})
	head := r.tx.Stage([]queue.Buffer{r.tx.AllocBytes([]byte("line\n"))}, nil)
	for i := range r.tx.Config().Size {
		r.tx.SetAvail(i, head)
	}
	var idx uint16
	if n := testing.AllocsPerRun(1000, func() {
		idx++
		r.tx.SetAvailIdx(idx)
		n, _, _ := r.pass()
		r.write(n)
	}); n != 0 {
		t.Errorf("%v allocations per line", n)
	}
}

// FuzzConsole: whatever stands in the descriptor table, a bounded number of
// passes copes with it.
func FuzzConsole(f *testing.F) {
	f.Add(qt.Desc{Addr: 0x1000, Len: 100}.Bytes(), uint16(1))
	f.Add(append(qt.Desc{Addr: 0x1000, Len: 1 << 20, Flags: qt.Next, Next: 1}.Bytes(),
		qt.Desc{Addr: 0x1000, Len: 7, Flags: qt.Write}.Bytes()...), uint16(3))
	f.Fuzz(func(t *testing.T, table []byte, availIdx uint16) {
		r := newRig(t, io.Discard, qt.Options{Indirect: true})
		r.tx.Write(r.tx.Config().Desc, table[:min(len(table), 16*16)])
		for i := range uint16(16) {
			r.tx.SetAvail(i, i)
		}
		r.tx.SetAvailIdx(availIdx)
		for range 20 {
			n, _, _ := r.pass()
			if n > passBytes {
				t.Fatalf("a pass moved %d bytes", n)
			}
			r.write(n)
		}
	})
}
