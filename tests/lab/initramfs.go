package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"

	"github.com/agentkernel/agentkernel/images/initramfs"
	"github.com/agentkernel/agentkernel/tests/lab/proto"
)

// Where the binary under test and the caller's folder lie in the host.
const (
	binaryPath = "usr/bin/agentkernel"
	addPath    = "mnt"
)

const (
	etcPasswd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
user:x:1000:1000:user:/home/user:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
`
	// The user is no member of the group kvm: put it there to use /dev/kvm.
	etcGroup = `root:x:0:
daemon:x:1:
tty:x:5:
kvm:x:104:
user:x:1000:
nogroup:x:65534:
`
	etcHosts = "127.0.0.1 localhost lab\n::1 localhost\n"
)

// writeInitramfs writes what L1 boots from: the lab's init, the modules, the
// job, the binary under test and, but for an appliance, a base system.
func writeInitramfs(w io.Writer, k *hostKernel, m machineKind, o *Options) error {
	f := newFiles()
	f.dir(".", 0o755)
	for _, dir := range []string{"dev", "proc", "sys", "run"} {
		f.dir(dir, 0o755)
	}
	f.dir("root", 0o700)
	if err := addPrograms(f, o); err != nil {
		return err
	}
	if err := addFolder(f, o.Add); err != nil {
		return fmt.Errorf("add %s: %w", o.Add, err)
	}
	modules, err := k.add(f, m.modules, m.params)
	if err != nil {
		return err
	}
	job, err := json.Marshal(o.job(m, modules))
	if err != nil {
		return err
	}
	f.data(strings.TrimPrefix(proto.JobPath, "/"), 0o644, job)
	return initramfs.Write(w, f.entries)
}

// addPrograms adds the lab's init and the binary under test, and beside them
// nothing to an appliance.
func addPrograms(f *files, o *Options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := f.file(strings.TrimPrefix(proto.InitPath, "/"), self, 0o755); err != nil {
		return err
	}
	if o.Binary != "" {
		if err := f.file(binaryPath, o.Binary, 0o755); err != nil {
			return err
		}
	}
	if o.Appliance {
		return nil
	}
	return addBase(f)
}

func addFolder(f *files, dir string) error {
	if dir == "" {
		f.dir(addPath, 0o755)
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("not a folder")
	}
	return f.tree(addPath, dir)
}

// addBase adds busybox and the files of a small host with two users.
func addBase(f *files) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w: install busybox-static", err)
	}
	applets, err := output("", busybox, "--list-full")
	if err != nil {
		return err
	}
	if err := f.file("bin/busybox", busybox, 0o755); err != nil {
		return err
	}
	for _, name := range strings.Fields(string(applets)) {
		if path.Base(name) != "busybox" {
			f.symlink(name, "/bin/busybox")
		}
	}
	f.dir("tmp", 0o1777)
	f.dir("var/tmp", 0o1777)
	f.dir("home/user", 0o755)
	f.data("etc/passwd", 0o644, []byte(etcPasswd))
	f.data("etc/group", 0o644, []byte(etcGroup))
	f.data("etc/hosts", 0o644, []byte(etcHosts))
	f.data("etc/hostname", 0o644, []byte("lab\n"))
	f.symlink("etc/mtab", "/proc/self/mounts")
	return nil
}

func (o *Options) job(m machineKind, modules []proto.Module) *proto.Job {
	job := &proto.Job{
		Link:      m.link,
		Modules:   modules,
		TTY:       o.TTY,
		Rows:      o.Rows,
		Cols:      o.Cols,
		Appliance: o.Appliance,
	}
	for _, arg := range o.Args {
		job.Args = append(job.Args, []byte(arg))
	}
	for _, kv := range o.Env {
		job.Env = append(job.Env, []byte(kv))
	}
	return job
}

// initramfsFile returns the initramfs as an open file without a name, so that
// nothing is left behind however the lab ends.
func initramfsFile(k *hostKernel, m machineKind, o *Options) (*os.File, error) {
	f, err := os.CreateTemp("", "agentkernel-lab-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	if err := writeInitramfs(f, k, m, o); err != nil {
		f.Close()
		return nil, fmt.Errorf("make the initramfs of the emulated host: %w", err)
	}
	return f, nil
}
