package vsock

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/virtio"
	"github.com/agentkernel/agentkernel/virtio/queue"
	"golang.org/x/sys/unix"
)

// TestS18Reset: a reset of the device ends every connection, touches guest
// memory no more, and a new life begins.
func TestS18Reset(t *testing.T) {
	r := newRig(t, rigOptions{})
	var socks []*sock
	var conns []*net.UnixConn
	for range 50 {
		s, c := r.connect()
		socks, conns = append(socks, s), append(conns, c)
	}
	want := socks[0].stuff(t)
	for _, c := range conns {
		_, _ = c.Write([]byte("unread"))
	}
	waiting := r.dial("CONNECT 7\n")
	r.put(socks[1].header(opRST), nil)
	r.d.Reset()
	memory, err := r.mem.Bytes(0, r.mem.Size())
	if err != nil {
		t.Fatal(err)
	}
	clear(memory)
	r.pump2()
	same(t, "stream", r.readAll2(conns[0]), want)
	for _, c := range conns[1:] {
		expectEOF(t, c)
	}
	for i, b := range memory {
		if b != 0 {
			t.Fatalf("guest memory at %#x was written after the reset", i)
		}
	}
	expectEOF(t, waiting)
	r.d.Reset() // no harm
	r.checkEmpty()

	r.revive()
	s, c := r.connect()
	s.write([]byte("new life"))
	expect(t, c, "new life")
}

// revive lays the rings out anew and activates the device.
func (r *rig) revive() {
	r.rx.Reset()
	r.tx.Reset()
	r.ev.Reset()
	r.rxBuf, r.txUse, r.seen = map[uint16][]queue.Buffer{}, map[uint16]queue.Buffer{}, nil
	for range 8 {
		r.post([]queue.Buffer{r.rx.Alloc(4096)})
	}
	r.activate()
}

// pump2 and readAll2 leave the rings alone.
func (r *rig) pump2() {
	var events [16]unix.EpollEvent
	for {
		n, _ := unix.EpollWait(r.d.fds.epoll, events[:], 0)
		if !r.d.turn(events[:max(0, n)]) && n <= 0 {
			return
		}
	}
}

func (r *rig) readAll2(c *net.UnixConn) (all []byte) {
	p := make([]byte, 10_000)
	raw, _ := c.SyscallConn()
	for range 10_000 {
		n, err := 0, error(nil)
		_ = raw.Control(func(fd uintptr) { n, _, err = unix.Recvfrom(int(fd), p, unix.MSG_DONTWAIT) })
		if n == 0 && err == nil {
			return all
		}
		all = append(all, p[:max(n, 0)]...)
		r.pump2()
	}
	r.t.Fatalf("no end of file after %d bytes", len(all))
	return nil
}

// A broken ring ends the device, not the VMM; data that came before still
// reaches the host.
func TestBrokenQueue(t *testing.T) {
	for name, q := range map[string]func(*rig){
		"transmit": func(r *rig) { r.tx.SetAvailIdx(40_000) },
		"receive": func(r *rig) {
			r.rx.SetAvailIdx(40_000)
			_, _ = unix.Write(r.dialRaw(), []byte("CONNECT 7\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{rxCount: 2})
			s, c := r.connect()
			want := s.stuff(t)
			q(r)
			for r.d.mem != nil {
				s.r.kick()
				r.pump2()
				_, _ = c.Write([]byte("x"))
			}
			if n := r.irq.Reset.Load(); n != 1 {
				t.Errorf("NEEDS_RESET %d times", n)
			}
			same(t, "stream", r.readAll2(c), want)
			r.d.Reset()
			r.revive()
			r.connect()
		})
	}
}

func (r *rig) dialRaw() int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: r.sock})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// TestPitfall10Pause (S19, FC #6100): after a pause both directions go on, and
// the time does not count.
func TestPitfall10Pause(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	late := r.dial("CONNECT 7\n")
	r.pump()
	q := r.want(opRequest)
	r.d.Pause()
	if _, err := c.Write([]byte("from host")); err != nil {
		t.Fatal(err)
	}
	s.write([]byte("from guest"))
	r.advance(time.Hour)
	r.quiet()
	if _, err := peek(t, c); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("host got data during the pause: %v", err)
	}
	r.d.Resume()
	r.pump()
	expect(t, c, "from guest")
	if got := r.data(); string(got) != "from host" {
		t.Errorf("guest got %q", got)
	}
	r.send(header{op: opResponse, srcPort: q.dstPort, dstPort: q.srcPort, bufAlloc: 1 << 18}, nil)
	expect(t, late, "OK ")
}

// TestPitfall9Restore (FC #5958, #5882): the guest is told of the reset, gets
// nothing else before it has acknowledged that, and both queues are looked at
// without a kick.
func TestPitfall9Restore(t *testing.T) {
	for _, early := range []bool{true, false} { // event buffers there at once, or later
		r := newRig(t, rigOptions{})
		r.connect()
		state := r.d.State()
		port := r.d.nextPort
		r.d.Reset()
		r.pump2()
		postEvents := func() {
			for range 8 {
				r.ev.Add(nil, []queue.Buffer{r.ev.Alloc(eventSize)})
			}
		}
		if early {
			postEvents()
		}
		a := virtio.Activation{
			Queues:    []*queue.Queue{r.rx.Queue(), r.tx.Queue(), r.ev.Queue()},
			Memory:    r.mem,
			Interrupt: r.irq,
		}
		if err := r.d.Restore(state, a); err != nil {
			t.Fatal(err)
		}
		r.put(header{op: opRW, srcPort: 5, dstPort: 6}, nil) // its kick was before the snapshot
		c := r.dial("CONNECT 7\n")
		r.pump()
		r.quiet()
		if len(r.txUse) != 0 {
			t.Error("the transmit queue was not looked at")
		}
		if !early {
			postEvents()
			if !r.ev.NeedKick() {
				t.Error("no kick asked for")
			}
			r.kick()
			r.pump()
			r.quiet()
		}
		for i := range 8 {
			u := r.ev.MustUsed()
			if i == 0 && u.Len != eventSize || i != 0 && u.Len != 0 {
				t.Errorf("event buffer %d used with length %d", i, u.Len)
			}
		}
		postEvents()
		r.kick()
		r.pump()
		r.want(opRST)
		if q := r.want(opRequest); q.srcPort != port {
			t.Errorf("port %d after the restore, want %d", q.srcPort, port)
		}
		_ = c
	}
}

func TestRestoreRefuses(t *testing.T) {
	r := newRig(t, rigOptions{inactive: true})
	good := r.d.State()
	bad := good
	bad.Version = 2
	if r.d.Restore(bad, virtio.Activation{}) == nil {
		t.Error("an unknown version was accepted")
	}
	bad = good
	bad.NextPort = 5
	if r.d.Restore(bad, virtio.Activation{}) == nil {
		t.Error("a service port was accepted")
	}
	bad = good
	bad.Active = true
	if r.d.Restore(bad, virtio.Activation{}) == nil {
		t.Error("an activation without queues was accepted")
	}
	if err := r.d.Restore(good, virtio.Activation{}); err != nil {
		t.Error(err)
	}
}

func TestActivateWithoutQueues(t *testing.T) {
	r := newRig(t, rigOptions{inactive: true})
	for _, qs := range [][]*queue.Queue{nil, {nil, nil, nil}, {r.rx.Queue(), nil, nil}, {nil, r.tx.Queue(), nil}} {
		if r.d.Activate(virtio.Activation{Queues: qs, Memory: r.mem, Interrupt: r.irq}) == nil {
			t.Errorf("%v was accepted", qs)
		}
	}
	r.d.Notify(0)
	r.pump2()
}

func TestConfigSpace(t *testing.T) {
	r := newRig(t, rigOptions{noListen: true})
	p := make([]byte, 12)
	r.d.WriteConfig(0, []byte{9, 9, 9, 9})
	r.d.ReadConfig(0, p)
	same(t, "config", p, []byte{3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, off := range []uint32{1, 7, 8, 9, 1 << 31, 1<<32 - 1} {
		p := []byte{1, 2}
		r.d.ReadConfig(off, p)
		same(t, "config", p, []byte{0, 0})
	}
}
