// Package store keeps what is known of sandboxes on disk, so that any process
// may be killed at any moment, any write may fail, and any number of commands
// may run at once, and nothing is lost or half made.
//
//	HOME/                      0700 (AGENTKERNEL_HOME, by default ~/.agentkernel)
//	  lock                     short store-wide lock: making and sweeping temporary names
//	  sandboxes/
//	    NAME/
//	      config.json          written once, before the name exists
//	      lock                 locked (flock) as long as the VMM lives: the proof of life
//	      mutex                short lock around trying or taking lock
//	      exit                 absent: never started; empty: running, or killed;
//	                           one line: how the VMM ended
//	      vsock.sock           to the guest ("CONNECT port" first)
//	      control.sock         to the VMM
//	      console.log vmm.log  of the last start
//	      vmm.pid              a hint, believed only if that process holds our lock
//	      ephemeral            present: belongs to one `run`, which holds its lock (flock);
//	                           swept when neither that nor the VMM lives
//	    .new-XXXX/ .del-XXXX/  half made, half deleted: swept when nobody holds their lock
//
// A sandbox comes into being by the rename of a complete .new- directory that
// never replaces another, and goes by a rename to .del-. Status is derived from
// lock and exit alone: no clock, no pid, no file that claims "running".
package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	sandboxesDir = "sandboxes"
	storeLock    = "lock"
	newPrefix    = ".new-"
	delPrefix    = ".del-"
)

// Store is an open state directory. It is safe for use by several goroutines.
type Store struct {
	home  *dir
	boxes *dir
}

// Open opens the state directory home, an absolute path, and makes it if it is
// not there (its parent must be). It must belong to the caller, and nobody else
// may be able to write to it.
func Open(home string) (*Store, error) { return open(home, nil) }

// open is Open with a hook that is called before every change to the disk: an
// error from it makes that change fail.
func open(home string, step func(op, name string) error) (*Store, error) {
	if !filepath.IsAbs(home) {
		return nil, fmt.Errorf("%w: %q is not an absolute path", ErrHome, home)
	}
	h, err := openHome(filepath.Clean(home), step)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHome, err)
	}
	boxes, err := openOrMake(h, sandboxesDir)
	if err != nil {
		h.close()
		return nil, fmt.Errorf("%w: %w", ErrHome, err)
	}
	return &Store{home: h, boxes: boxes}, nil
}

// Close closes the store. Sandboxes opened from it stay usable.
func (s *Store) Close() {
	s.boxes.close()
	s.home.close()
}

func openHome(path string, step func(op, name string) error) (*dir, error) {
	fd, err := openDirAt(unix.AT_FDCWD, path)
	if errors.Is(err, unix.ENOENT) {
		fd, err = makeHome(path)
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%s is not a directory (a symbolic link is not followed: name its target)", path)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	d := &dir{fd: fd, path: path, step: step}
	if err := d.private(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func makeHome(path string) (int, error) {
	if err := unix.Mkdir(path, dirMode); err == nil {
		if err := unix.Chmod(path, dirMode); err != nil {
			return -1, err
		}
	} else if err != unix.EEXIST { // another command was quicker
		return -1, err
	}
	return openDirAt(unix.AT_FDCWD, path)
}

// private reports whether the directory is the caller's own.
func (d *dir) private() error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return d.wrap("stat", ".", err)
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, and this is user %d", d.path, st.Uid, os.Geteuid())
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("others may write to %s (mend: chmod go-w %s)", d.path, d.path)
	}
	return nil
}

func openOrMake(parent *dir, name string) (*dir, error) {
	d, err := parent.openDir(name)
	if errors.Is(err, unix.ENOENT) {
		if err := parent.mkdir(name); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
		if err := parent.sync(); err != nil {
			return nil, err
		}
		d, err = parent.openDir(name)
	}
	if err != nil {
		return nil, err
	}
	if err := d.private(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// Names lists the sandboxes' names, sorted. Entries whose name no sandbox can
// have are not listed, and never touched.
func (s *Store) Names() ([]string, error) {
	all, err := s.boxes.names()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHome, err)
	}
	names := slices.DeleteFunc(all, func(n string) bool { return CheckName(n) != nil })
	slices.Sort(names)
	return names, nil
}

// lock takes the store-wide lock.
func (s *Store) lock(ctx context.Context) (*lockFile, error) {
	l, err := s.home.openLock(storeLock)
	if errors.Is(err, unix.ENOENT) {
		f, cerr := s.home.create(storeLock, 0)
		if cerr != nil {
			return nil, cerr
		}
		f.Close()
		l, err = s.home.openLock(storeLock)
	}
	if err != nil {
		return nil, err
	}
	if err := l.take(ctx, unix.LOCK_EX); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}
