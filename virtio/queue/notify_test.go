package queue_test

import (
	"math/rand/v2"
	"testing"

	"github.com/agentkernel/agentkernel/virtio/queue"
	qt "github.com/agentkernel/agentkernel/virtio/queue/queuetest"
)

// flushN serves n chains of one buffer and returns what Flush says.
func flushN(t *testing.T, d *qt.Driver, q *queue.Queue, buf []queue.Buffer, n int) bool {
	t.Helper()
	var c queue.Chain
	for range n {
		d.Stage(buf, nil)
	}
	d.Publish()
	for range n {
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := q.Push(c.Head, 0); err != nil {
			t.Fatal(err)
		}
	}
	interrupt, err := q.Flush()
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		d.MustUsed()
	}
	return interrupt
}

// §2.7.7: without EVENT_IDX the driver's flag alone decides.
func TestInterruptFlag(t *testing.T) {
	d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{})
	q := d.Queue()
	buf := []queue.Buffer{d.Alloc(1)}
	for _, off := range []bool{false, true, false} {
		d.SetNoInterrupt(off)
		d.SetUsedEvent(1234) // not negotiated
		if got := flushN(t, d, q, buf, 1); got == off {
			t.Errorf("NO_INTERRUPT %v: interrupt %v", off, got)
		}
	}
}

// Q21, §2.7.7.2: with EVENT_IDX an interrupt is due exactly when used.idx
// passes used_event, whatever value that has; the flag must be ignored.
func TestQ21UsedEvent(t *testing.T) {
	d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{Size: 32, EventIdx: true})
	q := d.Queue()
	buf := []queue.Buffer{d.Alloc(1)}
	rng := rand.New(rand.NewPCG(3, 4))
	var idx uint16
	d.SetNoInterrupt(true)
	for range 20_000 {
		n := int(rng.Uint32N(32)) + 1
		event := idx + uint16(rng.Uint32N(64)) - 16
		if rng.Uint32N(8) == 0 {
			event = uint16(rng.Uint32())
		}
		d.SetUsedEvent(event)
		want := false
		for i := range n { // element number idx+i becomes used
			want = want || idx+uint16(i) == event
		}
		if got := flushN(t, d, q, buf, n); got != want {
			t.Fatalf("used.idx %d to %d, used_event %d: interrupt %v", idx, idx+uint16(n), event, got)
		}
		idx += uint16(n)
	}
}

// §2.7.10: kicks by flag.
func TestKickFlag(t *testing.T) {
	d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{})
	q := d.Queue()
	buf := []queue.Buffer{d.Alloc(1)}
	d.Add(buf, nil)
	if !d.NeedKick() {
		t.Error("no kick for the first chain")
	}
	if err := q.DisableNotify(); err != nil {
		t.Fatal(err)
	}
	d.Add(buf, nil)
	if d.NeedKick() {
		t.Error("kick although disabled")
	}
	if more, err := q.EnableNotify(); !more || err != nil {
		t.Errorf("EnableNotify = %v, %v with two chains to pop", more, err)
	}
	d.Add(buf, nil)
	if !d.NeedKick() {
		t.Error("no kick although enabled")
	}
}

// §2.7.10: kicks by avail_event: one for the chain after those that were
// popped, none for others.
func TestKickAvailEvent(t *testing.T) {
	d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{EventIdx: true})
	q := d.Queue()
	buf := []queue.Buffer{d.Alloc(1)}
	var c queue.Chain
	for i := range 5 {
		d.Add(buf, nil)
		if want := i == 0; d.NeedKick() != want {
			t.Errorf("kick for chain %d: %v", i, !want)
		}
	}
	for range 5 {
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if more, err := q.EnableNotify(); more || err != nil {
		t.Errorf("EnableNotify = %v, %v", more, err)
	}
	if d.AvailEvent() != 5 || d.UsedFlags() != 0 {
		t.Errorf("avail_event %d, used.flags %d", d.AvailEvent(), d.UsedFlags())
	}
	d.Add(buf, nil)
	if !d.NeedKick() {
		t.Error("no kick after EnableNotify")
	}
	// avail_event has 16 bits; what follows it is not ours.
	after := d.Config().Used + 4 + 8*16 + 2
	d.Write(after, []byte{0xaa, 0x55})
	if _, err := q.EnableNotify(); err != nil {
		t.Fatal(err)
	}
	if got := d.Read(queue.Buffer{Addr: after, Len: 2}); got[0] != 0xaa || got[1] != 0x55 {
		t.Errorf("bytes after the used ring: %x", got)
	}
}

// No wake-up is lost between a driver and a device that both sleep whenever
// they may. A lost one is a deadlock, which the test's time limit shows.
func TestNoLostWakeups(t *testing.T) {
	for _, eventIdx := range []bool{false, true} {
		const total = 30_000
		d := qt.New(t, qt.NewMemory(t, memSize), qt.Options{Size: 4, EventIdx: eventIdx})
		kick, interrupt := make(chan struct{}, 1), make(chan struct{}, 1)
		signal := func(c chan struct{}) {
			select {
			case c <- struct{}{}:
			default:
			}
		}
		device := make(chan error, 1)
		go func() { device <- echo(d.Queue(), total, kick, func() { signal(interrupt) }) }()

		buf := []queue.Buffer{d.Alloc(1)}
		for added, used := 0, 0; used < total; {
			for ; added < total && d.Free() > 0; added++ {
				d.Add(buf, nil)
				if d.NeedKick() {
					signal(kick)
				}
			}
			if _, ok := d.Used(); ok {
				used++
			} else if !d.ArmInterrupt() {
				select {
				case <-interrupt:
				case err := <-device:
					t.Fatalf("the device ended: %v", err)
				}
			}
		}
		if err := <-device; err != nil {
			t.Fatal(err)
		}
	}
}

// echo is a device that returns total chains.
func echo(q *queue.Queue, total int, kick <-chan struct{}, interrupt func()) error {
	var c queue.Chain
	for done := 0; done < total; {
		ok, err := q.Pop(&c)
		if err != nil {
			return err
		}
		if ok {
			if err := q.Push(c.Head, 0); err != nil {
				return err
			}
			done++
			if done%3 != 0 && done < total {
				continue
			}
		}
		if want, err := q.Flush(); err != nil {
			return err
		} else if want {
			interrupt()
		}
		if ok {
			continue
		}
		if more, err := q.EnableNotify(); err != nil {
			return err
		} else if !more {
			<-kick
			if err := q.DisableNotify(); err != nil {
				return err
			}
		}
	}
	return nil
}
