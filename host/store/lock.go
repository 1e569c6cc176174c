package store

import (
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Every sandbox has two lock files, both locked with flock(2), whose locks
// belong to an open file description: they pass to whoever inherits the
// descriptor and vanish with its last copy, however that process ends.
//
//	lock   held for the whole life of a VMM. It is the only proof that it lives.
//	mutex  held for moments, by whoever takes or tries lock. Without it a
//	       process that only wants to know whether lock is held, and for that
//	       takes it for an instant, would make another's start fail.
//
// lock's content tells what its holder is about (see lockNote). It means
// something only while lock is held.
//
// Order: mutex before lock; never the locks of two sandboxes at once (except
// one with a temporary name, which nobody else opens).

// lockFile is an open lock file.
type lockFile struct {
	fd   int
	path string
}

func (d *dir) openLock(name string) (*lockFile, error) {
	f, err := d.open(name, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	f.Close()
	if err != nil {
		return nil, d.wrap("open", name, err)
	}
	return &lockFile{fd: fd, path: d.path + "/" + name}, nil
}

// lockNote is the content of a lock file.
type lockNote struct {
	vmm  bool   // a VMM holds the lock, or is about to; else a command does
	term uint64 // a number of its own for each time the lock was taken
}

const noteSize = 9

// setNote says what the lock is held for. It overwrites bytes in place, so it
// needs no disk space; should it fail all the same, others are told wrongly who
// holds the lock, and nothing worse.
func (l *lockFile) setNote(n lockNote) { _, _ = unix.Pwrite(l.fd, n.bytes(), 0) }

func (n lockNote) bytes() []byte {
	b := binary.LittleEndian.AppendUint64([]byte{'w'}, n.term)
	if n.vmm {
		b[0] = 'v'
	}
	return b
}

func (l *lockFile) note() lockNote {
	var b [noteSize]byte
	if n, err := unix.Pread(l.fd, b[:], 0); n < len(b) || err != nil {
		return lockNote{}
	}
	return lockNote{vmm: b[0] == 'v', term: binary.LittleEndian.Uint64(b[1:])}
}

// close closes the file, and so gives the lock back unless a child inherited it.
func (l *lockFile) close() { unix.Close(l.fd) }

// try takes the lock without waiting, or answers EWOULDBLOCK.
func (l *lockFile) try(how int) error { return tryLock(l.fd, how) }

// take takes the lock, waiting for it until ctx ends.
//
// A blocked flock(2) can't be called off, so a wait that ctx ended goes on in
// the background on a descriptor of its own, which shares nothing with l, and
// ends (and lets go) as soon as the holder lets go.
func (l *lockFile) take(ctx context.Context, how int) error {
	err := l.try(how)
	if err != unix.EWOULDBLOCK {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w (%s)", ErrBusy, l.path)
	}
	fd, err := reopen(l.fd)
	if err != nil {
		return err
	}
	got, abandoned := make(chan error), make(chan struct{})
	go func() {
		_, err := retry(func() (int, error) { return 0, unix.Flock(fd, how) })
		select {
		case got <- err:
		case <-abandoned:
			unix.Close(fd)
		}
	}()
	select {
	case err = <-got:
		if err == nil { // the lock lives on fd's description: give it to l's number
			err = unix.Dup3(fd, l.fd, unix.O_CLOEXEC)
		}
		unix.Close(fd)
		return err
	case <-ctx.Done():
		close(abandoned)
		return fmt.Errorf("%w (%s): %w", ErrBusy, l.path, ctx.Err())
	}
}

func tryLock(fd int, how int) error {
	_, err := retry(func() (int, error) { return 0, unix.Flock(fd, how|unix.LOCK_NB) })
	return err
}

// reopen opens the same file anew: a new open file description, so that a lock
// on it is a lock of its own.
func reopen(fd int) (int, error) {
	return retry(func() (int, error) {
		return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR|unix.O_CLOEXEC, 0)
	})
}
