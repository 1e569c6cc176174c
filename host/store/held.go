package store

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// LockFD is the descriptor number on which a VMM has its sandbox's lock.
const LockFD = 7

// backlog is how many dials may wait on a socket while the guest boots.
const backlog = 4096

// Held is a sandbox whose lock this process holds.
type Held struct {
	*Sandbox
	lock *lockFile
}

// Release gives this process's copy of the lock back. A VMM that inherited the
// lock keeps it. More than one call does nothing.
func (h *Held) Release() {
	if h.lock != nil {
		h.lock.close()
		h.lock = nil
	}
}

// LockFD is the descriptor that carries the lock; it belongs to h.
func (h *Held) LockFD() int { return h.lock.fd }

// VMMFiles are the descriptors that a VMM is born with and that come from the
// store. All are close-on-exec; Close closes them (not the lock, which is
// Held's).
type VMMFiles struct {
	Log, Console, Exit *os.File
	Vsock, Control     int // listening
}

// Close closes the descriptors.
func (f *VMMFiles) Close() {
	for _, file := range []*os.File{f.Log, f.Console, f.Exit} {
		if file != nil {
			file.Close()
		}
	}
	for _, fd := range []int{f.Vsock, f.Control} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Prepare makes the files of a new VMM: new logs, new sockets in place of stale
// ones, an empty exit file. The exit file is replaced last: if anything fails,
// the sandbox's status is what it was.
func (h *Held) Prepare() (*VMMFiles, error) {
	f := &VMMFiles{Vsock: -1, Control: -1}
	if err := h.prepare(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (h *Held) prepare(f *VMMFiles) (err error) {
	if f.Log, err = h.dir.create(vmmLogName, unix.O_TRUNC|unix.O_APPEND); err != nil {
		return err
	}
	if f.Console, err = h.dir.create(consoleName, unix.O_TRUNC); err != nil {
		return err
	}
	if f.Vsock, err = h.listen(VsockSocket); err != nil {
		return err
	}
	if f.Control, err = h.listen(ControlSocket); err != nil {
		return err
	}
	if f.Exit, err = h.newExit(); err != nil {
		return err
	}
	h.lock.setNote(lockNote{vmm: true, term: h.lock.note().term})
	return nil
}

// newExit puts an empty exit file in place of the last one, with disk space of
// its own, so that the VMM can record its end on a full disk.
func (h *Held) newExit() (*os.File, error) {
	f, err := h.dir.create(exitNext, unix.O_TRUNC)
	if err != nil {
		return nil, err
	}
	if err := h.dir.before("fallocate", exitNext); err != nil {
		f.Close()
		return nil, h.dir.wrap("fallocate", exitNext, err)
	}
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, maxExit)
	if err != nil && err != unix.EOPNOTSUPP && err != unix.ENOSYS {
		f.Close()
		return nil, h.dir.wrap("fallocate", exitNext, err)
	}
	if err := h.dir.replace(exitNext, exitName); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// listen binds a socket of mode 0600 in the sandbox's directory. It goes by way
// of the directory's descriptor: no path is too long, no link is followed.
func (h *Held) listen(name string) (int, error) {
	if err := h.dir.unlink(name); err != nil {
		return -1, err
	}
	if err := h.dir.before("bind", name); err != nil {
		return -1, h.dir.wrap("bind", name, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, h.dir.wrap("socket", name, err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: h.Socket(name)})
	if err == nil {
		err = unix.Fchmodat(h.dir.fd, name, fileMode, 0)
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return -1, h.dir.wrap("bind", name, err)
	}
	return fd, nil
}

// NotePid leaves the VMM's process id behind, for people and for Kill. Nothing
// else depends on it.
func (h *Held) NotePid(pid int) error {
	f, err := h.dir.create(pidName, unix.O_TRUNC)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(strconv.Itoa(pid) + "\n")
	return err
}

// RecordExit writes the exit file for a VMM that is gone (or never came), unless
// it recorded its end itself.
func RecordExit(f *os.File, e Exit) error {
	old := make([]byte, maxExit)
	n, err := f.ReadAt(old, 0)
	if err != nil && err != io.EOF {
		return err
	}
	if _, recorded := parseExit(old[:n]); recorded {
		return nil
	}
	_, err = f.WriteAt([]byte(e.Kind+"\t"+e.Reason+"\n"), 0)
	return err
}

// Remove removes the sandbox. It is gone for everybody when the rename is done;
// what remains after that if the deletion fails is swept later.
func (h *Held) Remove(ctx context.Context) error {
	return h.remove(ctx, !h.dir.has(ephemeralName))
}

// Discard removes an ephemeral sandbox whose VMM has recorded its end but may
// not be gone yet. That VMM keeps what it has open, and opens nothing.
func (b *Sandbox) Discard(ctx context.Context) error { return b.remove(ctx, false) }

// remove renames and deletes the directory. All who remove it do so under its
// mutex, so the name they move away is still this directory's.
func (b *Sandbox) remove(ctx context.Context, durable bool) error {
	m, err := b.dir.openLock(mutexName)
	if err != nil {
		return b.lockError(err)
	}
	defer m.close()
	if err := m.take(ctx, unix.LOCK_EX); err != nil {
		return err
	}
	if !b.current() {
		return fmt.Errorf("%w: %q", ErrNotFound, b.Name)
	}
	return b.moveAway(durable)
}

// ForceRemove removes a sandbox that is so broken that its lock can't be taken:
// a lock file is missing, or its place is taken by something else.
func (s *Store) ForceRemove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return (&Sandbox{Name: name, store: s}).moveAway(true)
}

func (b *Sandbox) moveAway(durable bool) error {
	tmp := temporaryName(delPrefix)
	if err := b.store.boxes.move(b.Name, tmp); err != nil {
		return err
	}
	if durable {
		if err := b.store.boxes.sync(); err != nil {
			return err
		}
	}
	return b.store.boxes.removeTree(tmp, 0)
}
