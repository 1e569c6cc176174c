package initramfs

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// sample holds every type of entry, every kind of padding and special bits.
func sample() []Entry {
	return []Entry{
		{Name: ".", Type: Directory, Perm: 0o755},
		{Name: "init", Type: Regular, Perm: 0o755, Data: []byte("#!/bin/sh\n")},
		{Name: "dev", Type: Directory, Perm: 0o755},
		{Name: "dev/console", Type: CharDevice, Perm: 0o600, Major: 5, Minor: 1},
		{Name: "tmp", Type: Directory, Perm: 0o1777},
		{Name: "bin", Type: Symlink, Perm: 0o777, Data: []byte("usr/bin")},
		{Name: "home", Type: Directory, Perm: 0o755},
		{Name: "home/developer", Type: Directory, Perm: 0o755, UID: 1000, GID: 1000},
		{Name: "home/developer/empty", Type: Regular, Perm: 0o644, UID: 1000, GID: 1000},
		{Name: "home-x", Type: Regular, Perm: 0o4755, Data: []byte{0}},
	}
}

func TestWriteGolden(t *testing.T) {
	var got bytes.Buffer
	if err := Write(&got, sample()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "sample.cpio")
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("archive differs from %s (to renew it: go test -update):\n%q", path, got.Bytes())
	}
}

func TestWriteIgnoresOrder(t *testing.T) {
	var a, b bytes.Buffer
	entries := sample()
	if err := Write(&a, entries); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(entries)
	before := slices.Clone(entries)
	if err := Write(&b, entries); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the order of entries changed the archive")
	}
	for i := range before {
		if before[i].Name != entries[i].Name {
			t.Fatal("Write sorted its caller's slice")
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := func(name string) Entry { return Entry{Name: name, Type: Directory, Perm: 0o755} }
	file := func(name string) Entry { return Entry{Name: name, Type: Regular, Perm: 0o644} }
	rows := []struct {
		name    string
		entries []Entry
	}{
		{"empty name", []Entry{dir("")}},
		{"the root as a file", []Entry{file(".")}},
		{"absolute", []Entry{file("/init")}},
		{"dot dot", []Entry{dir("a"), file("a/../b")}},
		{"trailing slash", []Entry{dir("a/")}},
		{"NUL", []Entry{file("a\x00b")}},
		{"trailer", []Entry{file("TRAILER!!!")}},
		{"long name", []Entry{file(strings.Repeat("x", 4096))}},
		{"duplicate", []Entry{file("a"), dir("a")}},
		{"no parent", []Entry{file("a/b")}},
		{"parent is a file", []Entry{file("a"), file("a/b")}},
		{"parent is a link", []Entry{{Name: "a", Type: Symlink, Data: []byte("c")}, dir("c"), file("a/b")}},
		{"type bits in Perm", []Entry{{Name: "a", Type: Regular, Perm: 0o100644}}},
		{"unknown type", []Entry{{Name: "a"}}},
		{"directory with data", []Entry{{Name: "a", Type: Directory, Data: []byte("x")}}},
		{"device with data", []Entry{{Name: "a", Type: CharDevice, Data: []byte("x")}}},
		{"file with device number", []Entry{{Name: "a", Type: Regular, Major: 1}}},
		{"link to nothing", []Entry{{Name: "a", Type: Symlink}}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Write(&out, row.entries); !errors.Is(err, ErrInvalid) {
				t.Errorf("error is %v, want ErrInvalid", err)
			}
			if out.Len() != 0 {
				t.Errorf("wrote %d bytes", out.Len())
			}
		})
	}
}

type fullDisk struct{}

var errFull = errors.New("no space left")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestWriteReportsTheWriter(t *testing.T) {
	if err := Write(fullDisk{}, sample()); !errors.Is(err, errFull) {
		t.Errorf("error is %v", err)
	}
}
