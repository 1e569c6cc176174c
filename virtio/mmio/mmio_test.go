package mmio

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/agentkernel/agentkernel/virtio"
	"github.com/agentkernel/agentkernel/virtio/queue"
)

func TestInitialization(t *testing.T) {
	g := newGuest(t)
	g.want("magic", regMagicValue, 0x74726976)
	g.want("version", regVersion, 2)
	g.want("device id", regDeviceID, 42)
	g.want("status", regStatus, 0)
	for sel, want := range map[uint32]uint32{0: 1<<28 | 1<<29, 1: 1<<0 | 1<<8, 2: 0, 0xffffffff: 0} {
		g.set(regDeviceFeaturesSel, sel)
		g.want("features", regDeviceFeatures, want)
	}
	for reg := uint64(regSHMLenLow); reg <= regSHMBaseHigh; reg += 4 {
		g.want("no shared memory", reg, 0xffffffff)
	}
	g.start()
	g.want("running", regStatus, 15)
	a := g.dev.activation()
	if a == nil || a.Features != allFeatures || len(a.Queues) != 2 || a.Queues[0] == nil || a.Queues[1] == nil || a.Memory != g.mem {
		t.Fatalf("activation %+v", a)
	}
	if c := a.Queues[1].State().Config; c.Desc != g.rings[1].Config().Desc || !c.EventIdx || !c.Indirect {
		t.Errorf("queue 1: %+v", c)
	}

	// One request through the rings.
	head := g.rings[0].Add([]queue.Buffer{g.rings[0].AllocBytes([]byte("x"))}, nil)
	g.set(QueueNotify, 0)
	if g.dev.kicks.Load() != 1 {
		t.Error("no kick")
	}
	var c queue.Chain
	if ok, err := a.Queues[0].Pop(&c); !ok || err != nil || c.Head != head {
		t.Fatal(ok, err)
	}
	if err := a.Queues[0].Push(head, 0); err != nil {
		t.Fatal(err)
	}
	if interrupt, err := a.Queues[0].Flush(); !interrupt || err != nil {
		t.Fatal(interrupt, err)
	}
	a.Interrupt.UsedBuffer()
	g.want("interrupt", regInterruptStatus, 1)
	if g.pulses.Load() != 1 {
		t.Errorf("%d pulses", g.pulses.Load())
	}
	g.set(regInterruptACK, 1)
	g.want("acknowledged", regInterruptStatus, 0)

	g.set(regStatus, 0)
	g.want("reset", regStatus, 0)
	for i := range uint32(2) {
		g.set(regQueueSel, i)
		g.want("queue after reset", regQueueReady, 0) // Linux checks it
	}
	g.start()
	if want := []string{"activate", "reset", "activate"}; len(g.dev.events) != 3 || g.dev.events[1] != want[1] {
		t.Errorf("events %v, want %v", g.dev.events, want)
	}
}

// M1: every width at every offset, aligned or not, over the window's end, in
// every state: an answer, no panic.
func TestM1EveryAccess(t *testing.T) {
	for _, started := range []bool{false, true} {
		g := newGuest(t)
		if started {
			g.start()
		}
		for off := uint64(0); off < Size+16; off++ {
			for _, n := range []int{0, 1, 2, 3, 4, 8, 16, 1024} {
				p := bytes.Repeat([]byte{0xee}, n)
				g.Read(off, p)
				register := off < regConfig && off%4 == 0 && n == 4
				config := off >= regConfig && off < regConfig+8
				if !register && !config && !bytes.Equal(p, make([]byte, n)) {
					t.Errorf("%d bytes at %#x read as %x", n, off, p)
				}
				if register {
					continue // M2's
				}
				if n > 1 && off+uint64(n) > regConfig+4 && off < regConfig+8 {
					continue // writable configuration
				}
				before, generation := g.get(regStatus), g.get(regConfigGeneration)
				g.Write(off, p)
				if g.get(regStatus) != before || g.get(regConfigGeneration) != generation {
					t.Errorf("%d bytes written at %#x changed something", n, off)
				}
			}
		}
		for _, off := range []uint64{1 << 32, 1<<64 - 1, 1<<64 - 4} {
			p := []byte{1, 2, 3, 4}
			g.Read(off, p)
			g.Write(off, p)
			if !bytes.Equal(p, make([]byte, 4)) {
				t.Errorf("offset %#x reads as %x", off, p)
			}
		}
	}
}

// M3: the status register walks its graph and nothing else.
func TestM3Status(t *testing.T) {
	const ack, drv, drvOK, featOK, failed = 1, 2, 4, 8, 128
	for _, tt := range []struct {
		name     string
		features uint64
		writes   []uint32
		want     uint32
	}{
		{"in order", allFeatures, []uint32{ack, ack | drv, 11, 15}, 15},
		{"FEATURES_OK and DRIVER_OK at once", allFeatures, []uint32{1, 3, 15}, 15},
		{"DRIVER skipped", allFeatures, []uint32{ack, ack | featOK}, ack},
		{"ACKNOWLEDGE skipped", allFeatures, []uint32{drv}, 0},
		{"FEATURES_OK skipped", allFeatures, []uint32{1, 3, 7}, 3},
		{"DRIVER_OK first", allFeatures, []uint32{drvOK}, 0},
		{"all at once has no features yet", allFeatures, []uint32{15}, 3},
		{"a bit cleared", allFeatures, []uint32{1, 3, 1}, 3},
		{"FEATURES_OK cleared", allFeatures, []uint32{1, 3, 11, 3}, 11},
		{"DRIVER_OK cleared", allFeatures, []uint32{1, 3, 11, 15, 11}, 15},
		{"a bit that was not offered", allFeatures | 1<<41, []uint32{1, 3, 11}, 3},
		{"ring packed was not offered", allFeatures | 1<<34, []uint32{1, 3, 11}, 3},
		{"no VERSION_1", fakeFeature, []uint32{1, 3, 11}, 3},
		{"VERSION_1 alone", virtio.FeatureVersion1, []uint32{1, 3, 11, 15}, 15},
		{"FAILED stops all", allFeatures, []uint32{1, 3, 3 | failed, 11 | failed, 15 | failed}, 3 | failed},
		{"FAILED at once with others", allFeatures, []uint32{1, 3 | failed}, 1 | failed},
		{"FAILED cleared", allFeatures, []uint32{1 | failed, 1}, failed},
		{"NEEDS_RESET is not the driver's", allFeatures, []uint32{1 | 64, 3 | 64}, 3},
		{"unknown bits", allFeatures, []uint32{1 | 16 | 32 | 1<<8 | 1<<31}, 1},
		{"reset", allFeatures, []uint32{1, 3, 11, 15, 0}, 0},
		{"reset after FAILED", allFeatures, []uint32{failed, 0, 1}, 1},
	} {
		g := newGuest(t)
		for _, v := range tt.writes {
			if g.get(regStatus)&drv != 0 { // as soon as it may
				for sel := range uint32(2) {
					g.set(regDriverFeaturesSel, sel)
					g.set(regDriverFeatures, uint32(tt.features>>(32*sel)))
				}
			}
			if v == 15 && tt.name == "FEATURES_OK and DRIVER_OK at once" {
				g.want(tt.name, regStatus, 3)
			}
			g.set(regStatus, v)
		}
		g.want(tt.name, regStatus, tt.want)
		if running := g.dev.activation() != nil; running != (tt.want&drvOK != 0) {
			t.Errorf("%s: device active: %v", tt.name, running)
		}
	}
}

// M3: features are what they were at FEATURES_OK.
func TestM3FeaturesAreFixed(t *testing.T) {
	g := newGuest(t)
	g.set(regDriverFeaturesSel, 1)
	g.set(regDriverFeatures, 1) // before DRIVER: ignored
	g.accept(virtio.FeatureVersion1)
	g.set(regDriverFeaturesSel, 0)
	g.set(regDriverFeatures, 1<<29)
	g.set(regDriverFeaturesSel, 2)
	g.set(regDriverFeatures, 0xffffffff)
	g.set(regStatus, 15)
	if a := g.dev.activation(); a == nil || a.Features != virtio.FeatureVersion1 {
		t.Errorf("activation %+v", a)
	}
}

// M3: DRIVER_OK without queues is for the device to judge.
func TestM3NoQueues(t *testing.T) {
	g := newGuest(t)
	g.dev.refuse = errors.New("no queues")
	g.accept(allFeatures)
	g.set(regStatus, 15)
	g.want("refused", regStatus, 15|64)
	g.want("§2.1.2 notification", regInterruptStatus, intConfigChange)
	if g.Err() != g.dev.refuse {
		t.Errorf("Err = %v", g.Err())
	}
	g.set(regQueueNotify, 0)
	if g.dev.kicks.Load() != 0 {
		t.Error("kick to an inactive device")
	}
	g.set(regStatus, 0)
	g.dev.refuse = nil
	g.start()
	g.want("works after a reset", regStatus, 15)
	if len(g.dev.events) != 2 {
		t.Errorf("events %v", g.dev.events)
	}
}

// Q13, Q14: a ready queue that is invalid ends in NEEDS_RESET, not in the
// device.
func TestBadQueueRefused(t *testing.T) {
	for name, edit := range map[string]func(*guest){
		"Q14 size 0":                  func(g *guest) { g.set(regQueueNum, 0) },
		"Q14 size 3":                  func(g *guest) { g.set(regQueueNum, 3) },
		"Q14 above the maximum":       func(g *guest) { g.set(regQueueNum, 32) },
		"Q14 16 bits hide the size":   func(g *guest) { g.set(regQueueNum, 0x10010) },
		"Q13 address 0":               func(g *guest) { g.set(regQueueDescLow, 0) },
		"Q13 misaligned":              func(g *guest) { g.set(regQueueDeviceLow, 0x10002) },
		"Q13 outside RAM":             func(g *guest) { g.set(regQueueDriverHigh, 1) },
		"Q13 address wraps 64 bits":   func(g *guest) { g.set(regQueueDescHigh, 0xffffffff); g.set(regQueueDescLow, 0xfffffff0) },
		"Q13 ring over the last page": func(g *guest) { g.set(regQueueDescLow, 1<<20-16) },
	} {
		g := newGuest(t)
		g.accept(allFeatures)
		g.setQueue(0, g.rings[0].Config())
		g.set(regQueueReady, 0)
		edit(g)
		g.set(regQueueReady, 1)
		g.set(regStatus, 15)
		g.want(name, regStatus, 15|64)
		if g.dev.activation() != nil || g.Err() == nil {
			t.Errorf("%s: activated; Err = %v", name, g.Err())
		}
	}
}

// Q15 (CVE-2026-5747): after DRIVER_OK the queue registers are a snapshot.
func TestQ15QueueRegistersAreFixed(t *testing.T) {
	g := newGuest(t)
	g.setQueue(0, g.rings[0].Config()) // before FEATURES_OK: ignored
	g.want("too early", regQueueReady, 0)
	g.accept(allFeatures)
	c := g.rings[0].Config()
	g.setQueue(0, c)
	g.setQueue(0, queue.Config{Size: 3, Desc: 1, Avail: 1, Used: 1}) // ready: ignored
	g.set(regStatus, 15)
	g.want("running", regStatus, 15)
	before := g.dev.activation().Queues[0].State()
	g.set(regQueueReady, 0)
	g.setQueue(0, queue.Config{Size: 8, Desc: 0x50000, Avail: 0x60000, Used: 0x70000})
	g.setQueue(1, g.rings[1].Config())
	g.want("queue 1 stays unready", regQueueReady, 0)
	g.set(regQueueSel, 0)
	g.want("queue 0 stays ready", regQueueReady, 1)
	a := g.dev.activation()
	if a.Queues[0].State() != before || before.Config.Desc != c.Desc || a.Queues[1] != nil {
		t.Errorf("queues changed: %+v", a.Queues[0].State())
	}
}

// Q18: kicks reach an active device only, for queues that it has.
func TestQ18Notify(t *testing.T) {
	g := newGuest(t)
	g.set(QueueNotify, 0)
	g.accept(allFeatures)
	g.set(QueueNotify, 0)
	if n := g.dev.kicks.Load(); n != 0 {
		t.Errorf("%d kicks before DRIVER_OK", n)
	}
	g.set(regStatus, 15)
	for _, q := range []uint32{0, 1, 2, 3, 0xffff, 0x10000, 0xffffffff} {
		g.set(QueueNotify, q)
	}
	g.Write(QueueNotify, []byte{0})
	g.Write(QueueNotify, make([]byte, 8))
	if n := g.dev.kicks.Load(); n != 2 {
		t.Errorf("%d kicks, want those of queues 0 and 1", n)
	}
	g.set(regStatus, 0)
	g.set(QueueNotify, 0)
	if n := g.dev.kicks.Load(); n != 2 {
		t.Error("kick after reset")
	}
}

// M4: registers of a queue that does not exist read as 0 and ignore writes.
func TestM4QueueSelBeyond(t *testing.T) {
	g := newGuest(t)
	g.accept(allFeatures)
	for _, sel := range []uint32{2, 3, 0xffff, 1 << 16, 1 << 31, 0xffffffff} {
		g.setQueue(sel, g.rings[0].Config())
		g.want("ready", regQueueReady, 0)
		g.want("maximum", regQueueNumMax, 0)
	}
	g.set(regQueueSel, 1)
	g.want("maximum of queue 1", regQueueNumMax, 64)
	g.set(regStatus, 15)
	if a := g.dev.activation(); a == nil || a.Queues[0] != nil || a.Queues[1] != nil {
		t.Errorf("activation %+v", a)
	}
}

// M5: configuration beyond its length is 0, its read-only part stays.
func TestM5Config(t *testing.T) {
	g := newGuest(t)
	copy(g.dev.config[:], "abcdefgh")
	generation := g.get(regConfigGeneration)
	for _, tt := range []struct {
		off  uint64
		n    int
		want string
	}{
		{0, 8, "abcdefgh"}, {3, 2, "de"}, {7, 1, "h"}, {6, 4, "gh\x00\x00"}, {8, 4, "\x00\x00\x00\x00"},
		{255, 8, "\x00\x00\x00\x00\x00\x00\x00\x00"},
	} {
		p := bytes.Repeat([]byte{0xee}, tt.n)
		g.Read(regConfig+tt.off, p)
		if string(p) != tt.want {
			t.Errorf("%d bytes at %d: %q, want %q", tt.n, tt.off, p, tt.want)
		}
	}
	g.want("nothing changed", regConfigGeneration, generation)
	g.Write(regConfig, []byte("ABCDEFGH")) // no driver yet
	g.want("not written", regConfigGeneration, generation)
	g.set(regStatus, 1)
	g.set(regStatus, 3)
	g.Write(regConfig+2, []byte("CDEFGHIJKL"))
	g.Write(regConfig+255, []byte("too long"))
	if got := string(g.dev.config[:]); got != "abcdEFGH" {
		t.Errorf("configuration %q", got)
	}
}

// §2.5.3: a driver that reads the generation before and after never takes a
// torn value, whenever the device changes it.
func TestConfigGeneration(t *testing.T) {
	g := newGuest(t)
	g.start()
	change := func(s string) {
		g.dev.mu.Lock()
		copy(g.dev.config[:], s)
		g.dev.mu.Unlock()
	}
	for _, changeAt := range []int{0, 1, 2, 3} {
		change("old.old.")
		var got [8]byte
		at := func(step int) {
			if step == changeAt {
				change("new.new.")
			}
		}
		at(0)
		before := g.get(regConfigGeneration)
		at(1)
		g.Read(regConfig, got[:4])
		at(2)
		g.Read(regConfig+4, got[4:])
		at(3)
		same := g.get(regConfigGeneration) == before
		if torn := !bytes.Equal(got[:4], got[4:]); torn && same {
			t.Errorf("change at step %d: torn read %q of one generation", changeAt, got)
		}
		if changeAt > 0 && same {
			t.Errorf("change at step %d: same generation", changeAt)
		}
	}
	g.dev.activation().Interrupt.ConfigChange()
	g.want("interrupt", regInterruptStatus, intConfigChange)
}

// M8: acknowledging bits that are not pending, or do not exist, does nothing;
// never acknowledging does no harm.
func TestM8InterruptACK(t *testing.T) {
	g := newGuest(t)
	g.start()
	irq := g.dev.activation().Interrupt
	irq.UsedBuffer()
	irq.UsedBuffer()
	irq.ConfigChange()
	g.want("both", regInterruptStatus, 3)
	if n := g.pulses.Load(); n != 3 {
		t.Errorf("%d pulses for 3 interrupts", n)
	}
	g.set(regInterruptACK, 0)
	g.set(regInterruptACK, 0xfffffffc)
	g.set(regInterruptStatus, 0)
	g.want("still both", regInterruptStatus, 3)
	g.set(regInterruptACK, 2)
	g.want("one left", regInterruptStatus, 1)
	g.set(regInterruptACK, 0xffffffff)
	g.want("none", regInterruptStatus, 0)
}

// Q17: after a reset the former life's interrupter changes nothing.
func TestQ17LateInterrupt(t *testing.T) {
	g := newGuest(t)
	g.start()
	late := g.dev.activation().Interrupt
	late.NeedsReset()
	late.NeedsReset()
	g.want("needs reset", regStatus, 15|64)
	g.want("notified", regInterruptStatus, intConfigChange)
	if n := g.pulses.Load(); n != 1 {
		t.Errorf("%d pulses for NEEDS_RESET", n)
	}
	g.set(regStatus, 0)
	late.UsedBuffer()
	late.NeedsReset()
	g.want("status", regStatus, 0)
	g.want("interrupts", regInterruptStatus, 0)
	if n := g.pulses.Load(); n != 1 {
		t.Errorf("%d pulses after reset", n)
	}
	g.start()
	g.want("works again", regStatus, 15)
}

// Q17: Reset waits for the device while the device raises interrupts and other
// vCPUs hammer the registers: no deadlock, and nothing after it.
func TestQ17ResetStorm(t *testing.T) {
	g := newGuest(t)
	var working sync.WaitGroup
	g.dev.onReset = func() {
		irq := g.dev.activation().Interrupt
		working.Go(func() { irq.UsedBuffer(); irq.ConfigChange(); irq.NeedsReset() })
		working.Wait()
	}
	var stop atomic.Bool
	var others sync.WaitGroup
	for range 2 {
		others.Go(func() {
			for !stop.Load() {
				for _, reg := range []uint64{regStatus, regInterruptStatus, regConfig, regQueueReady} {
					g.get(reg)
				}
				g.set(regInterruptACK, 3)
				g.set(regQueueNotify, 0)
			}
		})
	}
	for range 300 {
		g.start()
		g.set(regStatus, 0)
	}
	stop.Store(true)
	others.Wait()
	g.want("status", regStatus, 0)
	if len(g.dev.events) != 600 {
		t.Errorf("%d events", len(g.dev.events))
	}
}

func TestNoAllocations(t *testing.T) {
	g := newGuest(t)
	g.start()
	irq := g.dev.activation().Interrupt
	var status [4]byte
	one := []byte{1, 0, 0, 0}
	if n := testing.AllocsPerRun(100, func() {
		irq.UsedBuffer()
		g.Read(regInterruptStatus, status[:])
		g.Write(regInterruptACK, one)
		g.Write(regQueueNotify, one)
	}); n != 0 {
		t.Errorf("%v allocations per interrupt and kick", n)
	}
}
