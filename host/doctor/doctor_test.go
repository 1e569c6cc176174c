package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/kvm"
)

// goodHost is a physical Intel machine on which nothing is to be mended.
func goodHost() map[string]string {
	return map[string]string{
		"proc/cpuinfo":                            "processor\t: 0\nflags\t\t: fpu vmx tsc_deadline_timer\n\nprocessor\t: 1\nflags\t\t: fpu\n",
		"proc/meminfo":                            "MemTotal: 9 kB\nMemAvailable:    4194304 kB\n",
		"proc/mounts":                             "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,favordynmods 0 0\n",
		"sys/module/kvm_intel/parameters/ept":     "Y\n",
		"sys/module/kvm/parameters/nx_huge_pages": "N\n",
		"sys/module/kvm/parameters/halt_poll_ns":  "200000\n",
		"sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
		"sys/kernel/mm/transparent_hugepage/enabled":                      "always [madvise] never\n",
	}
}

// examine examines a host that differs from the good one in some files; an
// empty content stands for a file that isn't there.
func examine(t *testing.T, probe error, files map[string]string) map[string]Check {
	t.Helper()
	root := t.TempDir()
	all := goodHost()
	for name, content := range files {
		all[name] = content
	}
	for name, content := range all {
		path := filepath.Join(root, name)
		if content == "" {
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	s := &System{Root: root, Probe: func() error { return probe }}
	checks := make(map[string]Check)
	for _, c := range s.Examine(filepath.Join(root, "home"), nil) {
		checks[c.Name] = c
	}
	return checks
}

func TestGoodHost(t *testing.T) {
	for name, c := range examine(t, nil, nil) {
		if c.Result != OK || c.Mend != "" || c.Found == "" {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestWhyKVMFails(t *testing.T) {
	const amd = "flags : svm\n"
	for _, c := range []struct {
		probe  error
		files  map[string]string
		found  string
		mended string
	}{
		{kvm.ErrPermission, nil, "permission", "usermod -aG kvm"},
		{kvm.ErrNoDevice, map[string]string{"sys/module/kvm_intel/parameters/ept": ""}, "kvm_intel is not loaded", "modprobe kvm-intel"},
		{kvm.ErrNoDevice, map[string]string{"sys/module/kvm_intel/parameters/ept": "", "proc/cpuinfo": amd}, "kvm_amd is not loaded", "modprobe kvm-amd"},
		{kvm.ErrNotReady, nil, "its device is not here", "mknod"},
		{kvm.ErrNoDevice, map[string]string{"proc/cpuinfo": "flags : fpu\n"}, "neither vmx nor svm", "firmware"},
		{kvm.ErrNoDevice, map[string]string{"proc/cpuinfo": "flags : hypervisor\n"}, "without nested virtualization", "nested"},
		{fmt.Errorf("%w: missing caps", kvm.ErrUnsupported), nil, "missing caps", "newer kernel"},
		{fmt.Errorf("KVM_CREATE_VM: %w", unix.EBUSY), nil, "busy", "VirtualBox"},
		{errors.New("odd"), nil, "odd", ""},
	} {
		got := examine(t, c.probe, c.files)["kvm"]
		if got.Result != Fails || !strings.Contains(got.Found, c.found) || !strings.Contains(got.Mend, c.mended) {
			t.Errorf("%v: %+v", c.probe, got)
		}
	}
}

func TestWhatSlows(t *testing.T) {
	for _, c := range []struct{ name, file, content, mend string }{
		{"processor", "proc/cpuinfo", "flags : vmx tsc_deadline_timer hypervisor\n", "physical"},
		{"nested paging", "sys/module/kvm_intel/parameters/ept", "N\n", "ept=1"},
		{"nx_huge_pages", "proc/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "favordynmods"},
		{"halt_poll_ns", "sys/module/kvm/parameters/halt_poll_ns", "0\n", "halt_poll_ns"},
		{"clock", "sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n", "tsc"},
		{"tsc_deadline", "proc/cpuinfo", "flags : vmx\n", "virtual machine"},
		{"huge pages", "sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n", "madvise"},
		{"memory", "proc/meminfo", "MemAvailable: 1024 kB\n", "--memory"},
	} {
		checks := examine(t, nil, map[string]string{c.file: c.content})
		if got := checks[c.name]; got.Result != Slow || !strings.Contains(got.Mend, c.mend) {
			t.Errorf("%s: %+v", c.name, got)
		}
		delete(checks, c.name)
		for name, other := range checks {
			if other.Result != OK {
				t.Errorf("%s: also %s: %+v", c.name, name, other)
			}
		}
	}
}

func TestUnknownIsLeftOut(t *testing.T) {
	files := goodHost()
	for name := range files {
		files[name] = ""
	}
	checks := examine(t, nil, files)
	for name, c := range checks {
		if c.Result == Fails {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if len(checks) != 4 { // kvm, processor, state, memory
		t.Errorf("%v", checks)
	}
}

func TestState(t *testing.T) {
	s := &System{Root: t.TempDir(), Probe: func() error { return nil }}
	dir := t.TempDir()
	for _, c := range []struct {
		home string
		err  error
		want Result
	}{
		{dir, nil, OK},
		{filepath.Join(dir, "new"), nil, OK},
		{filepath.Join(dir, "a", "b"), nil, Fails},
		{"", errors.New("HOME is not set"), Fails},
		{dir, errors.New("others may write"), Fails},
	} {
		if got := s.home(c.home, c.err); got.Result != c.want || (got.Mend == "") != (c.want == OK) {
			t.Errorf("%q %v: %+v", c.home, c.err, got)
		}
	}
}
