package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// dir is an open directory. Everything in the store is reached by one
// component at a time from such a descriptor and with O_NOFOLLOW, so that no
// symbolic link planted in a path is ever followed.
type dir struct {
	fd   int
	path string // for messages, and for what is shown to the user
	step func(op, name string) error
}

// openDirAt opens the directory name in d (or, where d is nil, the path name).
func openDirAt(at int, name string) (int, error) {
	return retry(func() (int, error) {
		return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
}

// retry repeats a call that a signal interrupted. (Go installs its handlers
// with SA_RESTART, but some file systems answer EINTR all the same.)
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// before announces a change that is about to be made; a test uses it to fail
// or to die at that very operation.
func (d *dir) before(op, name string) error {
	if d.step == nil {
		return nil
	}
	return d.step(op, name)
}

func (d *dir) wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: d.path + "/" + name, Err: err}
}

func (d *dir) close() { unix.Close(d.fd) }

// openDir opens the subdirectory name.
func (d *dir) openDir(name string) (*dir, error) {
	fd, err := openDirAt(d.fd, name)
	if err != nil {
		return nil, d.wrap("open", name, err)
	}
	return &dir{fd: fd, path: d.path + "/" + name, step: d.step}, nil
}

// mkdir makes the subdirectory name with mode 0700 whatever the umask.
func (d *dir) mkdir(name string) error {
	if err := d.before("mkdir", name); err != nil {
		return d.wrap("mkdir", name, err)
	}
	if err := unix.Mkdirat(d.fd, name, dirMode); err != nil {
		return d.wrap("mkdir", name, err)
	}
	return d.wrap("chmod", name, unix.Fchmodat(d.fd, name, dirMode, 0))
}

// create opens the file name for reading and writing, making it with mode 0600
// whatever the umask. flags are added: O_TRUNC, O_EXCL, O_APPEND.
func (d *dir) create(name string, flags int) (*os.File, error) {
	if err := d.before("create", name); err != nil {
		return nil, d.wrap("create", name, err)
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, fileMode)
	})
	if err != nil {
		return nil, d.wrap("create", name, err)
	}
	if err := unix.Fchmod(fd, fileMode); err != nil {
		unix.Close(fd)
		return nil, d.wrap("chmod", name, err)
	}
	return os.NewFile(uintptr(fd), d.path+"/"+name), nil
}

// open opens the existing regular file name. A fifo or a device planted there
// is refused, and does not block.
func (d *dir) open(name string, flags int) (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(d.fd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	})
	if err != nil {
		return nil, d.wrap("open", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		if err == nil {
			err = errors.New("not a regular file")
		}
		return nil, d.wrap("open", name, err)
	}
	// O_NONBLOCK was against a fifo only; a file that blocks is what Go expects.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&unix.O_APPEND); err != nil {
		unix.Close(fd)
		return nil, d.wrap("open", name, err)
	}
	return os.NewFile(uintptr(fd), d.path+"/"+name), nil
}

// read returns the content of the file name, of which there may be at most
// limit bytes.
func (d *dir) read(name string, limit int64) ([]byte, error) {
	f, err := d.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, d.wrap("read", name, fmt.Errorf("longer than %d bytes", limit))
	}
	return data, nil
}

// write makes the file name with the given content; sync makes it durable.
func (d *dir) write(name string, data []byte, sync bool) error {
	f, err := d.create(name, unix.O_EXCL)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := d.before("write", name); err != nil {
		return d.wrap("write", name, err)
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	if err := d.before("fsync", name); err != nil {
		return d.wrap("fsync", name, err)
	}
	return d.wrap("fsync", name, unix.Fsync(int(f.Fd())))
}

// sync makes the directory's entries durable. Some file systems refuse fsync
// on a directory with EINVAL: they have nothing to do.
func (d *dir) sync() error {
	if err := d.before("fsync", "."); err != nil {
		return d.wrap("fsync", ".", err)
	}
	if err := unix.Fsync(d.fd); err != nil && err != unix.EINVAL {
		return d.wrap("fsync", ".", err)
	}
	return nil
}

// move renames a directory; it never replaces one. Where the file system has
// no RENAME_NOREPLACE, plain rename is as good: it fails on a directory that is
// not empty, and ours never are.
func (d *dir) move(from, to string) error {
	if err := d.before("rename", to); err != nil {
		return d.wrap("rename", to, err)
	}
	err := unix.Renameat2(d.fd, from, d.fd, to, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		if err = unix.Renameat(d.fd, from, d.fd, to); err == unix.ENOTEMPTY || err == unix.ENOTDIR {
			err = unix.EEXIST
		}
	}
	return d.wrap("rename", to, err)
}

// replace renames the file from over the file to.
func (d *dir) replace(from, to string) error {
	if err := d.before("rename", to); err != nil {
		return d.wrap("rename", to, err)
	}
	return d.wrap("rename", to, unix.Renameat(d.fd, from, d.fd, to))
}

// unlink removes the file name; that it is not there is no error.
func (d *dir) unlink(name string) error {
	if err := d.before("unlink", name); err != nil {
		return d.wrap("unlink", name, err)
	}
	err := unix.Unlinkat(d.fd, name, 0)
	if err == unix.ENOENT {
		return nil
	}
	return d.wrap("unlink", name, err)
}

// has reports whether there is an entry of that name.
func (d *dir) has(name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// is reports whether the entry name is the directory that child has open.
func (d *dir) is(name string, child *dir) bool {
	var a, b unix.Stat_t
	if unix.Fstatat(d.fd, name, &a, unix.AT_SYMLINK_NOFOLLOW) != nil || unix.Fstat(child.fd, &b) != nil {
		return false
	}
	return a.Dev == b.Dev && a.Ino == b.Ino
}

// names lists the directory.
func (d *dir) names() ([]string, error) {
	fd, err := openDirAt(d.fd, ".") // an offset of its own
	if err != nil {
		return nil, d.wrap("open", ".", err)
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	return names, nil
}

// removeTree removes the entry name and what is beneath it. Each level is
// opened without following links; depth bounds a hostile tree.
func (d *dir) removeTree(name string, depth int) error {
	if depth > 64 {
		return d.wrap("remove", name, errors.New("nested too deeply"))
	}
	if err := d.before("remove", name); err != nil {
		return d.wrap("remove", name, err)
	}
	err := unix.Unlinkat(d.fd, name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM { // Linux says EISDIR, POSIX EPERM
		return d.wrap("remove", name, err)
	}
	if err := d.empty(name, depth); err != nil {
		return err
	}
	if err := unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return d.wrap("remove", name, err)
	}
	return nil
}

func (d *dir) empty(name string, depth int) error {
	sub, err := d.openDir(name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sub.close()
	names, err := sub.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := sub.removeTree(n, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// temporary says whether a name is one of the store's own temporary names.
func temporary(name string) bool {
	return strings.HasPrefix(name, newPrefix) || strings.HasPrefix(name, delPrefix)
}
