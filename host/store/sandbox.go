package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The files of a sandbox.
const (
	configName    = "config.json"
	lockName      = "lock"
	mutexName     = "mutex"
	exitName      = "exit"
	exitNext      = "exit.next"
	pidName       = "vmm.pid"
	ephemeralName = "ephemeral"
	consoleName   = "console.log"
	vmmLogName    = "vmm.log"
	VsockSocket   = "vsock.sock"
	ControlSocket = "control.sock"
)

// Sandbox is one sandbox's open directory. What it does is done to that
// directory, even if the name has meanwhile gone to another.
type Sandbox struct {
	Name  string
	store *Store
	dir   *dir
	owner *lockFile // its creator's, of an ephemeral sandbox: the creator lives
}

// Open opens the sandbox name.
func (s *Store) Open(name string) (*Sandbox, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	d, err := s.boxes.openDir(name)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return &Sandbox{Name: name, store: s, dir: d}, nil
}

// Close closes the directory. An ephemeral sandbox's creator gives it up so.
func (b *Sandbox) Close() {
	b.dir.close()
	if b.owner != nil {
		b.owner.close()
	}
}

// Path is where the sandbox's files are, for people.
func (b *Sandbox) Path() string { return b.dir.path }

// Socket returns a path to one of the sandbox's sockets that is short enough
// for a socket address (108 bytes, unix(7)) however long the state directory's
// path is. It is valid until Close.
func (b *Sandbox) Socket(name string) string {
	return "/proc/self/fd/" + strconv.Itoa(b.dir.fd) + "/" + name
}

// Config reads the sandbox's configuration.
func (b *Sandbox) Config() (Config, error) {
	data, err := b.dir.read(configName, maxConfig)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	c, err := decodeConfig(data)
	if err == nil && c.Name != b.Name {
		err = fmt.Errorf("it names the sandbox %q", c.Name)
	}
	if err != nil {
		return Config{}, fmt.Errorf("%w: %s/%s: %w", ErrBroken, b.dir.path, configName, err)
	}
	c.Ephemeral = b.dir.has(ephemeralName)
	return c, nil
}

// Exit reads how the sandbox's last VMM ended. started is false if it was never
// started; recorded is false while the VMM runs, and if it was killed.
func (b *Sandbox) Exit() (e Exit, started, recorded bool, err error) {
	data, err := b.dir.read(exitName, maxExit)
	if errors.Is(err, unix.ENOENT) {
		return Exit{}, false, false, nil
	}
	if err != nil {
		return Exit{}, false, false, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	e, recorded = parseExit(data)
	return e, true, recorded, nil
}

// Pid returns the VMM's process id, for people; 0 if it isn't known.
func (b *Sandbox) Pid() int {
	data, err := b.dir.read(pidName, 32)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}

// Kill kills the VMM (SIGKILL), if the process that vmm.pid names has this
// sandbox's lock file open as the descriptor that a VMM has it on. It reports
// whether it did.
func (b *Sandbox) Kill() bool {
	pid := b.Pid()
	if pid == 0 {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	// The pidfd is taken first: if the check passes, the process it names had
	// the lock after that, so it is the VMM.
	var proc, lock unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, LockFD), &proc) != nil ||
		unix.Fstatat(b.dir.fd, lockName, &lock, unix.AT_SYMLINK_NOFOLLOW) != nil ||
		proc.Dev != lock.Dev || proc.Ino != lock.Ino {
		return false
	}
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}

// Holder is who holds a sandbox's lock.
type Holder struct {
	VMM     bool // its VMM lives
	Command bool // a command starts or removes it at this moment
	term    uint64
}

// Holder tells who holds the lock.
func (b *Sandbox) Holder(ctx context.Context) (Holder, error) {
	m, l, err := b.locks(ctx)
	if err != nil {
		return Holder{}, err
	}
	defer m.close()
	defer l.close()
	err = l.try(unix.LOCK_SH)
	if err != unix.EWOULDBLOCK {
		return Holder{}, err
	}
	n := l.note()
	return Holder{VMM: n.vmm, Command: !n.vmm, term: n.term}, nil
}

// Wait waits until that holder holds the lock no more. It keeps the mutex
// meanwhile, so it is for a VMM that is known to be ending.
func (b *Sandbox) Wait(ctx context.Context, h Holder) error {
	m, l, err := b.locks(ctx)
	if err != nil {
		return err
	}
	defer m.close()
	defer l.close()
	err = l.try(unix.LOCK_SH)
	if err != unix.EWOULDBLOCK || l.note() != (lockNote{vmm: true, term: h.term}) {
		return nil // free, or another's: who takes it notes that under the mutex
	}
	return l.take(ctx, unix.LOCK_SH)
}

// locks takes the mutex and opens the lock file.
func (b *Sandbox) locks(ctx context.Context) (m, l *lockFile, err error) {
	if m, err = b.dir.openLock(mutexName); err != nil {
		return nil, nil, b.lockError(err)
	}
	if err = m.take(ctx, unix.LOCK_EX); err != nil {
		m.close()
		return nil, nil, err
	}
	if l, err = b.dir.openLock(lockName); err != nil {
		m.close()
		return nil, nil, b.lockError(err)
	}
	return m, l, nil
}

// lockError explains a lock file that isn't there: the sandbox was removed
// meanwhile, or it is broken.
func (b *Sandbox) lockError(err error) error {
	if !b.current() {
		return fmt.Errorf("%w: %q", ErrNotFound, b.Name)
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

// current reports whether the name is still this directory's.
func (b *Sandbox) current() bool { return b.store.boxes.is(b.Name, b.dir) }

// Acquire takes the sandbox's lock, which makes the caller its only master:
// nobody else can start or remove it. It doesn't wait: where a VMM holds the
// lock, the error is ErrRunning, and where another command does, ErrBusy.
func (b *Sandbox) Acquire(ctx context.Context) (*Held, error) {
	m, l, err := b.locks(ctx)
	if err != nil {
		return nil, err
	}
	defer m.close()
	err = l.try(unix.LOCK_EX)
	switch {
	case err == unix.EWOULDBLOCK && l.note().vmm:
		err = fmt.Errorf("%w: %q", ErrRunning, b.Name)
	case err == unix.EWOULDBLOCK:
		err = fmt.Errorf("%w: %q", ErrBusy, b.Name)
	case err == nil && !b.current():
		err = fmt.Errorf("%w: %q", ErrNotFound, b.Name)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	l.setNote(lockNote{term: rand.Uint64()})
	return &Held{Sandbox: b, lock: l}, nil
}

// Console opens the guest's log for reading.
func (b *Sandbox) Console() (*os.File, error) { return b.dir.open(consoleName, unix.O_RDONLY) }

// VMMLog opens the VMM's own log for reading.
func (b *Sandbox) VMMLog() (*os.File, error) { return b.dir.open(vmmLogName, unix.O_RDONLY) }
