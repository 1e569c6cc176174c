// Package cgroup gives every exec a control group of its own (cgroup v2), so
// that it can be ended whole, whatever its processes did to their groups and
// sessions, and so that the out-of-memory killer's deeds are known.
//
// Making and removing a control group is dear for the kernel. A leaf that ended
// empty, and whose user could not have changed it, is kept for the next exec.
package cgroup

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxSpare bounds the leaves that are kept.
const maxSpare = 8

// Tree is a directory of leaves.
type Tree struct {
	path string

	mu    sync.Mutex
	next  uint64
	spare []*Leaf

	watchers sync.WaitGroup
}

// Leaf is the control group of one exec.
type Leaf struct {
	tree   *Tree
	path   string
	fd     int      // of the directory
	events *os.File // cgroup.events, in the poller
	oom    uint64   // kills counted at the start
}

// Open makes the directory path of a mounted cgroup v2 hierarchy into a tree.
func Open(path string) (*Tree, error) {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return &Tree{path: path}, nil
}

// Delegate enables the named controllers for the children of a group. A
// controller that the kernel lacks is left out.
func Delegate(path string, controllers ...string) error {
	have, err := readSmall(filepath.Join(path, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var enable []byte
	for _, c := range bytes.Fields(have) {
		for _, want := range controllers {
			if string(c) == want {
				enable = append(append(enable, " +"...), want...)
			}
		}
	}
	if len(enable) == 0 {
		return nil
	}
	return writeSmall(filepath.Join(path, "cgroup.subtree_control"), string(enable[1:]))
}

// Prepare makes a spare leaf, so that the next Leaf costs nothing.
func (t *Tree) Prepare() error {
	l, err := t.Leaf()
	if err == nil {
		t.keep(l)
	}
	return err
}

// Leaf returns an empty leaf.
func (t *Tree) Leaf() (*Leaf, error) {
	t.mu.Lock()
	if n := len(t.spare); n > 0 {
		l := t.spare[n-1]
		t.spare = t.spare[:n-1]
		t.mu.Unlock()
		return l, nil
	}
	t.mu.Unlock()
	for {
		path := filepath.Join(t.path, strconv.FormatUint(t.number(), 10))
		l, err := t.make(path)
		if !errors.Is(err, unix.EEXIST) { // root in the guest may have made one
			return l, err
		}
	}
}

func (t *Tree) number() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	return t.next
}

func (t *Tree) make(path string) (*Leaf, error) {
	if err := unix.Mkdir(path, 0o755); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	l, err := t.open(path)
	if err != nil {
		unix.Rmdir(path)
	}
	return l, err
}

// All returns the tree's own directory, with all leaves in it. It is never
// released.
func (t *Tree) All() (*Leaf, error) { return t.open(t.path) }

func (t *Tree) open(path string) (*Leaf, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	ev, err := unix.Openat(fd, "cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path + "/cgroup.events", Err: err}
	}
	return &Leaf{tree: t, path: path, fd: fd, events: os.NewFile(uintptr(ev), "cgroup.events")}, nil
}

func (t *Tree) keep(l *Leaf) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.spare) >= maxSpare {
		return false
	}
	t.spare = append(t.spare, l)
	return true
}

// Close removes the spare leaves and waits for the others to become empty.
func (t *Tree) Close() error {
	t.watchers.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.spare {
		l.remove()
	}
	t.spare = nil
	return unix.Rmdir(t.path)
}

// FD is the descriptor for CLONE_INTO_CGROUP.
func (l *Leaf) FD() int { return l.fd }

// Kill ends every process in the leaf and below (cgroup.kill, Linux 5.14).
func (l *Leaf) Kill() error {
	return writeAt(l.fd, "cgroup.kill", "1")
}

// OOMKilled tells whether the out-of-memory killer struck in the leaf since it
// was handed out.
func (l *Leaf) OOMKilled() bool { return l.oomKills() > l.oom }

func (l *Leaf) oomKills() uint64 {
	fd, err := unix.Openat(l.fd, "memory.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0 // a kernel without the memory controller
	}
	defer unix.Close(fd)
	var buf [512]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0
	}
	return field(buf[:n], "oom_kill")
}

// Populated tells whether a live process is in the leaf or below.
func (l *Leaf) Populated() bool {
	var buf [64]byte
	n, err := l.events.ReadAt(buf[:], 0)
	return n == 0 && err != nil || field(buf[:n], "populated") != 0
}

// WaitEmpty blocks until no live process is left, or until the deadline (zero:
// none) has passed. It reports whether the leaf is empty.
func (l *Leaf) WaitEmpty(deadline time.Time) bool {
	if !l.Populated() {
		return true
	}
	// The kernel wakes pollers of cgroup.events when its content changes.
	l.events.SetReadDeadline(deadline)
	rc, err := l.events.SyscallConn()
	if err != nil {
		return false
	}
	empty := false
	rc.Read(func(fd uintptr) bool {
		var buf [64]byte
		n, err := unix.Pread(int(fd), buf[:], 0)
		empty = err == nil && field(buf[:n], "populated") == 0
		return empty || err != nil
	})
	return empty
}

// Release gives the leaf back. If processes live on in it, it is removed when
// the last is gone. pristine says that no process in it could have changed it.
func (l *Leaf) Release(pristine bool) {
	if l.Populated() {
		l.tree.watchers.Add(1)
		go l.removeWhenEmpty()
		return
	}
	l.oom = l.oomKills()
	if !pristine || !l.tree.keep(l) {
		l.remove()
	}
}

// removeWhenEmpty ends when the leaf's last process does; Tree.Close waits for it.
func (l *Leaf) removeWhenEmpty() {
	defer l.tree.watchers.Done()
	l.WaitEmpty(time.Time{})
	l.remove()
}

// remove removes the leaf and the groups that its user made in it.
func (l *Leaf) remove() {
	l.events.Close()
	unix.Close(l.fd)
	if unix.Rmdir(l.path) != nil {
		removeBelow(l.path, maxDepth)
		unix.Rmdir(l.path)
	}
}

// maxDepth bounds the nesting of user-made groups that is cleaned up.
const maxDepth = 32

func removeBelow(path string, depth int) {
	entries, err := os.ReadDir(path)
	if err != nil || depth == 0 {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			sub := filepath.Join(path, e.Name())
			removeBelow(sub, depth-1)
			unix.Rmdir(sub)
		}
	}
}

// field returns the number after "name " in a flat-keyed file.
func field(data []byte, name string) uint64 {
	for line := range bytes.Lines(data) {
		key, value, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		if ok && string(key) == name {
			n, _ := strconv.ParseUint(string(value), 10, 64)
			return n
		}
	}
	return 0
}

func writeAt(dir int, name, value string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}

func writeSmall(path, value string) error { return writeAt(unix.AT_FDCWD, path, value) }

func readSmall(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var buf [512]byte
	n, err := unix.Read(fd, buf[:])
	return buf[:max(n, 0)], err
}
