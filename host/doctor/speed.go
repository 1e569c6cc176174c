package doctor

import (
	"fmt"
	"strconv"
	"strings"
)

// The checks below are about speed. Each knows nothing (known is false) where
// the host doesn't have what it looks at.

// pagingHardware: without EPT or NPT, KVM shadows the guest's page tables.
func (s *System) pagingHardware() (c Check, known bool) {
	module, parameter := s.module(), "ept"
	if module == "kvm_amd" {
		parameter = "npt"
	}
	value := s.read("sys/module/" + module + "/parameters/" + parameter)
	if value == "" {
		return c, false
	}
	c = Check{Name: "nested paging", Result: OK, Found: module + " uses " + strings.ToUpper(parameter)}
	if off(value) {
		c.Result, c.Found = Slow, module+" does not use "+strings.ToUpper(parameter)+": memory accesses of guests are slow"
		c.Mend = "load " + module + " with " + parameter + "=1, if the processor has it"
	}
	return c, true
}

// hugePageRecovery: unless nx_huge_pages is never, KVM_CREATE_VM starts a
// recovery thread and moves it into the caller's cgroup, which waits for an RCU
// grace period: some 10 to 30 ms for each VM, unless the cgroup hierarchy is
// mounted with favordynmods.
func (s *System) hugePageRecovery() (c Check, known bool) {
	value := s.read("sys/module/kvm/parameters/nx_huge_pages")
	if value == "" {
		return c, false
	}
	c = Check{Name: "nx_huge_pages", Result: OK, Found: "kvm.nx_huge_pages is " + value}
	if value == "never" {
		return c, true
	}
	if options, mounted := s.cgroupOptions(); mounted && strings.Contains(options, "favordynmods") {
		c.Found += ", and cgroup2 is mounted with favordynmods"
		return c, true
	}
	c.Result = Slow
	c.Found += ": making and closing a virtual machine takes some 10 to 30 ms longer"
	c.Mend = "sudo mount -o remount,favordynmods /sys/fs/cgroup; or, where no untrusted code runs in guests on a " +
		"processor with the iTLB multihit flaw: options kvm nx_huge_pages=never in /etc/modprobe.d/kvm.conf"
	return c, true
}

// cgroupOptions returns the mount options of the cgroup v2 hierarchy.
func (s *System) cgroupOptions() (options string, mounted bool) {
	for line := range strings.SplitSeq(s.read("proc/mounts"), "\n") {
		f := strings.Fields(line)
		if len(f) >= 4 && f[2] == "cgroup2" {
			return f[3], true
		}
	}
	return "", false
}

// enoughPolling is the halt_poll_ns from which on a guest that has just halted
// is usually still there when the next event for it comes.
const enoughPolling = 200_000

// haltPolling: how long KVM spins before it gives the CPU away when a guest
// halts. Too short, and every exec pays a scheduler's wake-up.
func (s *System) haltPolling() (c Check, known bool) {
	value := s.read("sys/module/kvm/parameters/halt_poll_ns")
	ns, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return c, false
	}
	c = Check{Name: "halt_poll_ns", Result: OK, Found: "kvm.halt_poll_ns is " + value}
	if ns < enoughPolling {
		c.Result = Slow
		c.Found += ": a guest that waits is woken through the scheduler"
		c.Mend = fmt.Sprintf("echo %d | sudo tee /sys/module/kvm/parameters/halt_poll_ns", enoughPolling)
	}
	return c, true
}

// clock: without a stable TSC, guests' clocks are slow to read.
func (s *System) clock() (c Check, known bool) {
	value := s.read("sys/devices/system/clocksource/clocksource0/current_clocksource")
	if value == "" {
		return c, false
	}
	c = Check{Name: "clock", Result: OK, Found: "the clock source is " + value}
	if value != "tsc" && value != "kvm-clock" {
		c.Result = Slow
		c.Found += ", not tsc: reading the time is slow, here and in guests"
		c.Mend = "see why the kernel gave up the TSC: sudo dmesg | grep -i tsc; boot with tsc=reliable only if it is"
	}
	return c, true
}

// deadlineTimer: guests arm their timers with one MSR write where the TSC
// deadline timer is there.
func (s *System) deadlineTimer() (c Check, known bool) {
	flags := s.cpuFlags()
	if len(flags) == 0 {
		return c, false
	}
	c = Check{Name: "tsc_deadline", Result: OK, Found: "the processor has the TSC deadline timer"}
	if !flags["tsc_deadline_timer"] {
		c.Result, c.Found = Slow, "the processor shows no TSC deadline timer: guests' timers cost more"
		c.Mend = "none, unless this is a virtual machine whose host hides it"
	}
	return c, true
}

// transparentHugePages: guest memory in pages of 2 MiB takes a fraction of the
// faults and of the TLB.
func (s *System) transparentHugePages() (c Check, known bool) {
	value := s.read("sys/kernel/mm/transparent_hugepage/enabled")
	if value == "" {
		return c, false
	}
	c = Check{Name: "huge pages", Result: OK, Found: "transparent huge pages: " + value}
	if strings.Contains(value, "[never]") {
		c.Result = Slow
		c.Mend = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
	}
	return c, true
}

func off(value string) bool { return value == "N" || value == "0" || value == "n" }
