// Package setup makes a bare guest kernel into a system that programs expect:
// mounts, devices, names, limits. It runs once, in PID 1, and its two halves
// stand on both sides of the guest's "ready": Mount before it, Finish after it
// but before the first command.
package setup

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Control groups. The users' one can be frozen whole; PID 1 stays in the root
// group, alone.
const (
	CgroupRoot = "/sys/fs/cgroup"
	UserGroup  = CgroupRoot + "/user"
)

// Controllers are those that execs are accounted by, where the kernel has them.
// Each costs at every new group; root in the guest may enable the others.
var Controllers = []string{"cpu", "memory", "pids"}

// mount is one file system to mount. Its directory is made if it is missing.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	optional               bool // the kernel may lack it
}

const (
	nosuid = unix.MS_NOSUID
	nodev  = unix.MS_NODEV
	noexec = unix.MS_NOEXEC
)

var mounts = []mount{
	{"proc", "/proc", "proc", nosuid | nodev | noexec, "", false},
	{"devtmpfs", "/dev", "devtmpfs", nosuid, "mode=755", false},
	{"devpts", "/dev/pts", "devpts", nosuid | noexec, "gid=5,mode=620,ptmxmode=666", false},
	{"tmpfs", "/dev/shm", "tmpfs", nosuid | nodev, "mode=1777", false},
	{"mqueue", "/dev/mqueue", "mqueue", nosuid | nodev | noexec, "", true},
	{"sysfs", "/sys", "sysfs", nosuid | nodev | noexec, "", false},
	{"cgroup2", CgroupRoot, "cgroup2", nosuid | nodev | noexec, "", false},
	{"tmpfs", "/run", "tmpfs", nosuid | nodev, "mode=755", false},
}

// Mount makes the root of the initramfs one that pivot_root(2) takes and mounts
// everything else.
func Mount() error {
	if err := ownRoot(); err != nil {
		return err
	}
	for i := range mounts {
		if err := mounts[i].do(); err != nil {
			return err
		}
	}
	return links()
}

func (m *mount) do() error {
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if err == unix.ENOENT {
		if err = unix.Mkdir(m.target, 0o755); err == nil {
			err = unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
		}
	}
	if err == nil || m.optional && (err == unix.ENODEV || err == unix.EEXIST) {
		return nil
	}
	return &os.PathError{Op: "mount " + m.fstype, Path: m.target, Err: err}
}

// ownRoot puts a bind mount of the root over the root. The kernel's own root
// mount has no parent, and pivot_root(2) refuses such a root to every program in
// the guest that makes a container. The steps are those of switch_root(8), with
// an old root that is the new one; /proc serves as the place to bind on.
func ownRoot() error {
	const place = "/proc"
	if err := unix.Mkdir(place, 0o555); err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: place, Err: err}
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"bind /", func() error { return unix.Mount("/", place, "", unix.MS_BIND, "") }},
		{"chdir", func() error { return unix.Chdir(place) }},
		{"move root", func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") }},
		{"chroot", func() error { return unix.Chroot(".") }},
		{"chdir", func() error { return unix.Chdir("/") }},
	} {
		if err := step.do(); err != nil {
			return os.NewSyscallError(step.name, err)
		}
	}
	return nil
}

// links makes the names under /dev that programs expect and that devtmpfs has
// not.
func links() error {
	for _, l := range [...][2]string{
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
	} {
		if err := unix.Symlink(l[0], l[1]); err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "symlink", Path: l[1], Err: err}
		}
	}
	return nil
}

// Log takes a line about something that went wrong and is not worth the guest.
type Log func(text string)

// Finish does what no program may miss but the host need not wait for. What
// fails in it is logged: a guest without it is still worth having.
func Finish(log Log) {
	note := func(err error) {
		if err != nil {
			log(err.Error())
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	note(err)
	note(setHostname(parameter(string(cmdline), "agentkernel.hostname")))
	note(loopbackUp())
	for _, s := range sysctls {
		note(s.set())
	}
	// Devices that udev opens to everybody elsewhere.
	for _, dev := range []string{"/dev/fuse", "/dev/net/tun"} {
		if err := unix.Chmod(dev, 0o666); err != nil && err != unix.ENOENT {
			note(&os.PathError{Op: "chmod", Path: dev, Err: err})
		}
	}
	note(raiseLimits())
	note(yieldToUsers())
}

// parameter returns the value of the last key=value word of a kernel command
// line.
func parameter(cmdline, key string) string {
	value := ""
	for word := range strings.FieldsSeq(cmdline) {
		if v, ok := strings.CutPrefix(word, key+"="); ok {
			value = v
		}
	}
	return value
}

// setHostname names the guest, to itself and in /etc/hostname and /etc/hosts.
func setHostname(name string) error {
	if name == "" {
		return nil
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return os.NewSyscallError("sethostname", err)
	}
	if err := os.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644); err != nil {
		return err
	}
	return appendHost("/etc/hosts", name)
}

// appendHost gives the name a loopback address, unless the file has one for it.
func appendHost(path, name string) error {
	hosts, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for line := range strings.Lines(string(hosts)) {
		line, _, _ = strings.Cut(line, "#")
		if words := strings.Fields(line); len(words) > 1 && contains(words[1:], name) {
			return nil
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("127.0.1.1\t" + name + "\n")
	return err
}

func contains(words []string, want string) bool {
	for _, w := range words {
		if w == want {
			return true
		}
	}
	return false
}

// loopbackUp sets lo up; its addresses are the kernel's doing.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket for lo", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return os.NewSyscallError("set lo up", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}

// sysctl is a kernel parameter, below /proc/sys.
type sysctl struct {
	name, value string
	optional    bool // the kernel may lack it
}

var sysctls = []sysctl{
	{"net/ipv4/ping_group_range", "0 2147483647", true}, // ping without privileges
	{"net/ipv4/ip_unprivileged_port_start", "0", true},  // the guest is the user's alone
	{"kernel/unprivileged_userns_clone", "1", true},     // Debian's kernels only
	{"fs/protected_symlinks", "1", true},                // as systemd sets them
	{"fs/protected_hardlinks", "1", true},               //
	{"fs/protected_regular", "1", true},                 //
	{"fs/protected_fifos", "1", true},                   //
}

func (s sysctl) set() error {
	path := "/proc/sys/" + s.name
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT && s.optional {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err = unix.Write(fd, []byte(s.value)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
