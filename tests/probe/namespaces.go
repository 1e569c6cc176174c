package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var namespaces = []struct {
	name string
	flag uintptr
}{
	{"cgroup", unix.CLONE_NEWCGROUP}, {"ipc", unix.CLONE_NEWIPC}, {"mnt", unix.CLONE_NEWNS},
	{"net", unix.CLONE_NEWNET}, {"pid", unix.CLONE_NEWPID}, {"time", unix.CLONE_NEWTIME}, {"uts", unix.CLONE_NEWUTS},
}

// probeNamespaces starts children in a user namespace and one more. Time is
// entered by unshare only: its bit is clone's exit signal.
func probeNamespaces() {
	fact("namespace", "user", answer(inNamespaces(unix.CLONE_NEWUSER, "nothing")))
	all := uintptr(unix.CLONE_NEWUSER)
	for _, n := range namespaces {
		if n.flag == unix.CLONE_NEWTIME {
			fact("namespace", "user+time", answer(inNamespaces(unix.CLONE_NEWUSER, "time namespace")))
			continue
		}
		all |= n.flag
		fact("namespace", "user+"+n.name, answer(inNamespaces(unix.CLONE_NEWUSER|n.flag, "nothing")))
	}
	fact("namespace", "user and all", answer(inNamespaces(all, "nothing")))
	inside := uintptr(unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWPID)
	fact("namespace", "user within user", answer(inNamespaces(unix.CLONE_NEWUSER, "nested user namespace")))
	for _, question := range []string{
		"mount tmpfs", "mount overlay", "mount proc", "mount mqueue", "mount devpts", "bind mount", "pivot_root",
		"raw socket", "packet socket", "xdp socket",
		"tun", "dummy interface", "veth interface", "bridge interface",
	} {
		fact("in own namespaces", question, answer(inNamespaces(inside, question)))
	}
}

// inNamespaces asks a question as root of a new user namespace.
func inNamespaces(flags uintptr, question string) error {
	cmd := self(question)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  flags,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	return exitAnswer(cmd.Run())
}

// childQuestions are what a child can be asked.
var childQuestions = map[string]func() error{
	"nothing":               func() error { return nil },
	"time namespace":        func() error { return unix.Unshare(unix.CLONE_NEWTIME) },
	"mount tmpfs":           func() error { return mountAt("tmpfs", "") },
	"mount proc":            func() error { return mountAt("proc", "") },
	"mount mqueue":          func() error { return mountAt("mqueue", "") },
	"mount devpts":          func() error { return mountAt("devpts", "newinstance") },
	"mount overlay":         mountOverlay,
	"bind mount":            func() error { return unix.Mount("/dev", "/tmp", "", unix.MS_BIND|unix.MS_REC, "") },
	"pivot_root":            pivot,
	"raw socket":            func() error { return closing(unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)) },
	"packet socket":         func() error { return closing(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)) },
	"xdp socket":            func() error { return closing(unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0)) },
	"tun":                   tun,
	"dummy interface":       func() error { return addInterface("dummy") },
	"veth interface":        func() error { return addInterface("veth") },
	"bridge interface":      func() error { return addInterface("bridge") },
	"nested user namespace": func() error { return inNamespaces(unix.CLONE_NEWUSER|unix.CLONE_NEWNET, "nothing") },
	"seccomp filter":        seccompFilter,
	"seccomp strict":        seccompStrict,
	"landlock restriction":  landlockRestrict,
	"core scheduling":       coreScheduling,
	"ptrace":                func() error { _, err := raw(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0, 0); return err },
}

func mountAt(kind, options string) error { return unix.Mount(kind, "/tmp", kind, 0, options) }

// mountOverlay lays two folders over each other on a tmpfs of this namespace.
func mountOverlay() error {
	if err := mountAt("tmpfs", ""); err != nil {
		return err
	}
	for _, dir := range []string{"/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/merged"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("overlay", "/tmp/merged", "overlay", 0, "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work")
}

// pivot makes a tmpfs the root.
func pivot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mountAt("tmpfs", ""); err != nil {
		return err
	}
	return unix.PivotRoot("/tmp", "/tmp")
}

func tun() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("probe0")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
}
