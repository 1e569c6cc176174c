package main

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Constants that the package unix does not have.
const (
	dnCreate         = 4
	userModeOnly     = 1 // UFFD_USER_MODE_ONLY
	ipcPrivate       = 0
	ipcRemove        = 0
	prSetVMA         = 0x53564d41
	fanReportFID     = 0x200
	futexLockPI      = 6
	futexUnlockPI    = 7
	membarrierQuery  = 0
	membarrierExpPrv = 1 << 3
)

func probeFeatures() {
	facts("feature", map[string]func() error{
		"memfd":                          memfd(unix.MFD_ALLOW_SEALING),
		"eventfd":                        func() error { return closing(unix.Eventfd(0, unix.EFD_CLOEXEC)) },
		"signalfd":                       func() error { return closing(unix.Signalfd(-1, new(unix.Sigset_t), unix.SFD_CLOEXEC)) },
		"pidfd":                          func() error { return closing(unix.PidfdOpen(os.Getpid(), 0)) },
		"inotify":                        func() error { return closing(unix.InotifyInit1(unix.IN_CLOEXEC)) },
		"fanotify":                       func() error { return closing(unix.FanotifyInit(fanReportFID, unix.O_RDONLY)) },
		"dnotify":                        dnotify,
		"io_uring":                       ioUring,
		"userfaultfd":                    func() error { return closing(raw(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|userModeOnly)) },
		"POSIX message queue":            messageQueue,
		"SysV shared memory":             sysV(unix.SYS_SHMGET, unix.SYS_SHMCTL, 4096),
		"SysV semaphores":                sysV(unix.SYS_SEMGET, unix.SYS_SEMCTL, 1),
		"SysV messages":                  sysV(unix.SYS_MSGGET, unix.SYS_MSGCTL, 0),
		"Linux AIO":                      asyncIO,
		"seccomp filter with a listener": inChild("seccomp filter"),
		"seccomp strict mode":            inChild("seccomp strict"),
		"landlock":                       inChild("landlock restriction"),
		"core scheduling":                inChild("core scheduling"),
		"ptrace":                         inChild("ptrace"),
		"process_vm_readv":               processVM,
		"kcmp":                           func() error { _, err := raw(unix.SYS_KCMP, os.Getpid(), os.Getpid(), 0, 0, 0); return err },
		"membarrier":                     membarrier,
		"file handles":                   func() error { _, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/dev/null", 0); return err },
		"O_TMPFILE":                      func() error { return closing(unix.Open("/tmp", unix.O_TMPFILE|unix.O_RDWR, 0o600)) },
		"open file description locks":    ofdLock,
		"leases":                         lease,
		"mlock":                          mapped(0, unix.Mlock),
		"transparent huge pages":         advice(unix.MADV_HUGEPAGE),
		"same-page merging":              advice(unix.MADV_MERGEABLE),
		"MADV_FREE":                      advice(unix.MADV_FREE),
		"MADV_PAGEOUT":                   advice(unix.MADV_PAGEOUT),
		"MADV_WIPEONFORK":                advice(unix.MADV_WIPEONFORK),
		"MAP_32BIT":                      mapped(unix.MAP_32BIT, func([]byte) error { return nil }),
		"named anonymous memory":         nameMemory,
		"soft-dirty pages":               func() error { return os.WriteFile("/proc/self/clear_refs", []byte("4"), 0) },
		"modify_ldt":                     func() error { _, err := raw(unix.SYS_MODIFY_LDT, 0, make([]byte, 16), 16); return err },
		"priority-inheriting futex":      piFutex,
		"key ring":                       key,
		"persistent key ring": func() error {
			_, err := unix.KeyctlInt(unix.KEYCTL_GET_PERSISTENT, -1, unix.KEY_SPEC_PROCESS_KEYRING, 0, 0)
			return err
		},
		"SCHED_BATCH":     schedule(unix.SCHED_BATCH),
		"SCHED_IDLE":      schedule(unix.SCHED_IDLE),
		"memory policy":   func() error { _, err := raw(unix.SYS_SET_MEMPOLICY, 0, 0, 0); return err },
		"timer slack":     func() error { return unix.Prctl(unix.PR_SET_TIMERSLACK, 50000, 0, 0, 0) },
		"child subreaper": func() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) },
		"dumpable":        func() error { _, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); return err },
		"speculation control": func() error {
			_, err := unix.PrctlRetInt(unix.PR_GET_SPECULATION_CTRL, unix.PR_SPEC_STORE_BYPASS, 0, 0, 0)
			return err
		},
		"script with #!": script,
		"i386 program":   program(exit386),
	})
}

func memfd(flags int) func() error {
	return func() error {
		fd, err := unix.MemfdCreate("probe", flags|unix.MFD_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
		return err
	}
}

func dnotify() error {
	fd, err := unix.Open("/tmp", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_NOTIFY, dnCreate)
	return err
}

func ioUring() error { return closing(raw(unix.SYS_IO_URING_SETUP, 4, make([]byte, 120))) } // struct io_uring_params

func messageQueue() error {
	const name = "agentkernel-probe"
	fd, err := raw(unix.SYS_MQ_OPEN, name, unix.O_CREAT|unix.O_RDWR, 0o600, 0)
	if err != nil {
		return err
	}
	unix.Close(fd)
	_, err = raw(unix.SYS_MQ_UNLINK, name)
	return err
}

// sysV makes a private object and removes it. The command's place among the
// arguments differs for semaphores.
func sysV(get, control uintptr, size int) func() error {
	return func() error {
		args := []any{ipcPrivate, size, unix.IPC_CREAT | 0o600}
		if get == unix.SYS_MSGGET {
			args = []any{ipcPrivate, unix.IPC_CREAT | 0o600}
		}
		id, err := raw(get, args...)
		if err != nil {
			return err
		}
		args = []any{id, ipcRemove, 0}
		if control == unix.SYS_SEMCTL {
			args = []any{id, 0, ipcRemove, 0}
		}
		_, err = raw(control, args...)
		return err
	}
}

func asyncIO() error {
	id := make([]byte, 8)
	if _, err := raw(unix.SYS_IO_SETUP, 1, id); err != nil {
		return err
	}
	_, err := raw(unix.SYS_IO_DESTROY, int(binary.NativeEndian.Uint64(id)))
	return err
}

func processVM() error {
	m, err := newMemory(4096)
	if err != nil {
		return err
	}
	defer m.free()
	copy(m.bytes, "x")
	got := make([]byte, 1)
	local := []unix.Iovec{{Base: &got[0], Len: 1}}
	_, err = unix.ProcessVMReadv(os.Getpid(), local, []unix.RemoteIovec{{Base: m.address(), Len: 1}}, 0)
	return err
}

func membarrier() error {
	commands, err := raw(unix.SYS_MEMBARRIER, membarrierQuery, 0, 0)
	if err == nil && commands&membarrierExpPrv == 0 {
		return errors.New("no private expedited command")
	}
	return err
}

// temporary makes a file that is gone with its descriptor.
func temporary() (int, error) {
	return unix.Open("/tmp", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
}

func ofdLock() error {
	fd, err := temporary()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}

func lease() error {
	fd, err := temporary()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
	return err
}

// mapped asks about fresh memory.
func mapped(flags int, ask func([]byte) error) func() error {
	return func() error {
		b, err := unix.Mmap(-1, 0, 4<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|flags)
		if err != nil {
			return err
		}
		defer unix.Munmap(b)
		return ask(b[:4096])
	}
}

func advice(a int) func() error {
	return mapped(0, func(b []byte) error { return unix.Madvise(b, a) })
}

func nameMemory() error {
	m, err := newMemory(4096)
	if err != nil {
		return err
	}
	defer m.free()
	_, err = raw(unix.SYS_PRCTL, prSetVMA, 0, m, 4096, "probe")
	return err
}

// piFutex locks and unlocks a free one.
func piFutex() error {
	m, err := newMemory(4096)
	if err != nil {
		return err
	}
	defer m.free()
	_, err = raw(unix.SYS_FUTEX, m, futexLockPI, 0, 0, 0, 0)
	if err == nil {
		_, err = raw(unix.SYS_FUTEX, m, futexUnlockPI, 0, 0, 0, 0)
	}
	if err == unix.EPERM || err == unix.ESRCH { // another thread than the one that locked
		return nil
	}
	return err
}

func key() error {
	_, err := unix.AddKey("user", "agentkernel-probe", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
	return err
}

func schedule(policy int) func() error {
	return func() error { _, err := raw(unix.SYS_SCHED_SETSCHEDULER, 0, policy, make([]byte, 4)); return err }
}

// exit386 is an ELF file for the i386 that exits with 0.
var exit386 = string(func() []byte {
	le := binary.LittleEndian
	const base, header = 0x08048000, 52 + 32
	code := []byte{0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80} // mov $1,%eax; xor %ebx,%ebx; int $0x80
	file := make([]byte, header, header+len(code))
	copy(file, "\x7fELF\x01\x01\x01")
	for off, v := range map[int]uint16{16: 2, 18: 3, 40: 52, 42: 32, 44: 1} {
		le.PutUint16(file[off:], v)
	}
	for off, v := range map[int]uint32{
		20: 1, 24: base + header, 28: 52, // version, entry, program headers
		52: 1, 60: base, 64: base, 68: header + uint32(len(code)), 72: header + uint32(len(code)), 76: 5, 80: 4096,
	} {
		le.PutUint32(file[off:], v)
	}
	return append(file, code...)
}())

// program runs a file of this text.
func program(text string) func() error {
	return func() error {
		dir, err := os.MkdirTemp("", "probe-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "program")
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			return err
		}
		return exec.Command(path).Run()
	}
}

func script() error { return program("#!/bin/sh\nexit 0\n")() }
