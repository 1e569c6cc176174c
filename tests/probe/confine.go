package main

import (
	"encoding/binary"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

func noNewPrivileges() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }

// seccompFilter installs one that allows everything, and lets go of it at exit.
func seccompFilter() error {
	runtime.LockOSThread()
	if err := noNewPrivileges(); err != nil {
		return err
	}
	allow := make([]byte, 8) // struct sock_filter
	binary.NativeEndian.PutUint16(allow, unix.BPF_RET|unix.BPF_K)
	binary.NativeEndian.PutUint32(allow[4:], unix.SECCOMP_RET_ALLOW)
	m, err := newMemory(4096)
	if err != nil {
		return err
	}
	copy(m.bytes[16:], allow)
	binary.NativeEndian.PutUint16(m.bytes, 1) // struct sock_fprog
	binary.NativeEndian.PutUint64(m.bytes[8:], uint64(m.address()+16))
	_, err = raw(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, m)
	return err
}

// seccompStrict asks whether the mode is known; entering it would end us.
func seccompStrict() error {
	_, err := raw(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_STRICT, 1, 0)
	if err == unix.EINVAL { // of the flag, which strict mode refuses
		return nil
	}
	return err
}

// landlockRestrict makes an empty rule set and enters it.
func landlockRestrict() error {
	runtime.LockOSThread()
	attr := make([]byte, 8)
	binary.NativeEndian.PutUint64(attr, 1<<13-1) // the rights of the first version
	fd, err := raw(unix.SYS_LANDLOCK_CREATE_RULESET, attr, len(attr), 0)
	if err != nil {
		return err
	}
	if err := noNewPrivileges(); err != nil {
		return err
	}
	_, err = raw(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0)
	return err
}

func coreScheduling() error {
	_, err := raw(unix.SYS_PRCTL, unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_CREATE, 0, 0, 0)
	return err
}

// probeClocks tells each clock's resolution, and whether a timer on it can be
// made.
func probeClocks() {
	for _, c := range []struct {
		name string
		id   int32
	}{
		{"realtime", unix.CLOCK_REALTIME}, {"monotonic", unix.CLOCK_MONOTONIC}, {"boottime", unix.CLOCK_BOOTTIME},
		{"tai", unix.CLOCK_TAI}, {"monotonic_raw", unix.CLOCK_MONOTONIC_RAW}, {"process_cputime", unix.CLOCK_PROCESS_CPUTIME_ID},
		{"thread_cputime", unix.CLOCK_THREAD_CPUTIME_ID}, {"realtime_coarse", unix.CLOCK_REALTIME_COARSE},
		{"monotonic_coarse", unix.CLOCK_MONOTONIC_COARSE},
	} {
		var resolution unix.Timespec
		err := unix.ClockGetres(c.id, &resolution)
		fact("clock", c.name, answer(err))
		if err == nil {
			fact("clock", c.name+" of "+time.Duration(resolution.Nano()).String(), "yes")
		}
	}
	for _, id := range []struct {
		name string
		id   int
	}{{"realtime", unix.CLOCK_REALTIME}, {"monotonic", unix.CLOCK_MONOTONIC}, {"boottime", unix.CLOCK_BOOTTIME}} {
		fact("timerfd", id.name, answer(closing(unix.TimerfdCreate(id.id, unix.TFD_CLOEXEC))))
	}
}
