package vsock

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// echoGuest is a guest that listens on every port and sends back what it gets,
// within the credit it has, and keeps half-closed what is half-closed.
type echoGuest struct {
	*rig
	socks map[ports]*echoSock
	total int // connections closed
	bad   []string
}

type echoSock struct {
	sock
	out      []byte // to be sent back
	sent     uint32
	eof      bool // the host sends no more
	shut     bool // SHUTDOWN was sent
	responds bool // RESPONSE is to be sent
	credit   bool // CREDIT_UPDATE is to be sent
}

// serve runs the guest until n connections have ended. The device runs by
// itself.
func (g *echoGuest) serve(n int) {
	g.t.Helper()
	g.socks = map[ports]*echoSock{}
	for g.total < n {
		g.rx.ArmInterrupt()
		g.tx.ArmInterrupt()
		posted := g.rx.NeedKick()
		g.collect()
		idle := len(g.seen) == 0
		for _, p := range g.seen {
			g.take(p)
		}
		g.seen = nil
		sent := g.push()
		if g.rx.NeedKick() || g.tx.NeedKick() || posted {
			g.kick()
		}
		if idle && !sent && !g.rx.ArmInterrupt() && !g.tx.ArmInterrupt() {
			<-g.irq.Wake()
		}
	}
}

func (g *echoGuest) take(p packet) {
	key := ports{host: p.srcPort, guest: p.dstPort}
	s := g.socks[key]
	if p.op == opRequest {
		s = &echoSock{sock: sock{r: g.rig, host: p.srcPort, guest: p.dstPort, alloc: 256 << 10}, responds: true}
		g.socks[key] = s
	}
	if s == nil {
		if p.op != opRST {
			g.bad = append(g.bad, p.String())
		}
		return
	}
	s.window, s.hostFwd = p.bufAlloc, p.fwdCnt
	switch p.op {
	case opRW:
		if s.eof {
			g.bad = append(g.bad, "data after SHUTDOWN: "+p.String())
		}
		s.out = append(s.out, p.payload...)
		if len(s.out) > int(s.alloc) {
			g.bad = append(g.bad, fmt.Sprintf("%d bytes in a window of %d", len(s.out), s.alloc))
		}
	case opShutdown:
		s.eof = s.eof || p.flags&shutdownSend != 0
	case opCreditRequest:
		s.credit = true
	case opRST:
		if !s.shut {
			g.bad = append(g.bad, "early "+p.String())
		}
		delete(g.socks, key)
		g.total++
	}
}

// push sends what may be sent and tells whether there was something.
func (g *echoGuest) push() (any bool) {
	for _, s := range g.socks {
		for len(g.txBuf) > 0 {
			h := s.header(opRW)
			n := min(len(s.out), maxPayload, int(s.window-(s.sent-s.hostFwd)))
			switch {
			case s.responds:
				h.op, s.responds, n = opResponse, false, 0
			case n > 0:
				h.length = uint32(n)
				s.sent += uint32(n)
				s.fwd += uint32(n)
				h.fwdCnt = s.fwd
			case s.credit:
				h.op, s.credit = opCreditUpdate, false
			case s.eof && len(s.out) == 0 && !s.shut:
				h.op, h.flags, s.shut = opShutdown, shutdownBoth, true
			default:
				n = -1
			}
			if n < 0 {
				break
			}
			any = true
			g.put(h, s.out[:n])
			s.out = s.out[n:]
		}
	}
	return any
}

// start runs the device's loop until the end of the test.
func (r *rig) start() {
	done := make(chan error)
	go func() { done <- r.d.Run() }()
	r.t.Cleanup(func() {
		if err := r.d.Close(); err != nil {
			r.t.Error(err)
		}
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
}

// roundTrip sends p and reads as much until the end of the stream.
func roundTrip(path string, p []byte) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err = c.Write(append([]byte("CONNECT 9\n"), p...))
		if err == nil {
			err = c.(*net.UnixConn).CloseWrite()
		}
	})
	ok := make([]byte, len("OK 4294967295\n"))
	if _, rerr := io.ReadFull(c, ok[:len("OK 1073741824\n")]); rerr != nil {
		return rerr
	}
	h := sha256.New()
	n, rerr := io.Copy(h, c)
	wg.Wait()
	if err != nil || rerr != nil {
		return fmt.Errorf("write: %v, read: %v", err, rerr)
	}
	if want := sha256.Sum256(p); string(h.Sum(nil)) != string(want[:]) {
		return fmt.Errorf("%d bytes of %d, or others", n, len(p))
	}
	return nil
}

// TestEchoManyConnections is Firecracker's vsock test: byte-exact, 1 MiB on
// each of 50 connections, both ways at once.
func TestEchoManyConnections(t *testing.T) {
	for _, o := range []rigOptions{
		{eventIdx: true},
		{eventIdx: false, rxSplit: []int{44, 4096}},
		{eventIdx: true, rxSplit: []int{1, 42, 3, 1000, 500, 8192}, rxCount: 3},
	} {
		t.Run(fmt.Sprint(o.eventIdx, o.rxSplit), func(t *testing.T) {
			g := &echoGuest{rig: newRig(t, o)}
			g.start()
			const n = 50
			errs := make(chan error, n)
			for i := range n {
				go func() { errs <- roundTrip(g.sock, pattern(1<<20, byte(i))) }()
			}
			g.serve(n)
			for range n {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			if len(g.bad) > 0 {
				t.Errorf("%d rules broken, the first: %s", len(g.bad), g.bad[0])
			}
		})
	}
}
