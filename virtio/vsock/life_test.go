package vsock

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPitfall3HostHalfClose: the end of file from the host is SHUTDOWN(SEND)
// and no more, behind all data; the guest may go on.
func TestPitfall3HostHalfClose(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	want := fill(t, c, 150_000)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r.pump()
	same(t, "stream", r.data(), want)
	if p := r.want(opShutdown); p.flags != shutdownSend {
		t.Fatalf("flags %d", p.flags)
	}
	r.quiet()
	s.write([]byte("answer"))
	expect(t, c, "answer")
	s.op(opShutdown, shutdownBoth)
	r.want(opRST)
	expectEOF(t, c)
	r.quiet()
	r.checkEmpty()
}

// The end of the host's stream needs no credit.
func TestEOFWithoutCredit(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	s.alloc = 5
	s.op(opCreditUpdate, 0)
	if _, err := c.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	r.pump()
	_ = c.CloseWrite()
	r.pump()
	if got := r.data(); string(got) != "12345" {
		t.Errorf("guest got %q", got)
	}
	r.want(opShutdown)
	r.quiet()
}

// TestPitfall3GuestHalfClose is the mirror: shutdown(SHUT_WR) on the host's
// socket behind all data, however slow the reader.
func TestPitfall3GuestHalfClose(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	want := s.stuff(t)
	s.op(opShutdown, shutdownSend)
	r.advance(time.Hour) // no deadline for a reader
	r.seen = nil
	same(t, "stream", r.readAll(c), want) // readAll ends with EOF
	for len(r.seen) > 0 {
		r.want(opCreditUpdate)
	}
	if _, err := c.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	r.pump()
	if got := r.data(); string(got) != "answer" {
		t.Errorf("guest got %q", got)
	}
	_ = c.Close()
	r.pump()
	if p := r.want(opShutdown); p.flags != shutdownBoth {
		t.Errorf("flags %d", p.flags)
	}
	s.op(opRST, 0)
	r.quiet()
	r.checkEmpty()
}

// The guest reads no more: the host's writer gets EPIPE, its reader lives on.
func TestGuestStopsReading(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	s.op(opShutdown, shutdownReceive)
	if _, err := c.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write: %v", err)
	}
	s.write([]byte("alive"))
	expect(t, c, "alive")
	r.quiet()
	s.op(opShutdown, shutdownSend)
	r.want(opRST)
	expectEOF(t, c)
	r.checkEmpty()
}

// TestLastByte: the guest closes at once behind its data. It gets RST, so that
// it need not wait; the host's reader gets every byte, however late it reads.
func TestLastByte(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	want := s.stuff(t)
	s.op(opShutdown, shutdownBoth)
	r.want(opRST)
	r.quiet()
	if len(r.d.table) != 0 {
		t.Error("the ports are not free")
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write to a guest that closed: %v", err)
	}
	r.advance(time.Hour)
	same(t, "stream", r.readAll(c), want)
	r.quiet()
	r.checkEmpty()
}

// TestS12HostLeavesWithDataInFlight closes connections in every situation.
func TestS12HostLeavesWithDataInFlight(t *testing.T) {
	files := openFiles(t)
	r := newRig(t, rigOptions{})
	ours := openFiles(t)
	for i := range 100 {
		s, c := r.connect()
		switch i % 4 {
		case 0: // the guest's data waits in the device
			s.stuff(t)
		case 1: // unread data in the host's socket: ECONNRESET
			s.write(make([]byte, 1000))
		case 2: // data for the guest
			fill(t, c, 30_000)
		}
		_ = c.Close()
		r.pump()
		s.write(make([]byte, 5000)) // EPIPE at the latest now
		flags := uint32(0)
		for len(r.seen) > 0 {
			p := r.next()
			if p.op == opShutdown {
				flags = p.flags
			}
		}
		if flags != shutdownBoth {
			t.Fatalf("%d: flags %d", i, flags)
		}
		s.op(opRST, 0)
		r.quiet()
	}
	r.checkEmpty()
	if n := openFiles(t); n != ours {
		t.Errorf("%d descriptors, %d before", n, ours)
	}
	if err := r.d.Close(); err != nil {
		t.Fatal(err)
	}
	if n := openFiles(t); n != files {
		t.Errorf("%d descriptors after Close, %d before New", n, files)
	}
}

// A guest that does not answer SHUTDOWN of both directions is reset.
func TestClosingTimesOut(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	_ = c.Close()
	r.pump()
	r.want(opShutdown)
	r.advance(7900 * time.Millisecond)
	r.quiet()
	r.advance(200 * time.Millisecond)
	r.want(opRST)
	r.checkEmpty()
	s.op(opRST, 0)
	r.quiet()
}

// The guest may use the ports of a connection that it forgot again.
func TestRequestWhileClosing(t *testing.T) {
	var host int
	r := newRig(t, rigOptions{config: Config{HostPorts: map[uint32]func() (int, error){1024: func() (int, error) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		host = fds[1]
		return fds[0], err
	}}}})
	h := header{op: opRequest, srcPort: 70000, dstPort: 1024}
	r.send(h, nil)
	r.want(opResponse)
	_ = unix.Close(host)
	r.pump()
	if p := r.want(opShutdown); p.flags != shutdownBoth {
		t.Errorf("flags %d", p.flags)
	}
	r.send(h, nil)
	r.want(opRST)
	r.send(h, nil)
	r.want(opResponse)
	_ = unix.Close(host)
}

// TestCloseWhileRunning: Close ends Run, connections and dialers in the
// backlog; a late Notify does no harm.
func TestCloseWhileRunning(t *testing.T) {
	files := openFiles(t)
	r := newRig(t, rigOptions{})
	done := make(chan error)
	go func() { done <- r.d.Run() }()
	c, err := net.Dial("unix", r.sock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("CONNECT 7\n")); err != nil {
		t.Fatal(err)
	}
	for r.rx.ArmInterrupt(); r.rx.UsedIdx() == 0; {
		<-r.irq.Wake()
	}
	if err := r.d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	expectEOF(t, c)
	_ = c.Close()
	r.d.Notify(1)
	if err := r.d.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if err := r.d.Run(); !errors.Is(err, ErrClosed) {
		t.Errorf("Run after Close: %v", err)
	}
	if n := openFiles(t); n != files {
		t.Errorf("%d descriptors, %d before", n, files)
	}
}

// TestDrain: at the end of a VM the last words reach a slow reader, and what is
// in the ring without a kick too.
func TestDrain(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	want := s.stuff(t)
	h := s.header(opRW)
	h.length = 3
	r.put(h, []byte("bye"))
	want = append(want, "bye"...)
	r.start()
	got := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(c)
		got <- all
	}()
	if err := r.d.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "stream", <-got, want)
}

func TestDrainGivesUp(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, _ := r.connect()
	s.stuff(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.d.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Descriptors that a dialer sends along are closed by the kernel, and the
// stream goes on behind them.
func TestPassedDescriptors(t *testing.T) {
	r := newRig(t, rigOptions{})
	_, c := r.connect()
	files := openFiles(t)
	for range 3 {
		if _, _, err := c.WriteMsgUnix([]byte("ab"), unix.UnixRights(1), nil); err != nil {
			t.Fatal(err)
		}
	}
	r.pump()
	if got := r.data(); string(got) != "ababab" {
		t.Errorf("guest got %q", got)
	}
	if n := openFiles(t); n != files {
		t.Errorf("%d descriptors, %d before", n, files)
	}
}

// The host's reader ends its direction alone: the guest hears of it when it
// writes, and the host's writer goes on.
func TestHostStopsReading(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, c := r.connect()
	if err := c.CloseRead(); err != nil {
		t.Fatal(err)
	}
	r.pump()
	for range 10 { // more than a window
		s.write(make([]byte, 60_000))
	}
	if p := r.want(opShutdown); p.flags != shutdownReceive {
		t.Errorf("flags %d", p.flags)
	}
	for len(r.seen) > 0 {
		r.want(opCreditUpdate) // the guest is not left without credit
	}
	if _, err := c.Write([]byte("alive")); err != nil {
		t.Fatal(err)
	}
	r.pump()
	if got := r.data(); string(got) != "alive" {
		t.Errorf("guest got %q", got)
	}
	if n := r.d.Stats().DiscardedBytes; n != 600_000 {
		t.Errorf("%d bytes discarded", n)
	}
}
