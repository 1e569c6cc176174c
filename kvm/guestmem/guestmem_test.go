package guestmem

import (
	"errors"
	"math"
	"testing"
)

func newMemory(t *testing.T, size uint64) *Memory {
	t.Helper()
	m, err := New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestSizes(t *testing.T) {
	for _, size := range []uint64{0, 1, PageSize + 1, MaxSize + PageSize, math.MaxUint64} {
		if _, err := New(size); err == nil {
			t.Errorf("New(%d) succeeded", size)
		}
	}
}

func TestLayoutAroundTheGap(t *testing.T) {
	m := newMemory(t, 5<<30)
	regions := m.Regions()
	if len(regions) != 2 || regions[0].Start != 0 || regions[0].Size() != GapStart ||
		regions[1].Start != GapEnd || regions[1].Size() != 5<<30-GapStart {
		t.Fatalf("regions: %+v", regions)
	}
	if regions[1].HostAddr()-regions[0].HostAddr() != GapStart {
		t.Error("the regions are not one mapping")
	}
	for _, r := range regions {
		if (uint64(r.HostAddr())-r.Start)%hugePage != 0 {
			t.Errorf("%#x lies at %#x: no huge page can back it", r.Start, r.HostAddr())
		}
	}
}

func TestRange(t *testing.T) {
	m := newMemory(t, GapStart+4*PageSize)
	end := uint64(GapEnd + 4*PageSize)
	for _, tt := range []struct {
		name   string
		gpa, n uint64
		ok     bool
	}{
		{"first byte", 0, 1, true},
		{"nothing", 0, 0, true},
		{"up to the gap", GapStart - 8, 8, true},
		{"into the gap", GapStart - 8, 9, false},
		{"in the gap", GapStart, 1, false},
		{"above the gap", GapEnd, 4 * PageSize, true},
		{"straddles the gap", GapStart - 1, GapEnd - GapStart + 2, false},
		{"last byte", end - 1, 1, true},
		{"past the end", end - 1, 2, false},
		{"at the end", end, 0, false},
		{"address + length overflows", math.MaxUint64, 2, false},
		{"length overflows", 8, math.MaxUint64 - 4, false},
	} {
		if _, err := m.Bytes(tt.gpa, tt.n); (err == nil) != tt.ok || (err != nil && !errors.Is(err, ErrRange)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestCopies(t *testing.T) {
	m := newMemory(t, PageSize)
	if err := m.WriteAt([]byte("guest"), 100); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if err := m.ReadAt(got, 100); err != nil || string(got) != "guest" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := m.WriteAt(make([]byte, 2), PageSize-1); !errors.Is(err, ErrRange) {
		t.Fatalf("write past the end: %v", err)
	}
}

func TestAtomics(t *testing.T) {
	m := newMemory(t, PageSize)
	if err := m.StoreUint64(8, 0x1122334455667788); err != nil {
		t.Fatal(err)
	}
	if err := m.StoreUint16(10, 0xabcd); err != nil {
		t.Fatal(err)
	}
	if v, err := m.LoadUint64(8); err != nil || v != 0x11223344abcd7788 {
		t.Errorf("%#x, %v", v, err)
	}
	if v, err := m.LoadUint32(8); err != nil || v != 0xabcd7788 {
		t.Errorf("%#x, %v", v, err)
	}
	if v, err := m.LoadUint16(14); err != nil || v != 0x1122 {
		t.Errorf("%#x, %v", v, err)
	}
	if _, err := m.LoadUint32(6); !errors.Is(err, ErrAlign) {
		t.Errorf("misaligned: %v", err)
	}
	if err := m.StoreUint64(PageSize, 0); !errors.Is(err, ErrRange) {
		t.Errorf("outside: %v", err)
	}
	Fence()
}
