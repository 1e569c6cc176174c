package vsock

import (
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
	"github.com/agentkernel/agentkernel/virtio"
	"github.com/agentkernel/agentkernel/virtio/queue"
	"github.com/agentkernel/agentkernel/virtio/queue/queuetest"
	"golang.org/x/sys/unix"
)

const guestCID = 3

// packet is one packet as the guest sees it.
type packet struct {
	header
	payload []byte
}

func (p packet) String() string {
	names := []string{"0", "REQUEST", "RESPONSE", "RST", "SHUTDOWN", "RW", "CREDIT_UPDATE", "CREDIT_REQUEST"}
	name := fmt.Sprint(p.op)
	if int(p.op) < len(names) {
		name = names[p.op]
	}
	return fmt.Sprintf("%s %d→%d len %d flags %d", name, p.srcPort, p.dstPort, p.length, p.flags)
}

// rig is a device with a fake guest and a real listening socket. Nothing runs
// by itself unless run is called: pump is the loop, in the test's goroutine.
type rig struct {
	t          testing.TB
	d          *Device
	mem        *guestmem.Memory
	rx, tx, ev *queuetest.Driver
	irq        *queuetest.Interrupts
	sock       string
	now        atomic.Int64

	rxBuf map[uint16][]queue.Buffer // posted, by head
	keep  bool                      // do not post receive buffers again
	txBuf []queue.Buffer            // free transmit buffers
	txUse map[uint16]queue.Buffer
	seen  []packet // received and not taken
}

type rigOptions struct {
	config   Config
	eventIdx bool
	rxCount  int   // receive buffers; 64
	rxSplit  []int // lengths of a receive buffer's descriptors; {4096}
	noListen bool
	inactive bool
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	r := &rig{t: t, irq: queuetest.NewInterrupts(), rxBuf: map[uint16][]queue.Buffer{}, txUse: map[uint16]queue.Buffer{}}
	r.now.Store(1)
	o.config.GuestCID = guestCID
	if !o.noListen {
		r.sock = filepath.Join(t.TempDir(), "s")
		o.config.Listener = listen(t, r.sock)
	}
	d, err := New(o.config)
	if err != nil {
		t.Fatal(err)
	}
	r.d = d
	d.clock = r.now.Load
	r.mem = queuetest.NewMemory(t, 16<<20)
	t.Cleanup(func() { // before the memory goes
		if err := d.Close(); err != nil && err != ErrClosed {
			t.Error(err)
		}
	})
	if o.rxCount == 0 {
		o.rxCount = 64
	}
	if o.rxSplit == nil {
		o.rxSplit = []int{4096}
	}
	opt := func(base, limit uint64, size uint16) queuetest.Options {
		return queuetest.Options{Size: size, Base: base, Limit: limit, EventIdx: o.eventIdx, Indirect: true}
	}
	r.rx = queuetest.New(t, r.mem, opt(0x10000, 4<<20, 256))
	r.tx = queuetest.New(t, r.mem, opt(4<<20, 15<<20, 256))
	r.ev = queuetest.New(t, r.mem, opt(15<<20, 16<<20, 16))
	for range 64 {
		r.txBuf = append(r.txBuf, r.tx.Alloc(headerSize+maxPayload))
	}
	for range o.rxCount {
		var bufs []queue.Buffer
		for _, n := range o.rxSplit {
			bufs = append(bufs, r.rx.Alloc(n))
		}
		r.post(bufs)
	}
	if !o.inactive {
		r.activate()
	}
	d.Accept()
	return r
}

func (r *rig) activate() {
	r.t.Helper()
	err := r.d.Activate(virtio.Activation{
		Features:  virtio.TransportFeatures,
		Queues:    []*queue.Queue{r.rx.Queue(), r.tx.Queue(), r.ev.Queue()},
		Memory:    r.mem,
		Interrupt: r.irq,
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func listen(t testing.TB, path string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 4096); err != nil {
		t.Fatal(err)
	}
	return fd
}

func (r *rig) post(bufs []queue.Buffer) {
	var head uint16
	if len(bufs) > 1 {
		head = r.rx.AddIndirect(nil, bufs)
	} else {
		head = r.rx.Add(nil, bufs)
	}
	r.rxBuf[head] = bufs
}

// pump runs the loop until it would wait: like Run it does nothing without an
// event.
func (r *rig) pump() {
	r.t.Helper()
	var events [16]unix.EpollEvent
	more := false
	for range 100_000 {
		n, err := unix.EpollWait(r.d.fds.epoll, events[:], 0)
		if err != nil && err != unix.EINTR {
			r.t.Fatal(err)
		}
		if n > 0 || more {
			more = r.d.turn(events[:max(0, n)])
			continue
		}
		r.collect()
		if !r.rx.NeedKick() {
			return
		}
		r.kick() // receive buffers came back, and the device asked to be told
	}
	r.t.Fatal("the loop spins")
}

// collect takes what the device put into receive buffers.
func (r *rig) collect() {
	for u, ok := r.rx.Used(); ok; u, ok = r.rx.Used() {
		bufs := r.rxBuf[uint16(u.ID)]
		delete(r.rxBuf, uint16(u.ID))
		if u.Len >= headerSize {
			all := r.rx.Read(bufs...)[:u.Len]
			var p packet
			p.decode((*[headerSize]byte)(all))
			p.payload = all[headerSize:]
			if int(p.length) != len(p.payload) {
				r.t.Errorf("packet %v with %d bytes of payload", p, len(p.payload))
			}
			if p.srcCID != hostCID || p.dstCID != guestCID {
				r.t.Errorf("packet %v from CID %d to CID %d", p, p.srcCID, p.dstCID)
			}
			r.seen = append(r.seen, p)
		} else if u.Len != 0 {
			r.t.Errorf("used length %d", u.Len)
		}
		if !r.keep {
			r.post(bufs)
		}
	}
	for u, ok := r.tx.Used(); ok; u, ok = r.tx.Used() {
		if u.Len != 0 {
			r.t.Errorf("transmit buffer used with length %d", u.Len)
		}
		if b, ok := r.txUse[uint16(u.ID)]; ok {
			r.txBuf = append(r.txBuf, b)
			delete(r.txUse, uint16(u.ID))
		}
	}
}

// kick notifies the device as a driver does.
func (r *rig) kick() { r.d.Notify(queueTX) }

// put makes a packet available, without a kick.
func (r *rig) put(h header, payload []byte) {
	r.t.Helper()
	if len(r.txBuf) == 0 {
		r.t.Fatal("no transmit buffer free")
	}
	if h.srcCID == 0 {
		h.srcCID = guestCID
	}
	if h.dstCID == 0 {
		h.dstCID = hostCID
	}
	if h.typ == 0 {
		h.typ = typeStream
	}
	b := r.txBuf[len(r.txBuf)-1]
	r.txBuf = r.txBuf[:len(r.txBuf)-1]
	var head [headerSize]byte
	h.encode(&head)
	r.tx.Write(b.Addr, head[:])
	r.tx.Write(b.Addr+headerSize, payload)
	id := r.tx.Add([]queue.Buffer{{Addr: b.Addr, Len: uint32(headerSize + len(payload))}}, nil)
	r.txUse[id] = b
}

// send is put, a kick if the device asked for one, and pump.
func (r *rig) send(h header, payload []byte) {
	r.t.Helper()
	r.put(h, payload)
	if r.tx.NeedKick() {
		r.kick()
	}
	r.pump()
}

// sock is the guest's end of one connection.
type sock struct {
	r           *rig
	host, guest uint32
	alloc       uint32
	fwd         uint32
	window      uint32 // of the device
	hostFwd     uint32
}

func (s *sock) header(op uint16) header {
	return header{srcPort: s.guest, dstPort: s.host, op: op, bufAlloc: s.alloc, fwdCnt: s.fwd}
}

func (s *sock) op(op uint16, flags uint32) {
	s.r.t.Helper()
	h := s.header(op)
	h.flags = flags
	s.r.send(h, nil)
}

func (s *sock) write(p []byte) {
	s.r.t.Helper()
	h := s.header(opRW)
	h.length = uint32(len(p))
	s.r.send(h, p)
}

// next takes the next packet, which must be there.
func (r *rig) next() packet {
	r.t.Helper()
	if len(r.seen) == 0 {
		r.t.Fatal("no packet for the guest")
	}
	p := r.seen[0]
	r.seen = r.seen[1:]
	return p
}

// want takes the next packet, which must be of the operation.
func (r *rig) want(op uint16) packet {
	r.t.Helper()
	p := r.next()
	if p.op != op {
		r.t.Fatalf("packet %v, want op %d", p, op)
	}
	return p
}

// quiet checks that there is no packet.
func (r *rig) quiet() {
	r.t.Helper()
	if len(r.seen) > 0 {
		r.t.Fatalf("unexpected packets %v", r.seen)
	}
}

// data takes packets that must be data and returns their payload.
func (r *rig) data() []byte {
	r.t.Helper()
	var all []byte
	for len(r.seen) > 0 && r.seen[0].op == opRW {
		all = append(all, r.next().payload...)
	}
	return all
}

// connect makes a connection from the host to port 7 of the guest.
func (r *rig) connect() (*sock, *net.UnixConn) {
	r.t.Helper()
	c := r.dial("CONNECT 7\n")
	r.pump()
	s := r.respond()
	expect(r.t, c, fmt.Sprintf("OK %d\n", s.host))
	return s, c
}

// respond answers a REQUEST, which must be there.
func (r *rig) respond() *sock {
	r.t.Helper()
	q := r.want(opRequest)
	s := &sock{r: r, host: q.srcPort, guest: q.dstPort, alloc: 256 << 10, window: q.bufAlloc}
	s.op(opResponse, 0)
	return s
}

// conn returns the device's connection, which must be there.
func (s *sock) conn() *conn {
	s.r.t.Helper()
	c := s.r.d.table[ports{host: s.host, guest: s.guest}]
	if c == nil {
		s.r.t.Fatal("the device does not know the connection")
	}
	return c
}

// advance moves the clock and lets deadlines pass.
func (r *rig) advance(by time.Duration) {
	r.pass(by)
	r.pump()
}

// pass is advance without running the loop.
func (r *rig) pass(by time.Duration) {
	r.now.Add(int64(by))
	r.d.mu.Lock()
	r.d.expire()
	r.d.mu.Unlock()
	r.d.fds.signal(r.d.fds.wake) // for the timer's event
}

// checkEmpty checks that the device holds nothing any more.
func (r *rig) checkEmpty() {
	r.t.Helper()
	s := r.d.Stats()
	if s.Open != 0 || s.Buffered != 0 || len(r.d.table) != 0 || r.d.committed != 0 {
		r.t.Errorf("left: %d connections, %d bytes, %d in the table, %d committed", s.Open, s.Buffered, len(r.d.table), r.d.committed)
	}
}
