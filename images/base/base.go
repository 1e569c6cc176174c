// Package base describes the file system that every sandbox starts with: the
// guest's first process, busybox with a link for each of its applets, the users
// root and developer, and the directories and files of /etc that programs expect.
package base

import (
	"fmt"
	"path"
	"strings"

	"github.com/agentkernel/agentkernel/images/initramfs"
)

// The user that commands run as unless asked otherwise. Its home directory and
// /workspace are its own.
const (
	User   = "developer"
	UserID = 1000
)

// Parts are the programs that the file system is made of.
type Parts struct {
	Init    []byte   // the guest's first process, a static ELF file
	Busybox []byte   // a static busybox
	Applets []string // as `busybox --list-full` prints them: "usr/bin/env"
}

// Entries returns the file system. It fails if an applet's path is not one of
// busybox's directories.
func Entries(p Parts) ([]initramfs.Entry, error) {
	list := directories()
	list = append(list, files()...)
	list = append(list, devices()...)
	list = append(list,
		program("init", p.Init),
		program("usr/bin/busybox", p.Busybox),
		// One tree of programs, so that #!/bin/env and /usr/bin/sh work too.
		link("bin", "usr/bin"),
		link("sbin", "usr/sbin"),
		link("lib", "usr/lib"),
		link("lib64", "usr/lib"),
		link("var/run", "../run"),
		link("var/lock", "../run/lock"),
		link("etc/mtab", "../proc/self/mounts"))
	applets, err := appletLinks(p.Applets)
	return append(list, applets...), err
}

// appletLinks makes one link for each applet name: where /bin and /usr/bin are
// one, busybox's "bin/x" and "usr/bin/x" would be the same file.
func appletLinks(applets []string) ([]initramfs.Entry, error) {
	seen := map[string]bool{"busybox": true}
	var list []initramfs.Entry
	for _, applet := range applets {
		dir, name := path.Split(applet)
		switch strings.TrimPrefix(dir, "usr/") {
		case "bin/":
			dir = "usr/bin/"
		case "sbin/":
			dir = "usr/sbin/"
		case "":
			continue // linuxrc, the first process of old initial RAM disks
		default:
			return nil, fmt.Errorf("busybox has an applet in an unexpected place: %q", applet)
		}
		if name == "" || seen[name] {
			continue
		}
		seen[name] = true
		target := "busybox"
		if dir == "usr/sbin/" {
			target = "../bin/busybox"
		}
		list = append(list, link(dir+name, target))
	}
	return list, nil
}

func directories() []initramfs.Entry {
	var list []initramfs.Entry
	for _, name := range strings.Fields(`. dev etc home media mnt opt proc run
		srv sys usr usr/bin usr/lib usr/local usr/local/bin usr/local/sbin
		usr/sbin usr/share var var/cache var/lib var/log var/spool`) {
		list = append(list, directory(name, 0o755, 0))
	}
	return append(list,
		directory("root", 0o700, 0),
		directory("tmp", 0o1777, 0),
		directory("var/tmp", 0o1777, 0),
		directory("home/"+User, 0o755, UserID),
		directory("workspace", 0o755, UserID))
}

// devices are those that the kernel opens for the first process, or that it
// needs before it has mounted devtmpfs over them.
func devices() []initramfs.Entry {
	return []initramfs.Entry{
		{Name: "dev/console", Type: initramfs.CharDevice, Perm: 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Type: initramfs.CharDevice, Perm: 0o666, Major: 1, Minor: 3},
	}
}

func directory(name string, perm, owner uint32) initramfs.Entry {
	return initramfs.Entry{Name: name, Type: initramfs.Directory, Perm: perm, UID: owner, GID: owner}
}

func link(name, target string) initramfs.Entry {
	return initramfs.Entry{Name: name, Type: initramfs.Symlink, Perm: 0o777, Data: []byte(target)}
}

func program(name string, data []byte) initramfs.Entry {
	return initramfs.Entry{Name: name, Type: initramfs.Regular, Perm: 0o755, Data: data}
}

func file(name string, perm uint32, text string) initramfs.Entry {
	return initramfs.Entry{Name: name, Type: initramfs.Regular, Perm: perm, Data: []byte(text)}
}
