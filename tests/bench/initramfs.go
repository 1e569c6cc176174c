package main

import (
	"os"

	"github.com/agentkernel/agentkernel/images/initramfs"
)

// qemuInit is the first user-space program of the machine that QEMU boots: it
// writes one line and resets the machine, which ends QEMU.
const qemuInit = "#!/bin/busybox sh\necho first line of user space\n/bin/busybox reboot -f\n"

// writeInitramfs writes the initramfs that QEMU boots: busybox and qemuInit.
func writeInitramfs(output, busybox string) error {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	f, err := os.Create(output)
	if err != nil {
		return err
	}
	defer f.Close()
	return initramfs.Write(f, []initramfs.Entry{
		{Name: ".", Type: initramfs.Directory, Perm: 0o755},
		{Name: "bin", Type: initramfs.Directory, Perm: 0o755},
		{Name: "bin/busybox", Type: initramfs.Regular, Perm: 0o755, Data: program},
		{Name: "dev", Type: initramfs.Directory, Perm: 0o755},
		{Name: "dev/console", Type: initramfs.CharDevice, Perm: 0o600, Major: 5, Minor: 1},
		{Name: "init", Type: initramfs.Regular, Perm: 0o755, Data: []byte(qemuInit)},
	})
}
