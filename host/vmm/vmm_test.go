package vmm

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/kvm"
)

func newLog(t *testing.T, limit int64) (*consoleLog, *os.File) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	log, err := newConsoleLog(int(f.Fd()), limit)
	if err != nil {
		t.Fatal(err)
	}
	return log, f
}

func content(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConsoleLogIsBounded(t *testing.T) {
	const limit = 4096
	log, f := newLog(t, limit)
	for i := range 2000 {
		log.Write([]byte("a line of the guest's log\n"))
		if st, err := f.Stat(); err != nil || st.Size() > limit {
			t.Fatalf("after %d lines: %v, %v", i, st.Size(), err)
		}
	}
	log.Write([]byte("the last line\n"))
	got := content(t, f)
	if !strings.HasPrefix(got, "[agentkernel: ") || !strings.HasSuffix(got, "log\nthe last line\n") {
		t.Errorf("%q", got)
	}
	// One write larger than the whole file.
	log.Write(bytes.Repeat([]byte("x"), 10*limit))
	if got := content(t, f); len(got) > limit || !strings.HasSuffix(got, "xxx") {
		t.Errorf("%d bytes", len(got))
	}
}

func TestPanicReason(t *testing.T) {
	log, _ := newLog(t, maxConsole)
	if text, ok := log.panicReason(); ok {
		t.Errorf("%q", text)
	}
	log.Write([]byte("[ 0.1] Kernel panic - not sync"))
	log.Write([]byte("ing: Attempted to kill init! \r\n[ 0.2] CPU: 0\n"))
	if text, ok := log.panicReason(); !ok || text != "Attempted to kill init!" {
		t.Errorf("%q, %v", text, ok)
	}
	for range 3 {
		log.Write(bytes.Repeat([]byte("y"), 5*tailSize))
	}
	if text, ok := log.panicReason(); ok {
		t.Errorf("the tail is unbounded: %q", text)
	}
}

func TestPorts(t *testing.T) {
	var log bytes.Buffer
	resets := 0
	p := ports{log: &log, reset: func() { resets++ }}
	p.write(uartBase+uartLineControl, uartDLAB) // the divisor is no output
	p.write(uartBase, 12)
	p.write(uartBase+uartLineControl, 3)
	for _, c := range []byte("early\r\nunfinished") {
		p.write(uartBase, c)
	}
	if log.String() != "early\n" {
		t.Errorf("%q", log.String())
	}
	p.flush()
	if log.String() != "early\nunfinished" {
		t.Errorf("%q", log.String())
	}
	p.write(i8042Command, 0xd1)
	p.write(0x80, i8042Reset)
	if resets != 0 {
		t.Error("reset by another command")
	}
	p.write(i8042Command, i8042Reset)
	if resets != 1 {
		t.Error("no reset")
	}
	for port := range 1 << 16 {
		p.read(uint16(port))
		p.write(uint16(port)|1, 0)
	}
	if p.read(uartBase+uartLineStatus) != uartTransmitIdle || p.read(0x1234) != 0xff {
		t.Error("wrong answers")
	}
}

// M6, M7: string and wide accesses are taken apart by size.
func TestPortIO(t *testing.T) {
	var log bytes.Buffer
	m := &machine{ports: ports{log: &log}}
	m.portIO(kvm.IO{Port: uartBase, Size: 1, Write: true, Data: []byte("string\n")})
	if log.String() != "string\n" {
		t.Errorf("%q", log.String())
	}
	in := []byte{0, 0, 0, 0, 0, 0, 0, 0}
	m.portIO(kvm.IO{Port: 0xcf8, Size: 4, Data: in})
	if !bytes.Equal(in, bytes.Repeat([]byte{0xff}, 8)) {
		t.Errorf("% x", in)
	}
}

// M6: MMIO outside every device's window.
func TestUnmappedMMIO(t *testing.T) {
	m := &machine{}
	for _, addr := range []uint64{0, mmioBase - 1, mmioBase, mmioBase + mmioStride*100, 1<<64 - 1} {
		data := []byte{1, 2, 3, 4}
		m.mmio(kvm.MMIO{Addr: addr, Write: true, Data: data})
		m.mmio(kvm.MMIO{Addr: addr, Data: data})
		if !bytes.Equal(data, []byte{0xff, 0xff, 0xff, 0xff}) {
			t.Errorf("%#x: % x", addr, data)
		}
	}
}

func TestReason(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "exit"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := ParseReason(content(t, f)); ok {
		t.Error("an empty file has a reason")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	report := newReporter(dup(t, w), int(f.Fd()))
	w.Close()
	report.end(Reason{Kind: KindPanic, Text: "said\n\x1b[31mthis\t" + strings.Repeat("x", 5000)})
	got, ok := ParseReason(content(t, f))
	if !ok || got.Kind != KindPanic || !strings.HasPrefix(got.Text, "said  [31mthis xxx") || len(got.Text) > 2048 {
		t.Errorf("%+v, %v", got, ok)
	}
	var told bytes.Buffer
	if _, err := told.ReadFrom(r); err != nil || !strings.HasPrefix(told.String(), "error said") {
		t.Errorf("%q, %v", told.String(), err)
	}
	report.ready() // too late, and harmless
}

func TestArgs(t *testing.T) {
	args := Args("sb", 2, 512)
	c, err := parse(args[1:])
	if err != nil || c != (config{"sb", 2, 512}) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range [][]string{nil, {"--name", "x", "more"}, {"--name", "x", "--memory", "1"}, {"--nope"}} {
		if c, err := parse(bad); err == nil {
			t.Errorf("%q: %+v", bad, c)
		}
	}
}

func TestCPUID(t *testing.T) {
	host := []kvm.CPUIDEntry{
		{Function: leafMax, EAX: 0x1f},
		{Function: leafFeatures, EBX: 0xffff0800, EDX: featureHTT},
		{Function: leafCache, EAX: 0xffffc121},
		{Function: leafTopology, EAX: 9}, {Function: leafTopology, Index: 1}, {Function: leafTopologyV2},
		{Function: leafKVM, EAX: 0xff}, {Function: leafAMDSizes, ECX: 0xf0ff}, {Function: leafAMDTopo, EAX: 9, EBX: 9, ECX: 9},
	}
	leaf := func(entries []kvm.CPUIDEntry, function, index uint32) kvm.CPUIDEntry {
		for _, e := range entries {
			if e.Function == function && e.Index == index {
				return e
			}
		}
		return kvm.CPUIDEntry{}
	}
	one := vcpuCPUID(host, 0, 1, false, false)
	if e := leaf(one, leafFeatures, 0); e.EBX != 1<<16|0x800 || e.ECX != featureHypervisor || e.EDX != 0 {
		t.Errorf("one CPU: %+v", e)
	}
	many := vcpuCPUID(host, 3, 5, true, true)
	if e := leaf(many, leafFeatures, 0); e.EBX != 3<<24|5<<16|0x800 || e.ECX != featureHypervisor|featureTSCDeadline || e.EDX != featureHTT {
		t.Errorf("five CPUs: %+v", e)
	}
	if e := leaf(many, leafTopology, 1); e.EAX != 3 || e.EBX != 5 || e.EDX != 3 {
		t.Errorf("topology: %+v", e)
	}
	if e := leaf(many, leafAMDSizes, 0); e.ECX != 3<<12|4 {
		t.Errorf("sizes: %#x", e.ECX)
	}
	if a, b := leaf(one, leafKVM, 0), leaf(many, leafKVM, 0); a.EAX != 0xff || b.EAX != 0xbf {
		t.Errorf("paravirtual EOI: %#x, on an emulator %#x", a.EAX, b.EAX)
	}
	if len(host) != 9 || host[1].EDX != featureHTT {
		t.Error("the host's leaves were changed")
	}
}

// dup returns a descriptor of f's that its user may close.
func dup(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
