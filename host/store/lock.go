package store

import (
	"context"
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
	got, handled := make(chan error, 1), make(chan struct{})
	go func() {
		_, err := retry(func() (int, error) { return 0, unix.Flock(fd, how) })
		got <- err
		<-handled
		unix.Close(fd)
	}()
	defer close(handled)
	select {
	case err = <-got:
		if err != nil {
			return err
		}
		// The lock lives on fd's description: give it to l's number.
		return unix.Dup3(fd, l.fd, unix.O_CLOEXEC)
	case <-ctx.Done():
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
