package setup

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParameter(t *testing.T) {
	for _, tt := range []struct{ cmdline, want string }{
		{"quiet agentkernel.hostname=sb reboot=k\n", "sb"},
		{"agentkernel.hostname=a agentkernel.hostname=b", "b"},
		{"xagentkernel.hostname=a", ""},
		{"agentkernel.hostname", ""},
		{"agentkernel.hostname=", ""},
		{"", ""},
	} {
		if got := parameter(tt.cmdline, "agentkernel.hostname"); got != tt.want {
			t.Errorf("%q: %q", tt.cmdline, got)
		}
	}
}

func TestAppendHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	const first = "127.0.0.1\tlocalhost # sb here is no name\n"
	if err := os.WriteFile(path, []byte(first), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there
		if err := appendHost(path, "sb"); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := os.ReadFile(path); string(got) != first+"127.0.1.1\tsb\n" {
		t.Errorf("%q", got)
	}
}

// A child starts with the limits that programs expect, whatever this process has.
func TestFork(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if raiseLimits() != nil {
		t.Skip("needs the right to raise limits")
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)
	soft := func() (lim syscall.Rlimit) {
		syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim)
		return lim
	}
	defer setPolicy(0, unix.SCHED_NORMAL)
	Fork(10, func() {
		if attr, err := unix.SchedGetAttr(0, 0); err != nil || attr.Policy != unix.SCHED_NORMAL {
			t.Errorf("in the fork: %+v %v", attr, err)
		}
		if got := soft(); got.Cur != softFiles || got.Max != hardFiles {
			t.Errorf("in the fork: %+v", got)
		}
	})
	Fork(softFiles, func() {
		if got := soft(); got.Cur != hardFiles {
			t.Errorf("with many files open: %+v", got)
		}
	})
	if got := soft(); got.Cur != hardFiles {
		t.Errorf("after the fork: %+v", got)
	}
}
