// Package doctor finds out whether a host can run sandboxes, and what makes
// them slower there than they need be, with the mend for each. It changes
// nothing.
package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/kvm"
)

// Result says what a check means.
type Result string

// The results.
const (
	OK    Result = "ok"
	Slow  Result = "slow" // sandboxes run, not as fast as they could
	Fails Result = "fail" // sandboxes can't run
)

// Check is what was found about one thing.
type Check struct {
	Name   string
	Result Result
	Found  string
	Mend   string // what to do; may be empty
}

// System is the host that is examined. Its fields are for tests.
type System struct {
	Root  string       // where /proc, /sys and /dev are found
	Probe func() error // makes and closes a virtual machine
}

// Host returns the host that the program runs on.
func Host() *System { return &System{Root: "/", Probe: probe} }

// needed is what VMMs ask of KVM.
var needed = [...]kvm.Cap{
	kvm.CapIRQChip, kvm.CapUserMemory, kvm.CapSetTSSAddr, kvm.CapExtCPUID, kvm.CapPIT2,
	kvm.CapIRQFD, kvm.CapIOEventFD, kvm.CapSetIdentityMap, kvm.CapImmediateExit,
}

func probe() error {
	f, err := kvm.OpenDevice()
	if err != nil {
		return err
	}
	defer f.Close()
	system, err := kvm.NewSystem(int(f.Fd()), needed[:]...)
	if err != nil {
		return err
	}
	vm, err := system.CreateVM()
	if err != nil {
		return err
	}
	return vm.Close()
}

// Examine runs all checks: first those without which nothing works. home is the
// state directory, and homeErr says why it can't be used, if it can't.
func (s *System) Examine(home string, homeErr error) []Check {
	device := s.device()
	checks := []Check{device, s.processor(device.Result == OK), s.home(home, homeErr), s.memory()}
	for _, check := range []func() (Check, bool){
		s.pagingHardware, s.hugePageRecovery, s.haltPolling, s.clock, s.deadlineTimer, s.transparentHugePages,
	} {
		if c, known := check(); known {
			checks = append(checks, c)
		}
	}
	return checks
}

// read returns a file's content without the line's end; "" if there is none.
func (s *System) read(path string) string {
	data, err := os.ReadFile(filepath.Join(s.Root, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (s *System) has(path string) bool {
	_, err := os.Stat(filepath.Join(s.Root, path))
	return err == nil
}

// cpuFlags returns the first processor's flags.
func (s *System) cpuFlags() map[string]bool {
	flags := make(map[string]bool)
	for line := range strings.SplitSeq(s.read("proc/cpuinfo"), "\n") {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		for _, f := range strings.Fields(value) {
			flags[f] = true
		}
		break
	}
	return flags
}

// device says whether /dev/kvm can be used and if not, why.
func (s *System) device() Check {
	c := Check{Name: "kvm"}
	err := s.Probe()
	if err == nil {
		c.Result, c.Found = OK, "/dev/kvm works: a virtual machine could be made"
		return c
	}
	c.Result, c.Found = Fails, err.Error()
	switch {
	case errors.Is(err, kvm.ErrPermission):
		c.Mend = "sudo usermod -aG kvm $USER, then log in again (at once, until the next boot: sudo setfacl -m u:$USER:rw /dev/kvm)"
	case errors.Is(err, kvm.ErrNoDevice), errors.Is(err, kvm.ErrNotReady):
		c.Found, c.Mend = s.missing(err)
	case errors.Is(err, kvm.ErrUnsupported):
		c.Mend = "use a newer kernel on this host (5.10 or later)"
	case errors.Is(err, unix.EBUSY):
		c.Mend = "another hypervisor (VirtualBox, VMware) uses the processor's virtualization: stop it"
	}
	return c
}

// missing explains why there is no working /dev/kvm.
func (s *System) missing(err error) (found, mend string) {
	module := s.module()
	flags := s.cpuFlags()
	switch {
	case !flags["vmx"] && !flags["svm"] && flags["hypervisor"]:
		return err.Error() + ": this is a virtual machine without nested virtualization",
			"enable nested virtualization for it on its host, or use a machine type that has it"
	case !flags["vmx"] && !flags["svm"]:
		return err.Error() + ": the processor offers no virtualization (neither vmx nor svm)",
			"enable VT-x or AMD-V (SVM) in the machine's firmware"
	case module != "" && s.has("sys/module/"+module):
		return err.Error() + ": the module " + module + " is loaded, but its device is not here",
			"pass /dev/kvm into this container, or make it: sudo mknod /dev/kvm c 10 232"
	}
	return err.Error() + ": the module " + module + " is not loaded",
		"sudo modprobe " + strings.ReplaceAll(module, "_", "-") + " (if it refuses, see: sudo dmesg | grep kvm)"
}

// module is the name of the KVM module for this processor.
func (s *System) module() string {
	if s.cpuFlags()["svm"] {
		return "kvm_amd"
	}
	return "kvm_intel"
}

// processor says whether the host is itself a virtual machine.
func (s *System) processor(usable bool) Check {
	flags := s.cpuFlags()
	c := Check{Name: "processor", Result: OK, Found: "hardware virtualization"}
	switch {
	case flags["hypervisor"]:
		c.Result = Slow
		c.Found = "this host is itself a virtual machine: every exit of a guest costs several times as much"
		c.Mend = "use a physical machine where speed matters"
	case !flags["vmx"] && !flags["svm"] && !usable:
		c.Result, c.Found = Fails, "no hardware virtualization (neither vmx nor svm among the flags)"
	}
	return c
}

// home says whether the state directory can be used. It doesn't make it.
func (s *System) home(home string, err error) Check {
	c := Check{Name: "state", Result: OK}
	if err != nil {
		return Check{Name: "state", Result: Fails, Found: err.Error(),
			Mend: "set AGENTKERNEL_HOME to a directory of yours, with mode 0700"}
	}
	if _, serr := os.Lstat(home); errors.Is(serr, os.ErrNotExist) {
		parent := filepath.Dir(home)
		c.Found = home + " will be made when it is needed"
		if err := unix.Access(parent, unix.W_OK|unix.X_OK); err != nil {
			c.Result, c.Found = Fails, fmt.Sprintf("%s is not there and can't be made: %s: %v", home, parent, err)
			c.Mend = "set AGENTKERNEL_HOME to a directory of yours"
		}
		return c
	}
	c.Found = home
	var fs unix.Statfs_t
	if unix.Statfs(home, &fs) == nil && fs.Bavail*uint64(fs.Bsize) < 16<<20 {
		c.Result = Slow
		c.Found = fmt.Sprintf("%s: only %d KiB are free", home, fs.Bavail*uint64(fs.Bsize)>>10)
		c.Mend = "free some disk space, or set AGENTKERNEL_HOME to a place that has it"
	}
	return c
}

// memory says whether a sandbox of the default size fits.
func (s *System) memory() Check {
	c := Check{Name: "memory", Result: OK}
	for line := range strings.SplitSeq(s.read("proc/meminfo"), "\n") {
		var kib uint64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			c.Found = fmt.Sprintf("%d MiB available", kib>>10)
			if kib < 512<<10 {
				c.Result = Slow
				c.Mend = "give sandboxes less memory (create --memory 128M), or the host more"
			}
			return c
		}
	}
	c.Found = "not known"
	return c
}
