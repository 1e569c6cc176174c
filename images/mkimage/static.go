package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
)

// readStatic reads a program and makes sure that it will run where there is no
// dynamic linker: the file system has none.
func readStatic(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s is no program: %w", path, err)
	}
	if f.Machine != elf.EM_X86_64 {
		return nil, fmt.Errorf("%s is a program for %v, want x86-64", path, f.Machine)
	}
	for _, segment := range f.Progs {
		if segment.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("%s is dynamically linked; busybox is to be that of Debian's busybox-static", path)
		}
	}
	return data, nil
}
