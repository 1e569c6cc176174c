package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program returns an ELF file of one program header.
func program(t *testing.T, machine elf.Machine, segment elf.ProgType) string {
	t.Helper()
	header := elf.Header64{
		Ident:   [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:    uint16(elf.ET_EXEC),
		Machine: uint16(machine),
		Version: uint32(elf.EV_CURRENT),
		Phoff:   64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	var file bytes.Buffer
	for _, part := range []any{header, elf.Prog64{Type: uint32(segment)}} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, file.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadStatic(t *testing.T) {
	if _, err := readStatic(program(t, elf.EM_X86_64, elf.PT_LOAD)); err != nil {
		t.Error(err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, word := range map[string]string{
		program(t, elf.EM_X86_64, elf.PT_INTERP): "dynamically",
		program(t, elf.EM_AARCH64, elf.PT_LOAD):  "x86-64",
		script:                                   "no program",
		filepath.Join(t.TempDir(), "none"):       "no such file",
	} {
		if _, err := readStatic(path); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: error is %v, want one with %q", path, err, word)
		}
	}
}

// TestReplace: an archive that did not change keeps its file, so that nothing
// that depends on it is made again; and no temporary file stays.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.cpio")
	stat := func() os.FileInfo {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if err := replace(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	first := stat()
	if err := replace(path, []byte("one")); err != nil || !os.SameFile(first, stat()) {
		t.Errorf("the same bytes made a new file (%v)", err)
	}
	if err := replace(path, []byte("two")); err != nil || os.SameFile(first, stat()) {
		t.Errorf("other bytes went into the old file (%v)", err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 || stat().Mode().Perm() != 0o644 {
		t.Errorf("left %v, mode %v", list, stat().Mode())
	}
}
