// Command mkimage writes the initramfs of the base file system. build.sh runs it:
//
//	mkimage -init guest-init -busybox /bin/busybox -o initramfs.cpio
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/agentkernel/agentkernel/images/base"
	"github.com/agentkernel/agentkernel/images/initramfs"
)

func main() {
	initPath := flag.String("init", "", "the guest's first process, a static program")
	busybox := flag.String("busybox", "", "a static busybox")
	output := flag.String("o", "", "where to write the archive")
	flag.Parse()
	if err := run(*initPath, *busybox, *output); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(initPath, busybox, output string) error {
	parts, err := readParts(initPath, busybox)
	if err != nil {
		return err
	}
	entries, err := base.Entries(parts)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := initramfs.Write(&archive, entries); err != nil {
		return err
	}
	return replace(output, archive.Bytes())
}

func readParts(initPath, busybox string) (p base.Parts, err error) {
	if p.Init, err = readStatic(initPath); err != nil {
		return p, err
	}
	if p.Busybox, err = readStatic(busybox); err != nil {
		return p, err
	}
	list, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return p, fmt.Errorf("ask busybox for its applets: %w", err)
	}
	p.Applets = strings.Fields(string(list))
	return p, nil
}

// replace writes the file as a whole or not at all, and leaves one alone that
// has these bytes already.
func replace(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err = tmp.Write(data); err == nil {
		err = tmp.Chmod(0o644)
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
