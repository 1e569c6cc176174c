package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/creack/pty"
	"golang.org/x/term"
)

var intel = machineKind{
	link:    "/dev/ttyS1",
	modules: []string{"kvm_intel"},
	params:  map[string]string{"kvm_intel": "nested=0"},
}

// uartBuffer is the receive buffer of the emulated 16550A in bytes: what L1 has
// not read when it is full is lost.
const uartBuffer = 16

const grubConfig = `set timeout=0
menuentry lab {
	linux /boot/vmlinuz %s
	initrd /boot/initramfs
}
`

// bochsConfig wants memory, the terminals of two serial ports and the
// log. (Sockets as ports are slow: Bochs sends single bytes and leaves Nagle's
// algorithm on.) What Bochs would ask about at its own terminal ends it instead.
const bochsConfig = `cpu: model=corei7_haswell_4770, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest=%d, host=%[1]d
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0-master: type=cdrom, path=/dev/fd/3, status=inserted
boot: cdrom
com1: enabled=1, mode=term, dev=%[2]s
com2: enabled=1, mode=term, dev=%[3]s
display_library: term
vga: extension=vbe, update_freq=1
clock: sync=none, time0=utc
log: "%[4]s"
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
`

// startBochs starts an Intel host. Bochs boots no kernel by itself: GRUB does
// so from a CD.
func startBochs(k *hostKernel, initramfs *os.File, o *Options, console *tail) (m *machine, err error) {
	dir, err := os.MkdirTemp("", "agentkernel-lab-")
	if err != nil {
		return nil, err
	}
	m = &machine{pace: uartBuffer, output: newTail(), closers: []io.Closer{folder(dir)}}
	defer func() {
		if err != nil {
			m.stop()
		}
	}()
	image, err := makeImage(dir, k, initramfs)
	if err != nil {
		return nil, fmt.Errorf("make the boot medium of the emulated host: %w", err)
	}
	defer image.Close()
	var ports [2]*terminal
	for i := range ports {
		if ports[i], err = newTerminal(m); err != nil {
			return nil, err
		}
	}
	serial, link := ports[0], ports[1]
	config := fmt.Sprintf(bochsConfig, o.MemoryMiB, serial.name, link.name, filepath.Join(dir, "log"))
	if err := m.runBochs(dir, config, image); err != nil {
		return nil, err
	}
	m.link = link
	m.collect(serial, console)
	return m, nil
}

// folder is a folder that is removed by Close.
type folder string

func (f folder) Close() error { return os.RemoveAll(string(f)) }

// makeImage makes a bootable CD with kernel and initramfs in dir. Like every
// large file of the lab it has no name, so that none stays behind.
func makeImage(dir string, k *hostKernel, initramfs *os.File) (*os.File, error) {
	tree, image := filepath.Join(dir, "cd"), filepath.Join(dir, "boot.iso")
	defer os.RemoveAll(tree)
	defer os.Remove(image)
	if err := fillImage(filepath.Join(tree, "boot"), k, initramfs); err != nil {
		return nil, err
	}
	_, err := output("", "grub-mkrescue", "--fonts=", "--themes=", "--locales=",
		"--install-modules=normal linux iso9660 biosdisk", "-d", "/usr/lib/grub/i386-pc",
		"-o", image, tree)
	if err != nil {
		return nil, err
	}
	return os.Open(image)
}

func fillImage(boot string, k *hostKernel, initramfs *os.File) error {
	if err := os.MkdirAll(filepath.Join(boot, "grub"), 0o755); err != nil {
		return err
	}
	if err := copyTo(filepath.Join(boot, "initramfs"), initramfs); err != nil {
		return err
	}
	kernel, err := os.Open(k.image)
	if err != nil {
		return err
	}
	defer kernel.Close()
	if err := copyTo(filepath.Join(boot, "vmlinuz"), kernel); err != nil {
		return err
	}
	config := fmt.Sprintf(grubConfig, kernelParameters+" tsc=reliable no_timer_check")
	return os.WriteFile(filepath.Join(boot, "grub", "grub.cfg"), []byte(config), 0o644)
}

func copyTo(path string, from *os.File) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// terminal is our end of a raw pseudo-terminal. Its other end is kept open, so
// that a read neither fails before the emulator has opened it nor ends with it.
type terminal struct {
	*os.File
	name string
}

func newTerminal(m *machine) (*terminal, error) {
	ours, theirs, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("make a terminal for the emulator: %w", err)
	}
	m.closers = append(m.closers, ours, theirs)
	if _, err := term.MakeRaw(int(theirs.Fd())); err != nil {
		return nil, fmt.Errorf("set a terminal raw: %w", err)
	}
	return &terminal{ours, theirs.Name()}, nil
}

// runBochs starts the process on a terminal of its own, which it insists on.
// The file rc holds the debugger's command to continue.
func (m *machine) runBochs(dir, config string, image *os.File) error {
	rc := filepath.Join(dir, "rc")
	if err := os.WriteFile(rc, []byte("c\n"), 0o644); err != nil {
		return err
	}
	bochsrc := filepath.Join(dir, "bochsrc")
	if err := os.WriteFile(bochsrc, []byte(config), 0o644); err != nil {
		return err
	}
	screen, end, err := pty.Open()
	if err != nil {
		return err
	}
	m.closers = append(m.closers, screen)
	defer end.Close()
	cmd := exec.Command("bochs", "-q", "-f", bochsrc, "-rc", rc)
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = end, end, end
	cmd.ExtraFiles = []*os.File{image} // descriptor 3
	if m.process, err = startProcess(cmd); err != nil {
		return err
	}
	m.collect(screen, m.output)
	return nil
}
