package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// trees are the folders of the kernel's interfaces that programs look into,
// with how deep their names are told.
var trees = []struct {
	root  string
	depth int
}{
	{"/proc", 1}, {"/proc/self", 1}, {"/proc/self/net", 1}, {"/proc/self/ns", 1}, {"/proc/self/attr", 1},
	{"/proc/pressure", 1}, {"/proc/sysvipc", 1}, {"/proc/tty", 1},
	{"/proc/sys/fs", 3}, {"/proc/sys/kernel", 3}, {"/proc/sys/user", 1}, {"/proc/sys/vm", 1},
	{"/proc/sys/net/core", 1}, {"/proc/sys/net/unix", 1},
	{"/proc/sys/net/ipv4", 1}, {"/proc/sys/net/ipv4/conf/lo", 1},
	{"/proc/sys/net/ipv6", 1}, {"/proc/sys/net/ipv6/conf/lo", 1},
	{"/sys", 1}, {"/sys/fs", 1}, {"/sys/fs/cgroup", 1}, {"/sys/kernel", 1}, {"/sys/kernel/mm", 2},
	{"/sys/class/net/lo", 1}, {"/sys/devices/system", 1}, {"/sys/devices/system/cpu", 1},
	{"/sys/devices/system/cpu/cpu0", 1}, {"/sys/devices/system/node", 1},
}

// numbered are names that differ from one run to the next: processes.
var numbered = regexp.MustCompile(`^[0-9]+$`)

// controlFile is what in a cgroup's folder is not another cgroup.
var controlFile = regexp.MustCompile(`^(cgroup|cpu|cpuset|memory|io|pids|hugetlb|rdma|misc|irq)\.`)

func probeFiles() {
	for _, t := range trees {
		walk(t.root, "", t.depth)
	}
	for _, name := range fileSystems() {
		fact("file system", name, "yes")
	}
	for _, name := range words("/sys/fs/cgroup/cgroup.controllers") {
		fact("controller", name, "yes")
	}
	for _, name := range words("/proc/sys/net/ipv4/tcp_available_congestion_control") {
		fact("congestion control", name, "yes")
	}
	for _, path := range []string{
		"/dev/fd", "/dev/full", "/dev/fuse", "/dev/mqueue", "/dev/net/tun", "/dev/null", "/dev/ptmx", "/dev/pts", "/dev/random",
		"/dev/shm", "/dev/stderr", "/dev/stdin", "/dev/stdout", "/dev/tty", "/dev/urandom", "/dev/zero", "/proc/config.gz",
	} {
		_, err := os.Stat(path)
		fact("path", path, answer(err))
	}
	for _, path := range []string{"/dev/fuse", "/dev/net/tun", "/dev/full", "/dev/zero", "/dev/ptmx"} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		fact("opens", path, answer(err))
	}
}

// walk tells the names below root/dir.
func walk(root, dir string, depth int) {
	entries, err := os.ReadDir(filepath.Join(root, dir))
	if err != nil {
		fact("file", filepath.Join(root, dir), answer(err))
		return
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case numbered.MatchString(e.Name()):
		case root == "/sys/fs/cgroup" && !controlFile.MatchString(name):
		case e.Type()&fs.ModeDir != 0 && depth > 1:
			walk(root, name, depth-1)
		default:
			fact("file", filepath.Join(root, name), "yes")
		}
	}
}

// fileSystems are those of /proc/filesystems.
func fileSystems() []string {
	data, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return nil
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		names = append(names, fields[len(fields)-1])
	}
	sort.Strings(names)
	return names
}

func words(path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	list := strings.Fields(string(data))
	sort.Strings(list)
	return list
}
