package store

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// Sweep deletes what killed commands left: directories of temporary names whose
// lock nobody holds, and ephemeral sandboxes whose VMM is gone. It may itself be
// killed at any point. What can't be deleted stays for the next sweep.
func (s *Store) Sweep(ctx context.Context) error {
	names, err := s.boxes.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		switch {
		case temporary(name):
			err = errors.Join(err, s.sweepTemporary(ctx, name))
		case CheckName(name) == nil:
			err = errors.Join(err, s.sweepEphemeral(ctx, name))
		}
	}
	return err
}

// sweepTemporary deletes one temporary directory. Under the store's lock a
// directory without a lock file is a dead one: its maker would be holding the
// store's lock.
func (s *Store) sweepTemporary(ctx context.Context, name string) error {
	sl, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer sl.close()
	d, err := s.boxes.openDir(name)
	if err != nil {
		return s.boxes.removeTree(name, 0)
	}
	defer d.close()
	l, err := d.openLock(lockName)
	if err == nil {
		defer l.close()
		if l.try(unix.LOCK_EX) == unix.EWOULDBLOCK {
			return nil
		}
	}
	return s.boxes.removeTree(name, 0)
}

// sweepEphemeral deletes a sandbox whose creator and whose VMM are gone.
func (s *Store) sweepEphemeral(ctx context.Context, name string) error {
	var st unix.Stat_t
	if unix.Fstatat(s.boxes.fd, name+"/"+ephemeralName, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return nil
	}
	b, err := s.Open(name)
	if err != nil {
		return nil
	}
	defer b.Close()
	owner, err := b.dir.openLock(ephemeralName)
	if err != nil {
		return nil
	}
	defer owner.close()
	if owner.try(unix.LOCK_EX) != nil {
		return nil
	}
	h, err := b.Acquire(ctx)
	if err != nil {
		return nil // it runs, or it is broken: not ours to delete
	}
	defer h.Release()
	return b.Discard(ctx)
}
