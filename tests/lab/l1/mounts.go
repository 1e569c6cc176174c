package l1

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/tests/lab/proto"
)

const kvmGroup = 104 // in /etc/group of the initramfs

type mount struct {
	kind, at, options string
	flags             uintptr
	// optional: the kernel may lack it, or the appliance goes without
	optional bool
}

// mountSystem mounts what a program expects of any Linux host.
func mountSystem() error {
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []mount{
		{kind: "proc", at: "/proc", flags: plain},
		{kind: "sysfs", at: "/sys", flags: plain},
		{kind: "devtmpfs", at: "/dev", options: "mode=755", flags: unix.MS_NOSUID},
		{kind: "devpts", at: "/dev/pts", options: "mode=620,gid=5,ptmxmode=666", flags: unix.MS_NOSUID | unix.MS_NOEXEC},
		{kind: "tmpfs", at: "/dev/shm", options: "mode=1777", flags: unix.MS_NOSUID | unix.MS_NODEV},
		{kind: "tmpfs", at: "/run", options: "mode=755", flags: unix.MS_NOSUID | unix.MS_NODEV},
		{kind: "cgroup2", at: "/sys/fs/cgroup", flags: plain},
		{kind: "debugfs", at: "/sys/kernel/debug", flags: plain, optional: true},
	} {
		err := mountAt(m)
		if err != nil && !m.optional {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

func mountAt(m mount) error {
	if err := os.Mkdir(m.at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return unix.Mount(m.kind, m.at, m.kind, m.flags, m.options)
}

// setUp does what needs the modules or the job.
func setUp(job *proto.Job) error {
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := raiseLoopback(); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	// As udev does it on Debian.
	if err := os.Chown("/dev/kvm", 0, kvmGroup); err != nil {
		return fmt.Errorf("no /dev/kvm: %w", err)
	}
	if err := os.Chmod("/dev/kvm", 0o660); err != nil {
		return err
	}
	// Debian's limits for a service: many programs raise the soft one themselves.
	limit := unix.Rlimit{Cur: 1024, Max: 524288}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("set the limit of open files: %w", err)
	}
	if err := coverRoot(); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if job.Appliance {
		return freezeRoot()
	}
	return nil
}

// coverRoot mounts the initramfs over itself, because pivot_root refuses the
// kernel's own rootfs, which no real host runs on.
func coverRoot() error {
	if err := os.Mkdir("/lab/root", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", "/lab/root", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := os.Chdir("/lab/root"); err != nil {
		return err
	}
	if err := unix.Mount("/lab/root", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// freezeRoot leaves /run as the one place that can be written.
func freezeRoot() error {
	for _, at := range []string{"/dev", "/dev/shm", "/sys"} {
		const flags = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID
		if err := unix.Mount("", at, "", flags, ""); err != nil {
			return fmt.Errorf("make %s read-only: %w", at, err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}

// raiseLoopback brings lo up; the kernel gives it its addresses.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}
