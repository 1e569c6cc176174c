package lab

import (
	"fmt"
	"io"
	"os"
	"os/exec"
)

var amd = machineKind{
	link:    "virtio",
	modules: []string{"virtio_pci", "virtio_console", "kvm_amd"},
	// Guests of guests are out of scope; without them KVM skips their checks.
	params: map[string]string{"kvm_amd": "nested=0"},
}

// startQEMU starts an AMD host. QEMU inherits everything it reads as descriptors,
// so no file of it has a name.
func startQEMU(k *hostKernel, initramfs *os.File, o *Options, console *tail) (*machine, error) {
	link, linkEnd, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer linkEnd.Close()
	serial, serialEnd, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer serialEnd.Close()
	out, outEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer outEnd.Close()

	cmd := exec.Command("qemu-system-x86_64", qemuArgs(k, o)...)
	cmd.ExtraFiles = []*os.File{initramfs, linkEnd, serialEnd} // descriptors 3, 4, 5
	cmd.Stdout, cmd.Stderr = outEnd, outEnd
	p, err := startProcess(cmd)
	if err != nil {
		return nil, err
	}
	m := &machine{link: link, process: p, output: newTail(), closers: []io.Closer{serial, out}}
	m.collect(out, m.output)
	m.collect(serial, console)
	return m, nil
}

func qemuArgs(k *hostKernel, o *Options) []string {
	accel := []string{"-accel", "tcg,thread=multi"}
	if o.Clock {
		accel = []string{"-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off"}
	}
	return append(accel,
		"-M", "q35", "-cpu", "EPYC,+svm,+npt",
		"-m", fmt.Sprint(o.MemoryMiB), "-smp", fmt.Sprint(o.CPUs),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "socket,id=console,fd=5", "-serial", "chardev:console",
		"-device", "virtio-serial-pci,max_ports=2",
		"-chardev", "socket,id=link,fd=4", "-device", "virtserialport,chardev=link,nr=1",
		"-kernel", k.image, "-initrd", "/dev/fd/3",
		"-append", kernelParameters)
}
