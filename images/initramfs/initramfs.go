// Package initramfs writes the archive that a Linux kernel unpacks into its
// first root file system: cpio in the "newc" format, see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
//
// The archive is a pure function of its entries: they are sorted by name, every
// time is 0, and inode numbers count from 1, so that the same entries make the
// same bytes whatever their order.
package initramfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
)

// Type is what an entry is, as the file-type bits of st_mode.
type Type uint32

// The types of entries; the values are those of inode(7).
const (
	CharDevice Type = 0o020000
	Directory  Type = 0o040000
	Regular    Type = 0o100000
	Symlink    Type = 0o120000
)

// Entry is one file of the archive.
type Entry struct {
	Name         string // path from the root, without leading slash: "usr/bin/env"; "." is the root itself
	Type         Type
	Perm         uint32 // permission bits with set-uid, set-gid and sticky: 0o7777
	UID, GID     uint32
	Data         []byte // of a Regular; the target of a Symlink
	Major, Minor uint32 // of a CharDevice
}

// ErrInvalid is matched by the errors about an entry that no archive can hold.
var ErrInvalid = errors.New("invalid initramfs entry")

const (
	magic   = "070701"
	trailer = "TRAILER!!!"
	// maxName is PATH_MAX with the terminating NUL: the kernel skips an entry
	// whose name is longer.
	maxName = 4096
)

// Write writes the archive of entries to w. It returns an error that matches
// ErrInvalid, and has then written nothing, if two entries share a name, if an
// entry's directory is no entry itself, or if an entry can't be represented.
func Write(w io.Writer, entries []Entry) error {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	if err := check(sorted); err != nil {
		return err
	}
	out := &writer{w: bufio.NewWriterSize(w, 1<<16)}
	for i := range sorted {
		out.entry(uint32(i+1), &sorted[i])
	}
	out.entry(0, &Entry{Name: trailer})
	if err := out.flush(); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

// check validates sorted entries. A directory sorts before what lies in it, its
// name being a prefix.
func check(sorted []Entry) error {
	if len(sorted) > math.MaxUint32-1 {
		return fmt.Errorf("%w: too many entries", ErrInvalid)
	}
	dirs := map[string]bool{"": true}
	for i := range sorted {
		e := &sorted[i]
		if problem := e.problem(); problem != "" {
			return fmt.Errorf("%w: %q %s", ErrInvalid, e.Name, problem)
		}
		if i > 0 && sorted[i-1].Name == e.Name {
			return fmt.Errorf("%w: %q is there twice", ErrInvalid, e.Name)
		}
		if dir := parent(e.Name); !dirs[dir] {
			return fmt.Errorf("%w: %q lies in %q, which is no directory of the archive", ErrInvalid, e.Name, dir)
		}
		if e.Type == Directory {
			dirs[e.Name] = true
		}
	}
	return nil
}

// problem says what the format or the kernel would not take, "" if nothing.
func (e *Entry) problem() string {
	device := e.Major != 0 || e.Minor != 0
	switch {
	case !fs.ValidPath(e.Name):
		return "is no clean relative path"
	case e.Name == "." && e.Type != Directory:
		return "is the root but no directory"
	case strings.ContainsRune(e.Name, 0):
		return "has a NUL in its name"
	case e.Name == trailer:
		return "is the name that ends an archive"
	case len(e.Name) >= maxName:
		return "has too long a name"
	case e.Perm&^uint32(0o7777) != 0:
		return "has more than permission bits in Perm"
	case uint64(len(e.Data)) > math.MaxUint32:
		return "is larger than 4 GiB"
	}
	switch e.Type {
	case Regular:
		if device {
			return "is a file with a device number"
		}
	case Symlink:
		if device || len(e.Data) == 0 || len(e.Data) >= maxName {
			return "is no symbolic link with a target of 1 to 4095 bytes"
		}
	case Directory:
		if device || len(e.Data) != 0 {
			return "is a directory with data"
		}
	case CharDevice:
		if len(e.Data) != 0 {
			return "is a device with data"
		}
	default:
		return "has an unknown type"
	}
	return ""
}

func parent(name string) string {
	return name[:max(strings.LastIndexByte(name, '/'), 0)]
}

// writer keeps the first error; after it nothing is written.
type writer struct {
	w   *bufio.Writer
	off uint64
	err error
}

// entry writes header, name and data, each padded to four bytes. The zero times
// and device numbers of the file system are what makes the archive reproducible.
func (w *writer) entry(ino uint32, e *Entry) {
	links := 1
	if e.Type == Directory {
		links = 2
	}
	w.write(fmt.Appendf(nil, "%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		magic, ino, uint32(e.Type)|e.Perm, e.UID, e.GID, links, 0 /* mtime */, len(e.Data),
		0, 0 /* device of the file system */, e.Major, e.Minor, len(e.Name)+1, 0 /* checksum */, e.Name))
	w.pad()
	w.write(e.Data)
	w.pad()
}

func (w *writer) flush() error {
	if w.err != nil {
		return w.err
	}
	return w.w.Flush()
}

func (w *writer) pad() {
	var zeros [3]byte
	w.write(zeros[:-w.off&3])
}

func (w *writer) write(p []byte) {
	if w.err != nil {
		return
	}
	var n int
	n, w.err = w.w.Write(p)
	w.off += uint64(n)
}
