package kvm

import (
	"encoding/binary"
	"testing"
)

func newPage() RunPage { return RunPage{page: make([]byte, runMinSize+4096)} }

func TestIOExit(t *testing.T) {
	p := newPage()
	le := binary.LittleEndian
	u := p.page[runUnion:]
	u[0], u[1] = 1, 2
	le.PutUint16(u[2:], 0x3f8)
	le.PutUint32(u[4:], 3)
	le.PutUint64(u[8:], runMinSize)
	io, err := p.IO()
	if err != nil || !io.Write || io.Size != 2 || io.Port != 0x3f8 || len(io.Data) != 6 {
		t.Errorf("%+v, %v", io, err)
	}
	for _, tt := range []struct {
		name  string
		size  byte
		count uint32
		off   uint64
	}{
		{"no such size", 3, 1, runMinSize},
		{"beyond the page", 4, 1 << 30, runMinSize},
		{"offset beyond the page", 1, 1, 1 << 63},
		{"both huge", 4, 0xffffffff, ^uint64(0)},
	} {
		u[1] = tt.size
		le.PutUint32(u[4:], tt.count)
		le.PutUint64(u[8:], tt.off)
		if io, err := p.IO(); err == nil {
			t.Errorf("%s: %+v", tt.name, io)
		}
	}
}

func TestMMIOExit(t *testing.T) {
	p := newPage()
	u := p.page[runUnion:]
	binary.LittleEndian.PutUint64(u, 0xd0000050)
	binary.LittleEndian.PutUint32(u[16:], 4)
	u[20] = 1
	a, err := p.MMIO()
	if err != nil || a.Addr != 0xd0000050 || !a.Write || len(a.Data) != 4 {
		t.Errorf("%+v, %v", a, err)
	}
	binary.LittleEndian.PutUint32(u[16:], 9)
	if a, err := p.MMIO(); err == nil {
		t.Errorf("9 bytes: %+v", a)
	}
}

func TestImmediateExit(t *testing.T) {
	p := newPage()
	p.SetImmediateExit(true)
	if p.page[runImmediateExit] != 1 || p.page[0] != 0 {
		t.Errorf("% x", p.page[:4])
	}
	p.SetImmediateExit(false)
	if p.page[runImmediateExit] != 0 {
		t.Errorf("% x", p.page[:4])
	}
}

// statsFile makes a statistics file of one counter.
func statsFile(edit func(raw []byte)) []byte {
	le := binary.LittleEndian
	const nameSize = 8
	raw := make([]byte, statsHeaderSize+statsDescSize+nameSize+8)
	le.PutUint32(raw[statsNameSize:], nameSize)
	le.PutUint32(raw[statsNumDesc:], 1)
	le.PutUint32(raw[statsDescOffset:], statsHeaderSize)
	le.PutUint32(raw[statsDataOffset:], statsHeaderSize+statsDescSize+nameSize)
	copy(raw[statsHeaderSize+statsDescSize:], "exits")
	le.PutUint64(raw[len(raw)-8:], 77)
	if edit != nil {
		edit(raw)
	}
	return raw
}

func TestParseStats(t *testing.T) {
	stats, err := parseStats(statsFile(nil))
	if err != nil || len(stats) != 1 || stats["exits"] != 77 {
		t.Errorf("%v, %v", stats, err)
	}
	le := binary.LittleEndian
	for name, raw := range map[string][]byte{
		"empty":              nil,
		"many counters":      statsFile(func(raw []byte) { le.PutUint32(raw[statsNumDesc:], 1<<31) }),
		"long names":         statsFile(func(raw []byte) { le.PutUint32(raw[statsNameSize:], 1<<19) }),
		"values outside":     statsFile(func(raw []byte) { le.PutUint32(raw[statsDataOffset:], 1<<30) }),
		"descriptor outside": statsFile(func(raw []byte) { le.PutUint32(raw[statsDescOffset:], 1<<31) }),
	} {
		if stats, err := parseStats(raw); err == nil {
			t.Errorf("%s: %v", name, stats)
		}
	}
}

func TestOpenDeviceNamesTheCause(t *testing.T) {
	f, err := OpenDevice()
	if err == nil {
		f.Close()
		return
	}
	for _, known := range []error{ErrNoDevice, ErrPermission, ErrNotReady} {
		if err == known {
			return
		}
	}
	t.Errorf("unnamed error %v", err)
}

func TestNotKVM(t *testing.T) {
	if _, err := NewSystem(0); err == nil {
		t.Error("standard input passed for /dev/kvm")
	}
}
