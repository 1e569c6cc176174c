//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// notOffered are facts of Debian's kernel for clouds that a sandbox goes
// without, each with the reason. A trailing * stands for any ending.
var notOffered = []struct{ reason, facts string }{
	{"the guest's kernel has no modules", `
		call 175 init_module, call 176 delete_module, call 313 finit_module
		file /proc/modules, file /proc/sys/kernel/modprobe, file /proc/sys/kernel/modules_disabled`},
	{"it boots no other kernel (root's)", `
		call 246 kexec_load, call 320 kexec_file_load
		file /proc/sys/kernel/kexec_*, file /sys/kernel/kexec_*, file /sys/kernel/vmcoreinfo`},
	{"the machine has no ACPI, screen, power management or hot plugging", `
		file /proc/acpi, file /proc/fb, file /sys/power, file /sys/kernel/iommu_groups, file /sys/hypervisor
		file /proc/sys/kernel/acpi_video_flags, file /proc/sys/kernel/sched_energy_aware
		file /sys/class/net/lo/power, file /sys/devices/system/memory, file /sys/devices/system/node/power
		file /sys/devices/system/cpu/power, file /sys/devices/system/cpu/cpufreq, file /sys/devices/system/cpu/cpuidle
		file /sys/devices/system/cpu/cpu0/crash_notes*, file /sys/devices/system/cpu/cpu0/driver
		file /sys/devices/system/cpu/cpu0/firmware_node, file /sys/devices/system/cpu/cpu0/power
		file /sys/fs/pstore, file system pstore, file /proc/self/cpu_resctrl_groups`},
	{"tools to debug and trace the kernel (root's)", `
		file /proc/dynamic_debug, file /proc/kcore, file /proc/slabinfo, file /proc/schedstat, file /proc/sysrq-trigger
		file /proc/self/patch_state, file /proc/self/sched, file /proc/self/stack
		file /proc/sys/kernel/ftrace_*, file /proc/sys/kernel/stack_tracer_enabled, file /proc/sys/kernel/sysrq
		file /proc/sys/kernel/traceoff_on_warning, file /proc/sys/kernel/tracepoint_printk
		file /proc/sys/kernel/sched_schedstats, file /sys/kernel/profiling, file /sys/kernel/btf
		file system debugfs, file system tracefs, file /sys/kernel/debug, file /sys/kernel/tracing, file /sys/kernel/livepatch`},
	{"the host watches over a guest that hangs", `
		file /proc/sys/kernel/hardlockup_*, file /proc/sys/kernel/hung_task_*, file /proc/sys/kernel/nmi_watchdog
		file /proc/sys/kernel/soft_watchdog, file /proc/sys/kernel/softlockup_*, file /proc/sys/kernel/watchdog*`},
	{"security modules with a policy of the administrator's; Landlock is there", `
		file /proc/self/attr/apparmor, file /proc/sys/kernel/apparmor_*, file /proc/sys/kernel/unprivileged_userns_apparmor_policy
		file /proc/sys/kernel/yama/ptrace_scope, file system securityfs, file /sys/kernel/security, netlink selinux
		file /proc/sys/net/ipv4/cipso_*, file /proc/sys/net/ipv6/calipso_*`},
	{"auditing and process events are read by root's services", `
		file /proc/self/loginuid, file /proc/self/sessionid, netlink audit
		file /proc/self/net/connector, netlink connector`},
	{"a sandbox routes, filters and shapes no traffic", `
		file /proc/self/net/ip6_mr_*, file /proc/self/net/ip_mr_*, file /proc/self/net/netfilter, file /proc/self/net/psched
		file /proc/self/net/rt_acct, file /proc/self/net/xfrm_stat, file /proc/sys/net/core/default_qdisc
		file /proc/sys/net/ipv4/fib_multipath_*
		file /proc/sys/net/ipv4/raw_l3mdev_accept, file /proc/sys/net/ipv4/tcp_l3mdev_accept, file /proc/sys/net/ipv4/udp_l3mdev_accept
		file /proc/sys/net/ipv6/conf/lo/accept_ra_rt*, file /proc/sys/net/ipv6/conf/lo/mc_forwarding
		file /proc/sys/net/ipv6/conf/lo/optimistic_dad, file /proc/sys/net/ipv6/conf/lo/router_probe_interval
		file /proc/sys/net/ipv6/conf/lo/seg6_require_hmac, file /proc/sys/net/ipv6/conf/lo/use_optimistic`},
	{"Linux 6.1 compiles BPF programs only in a kernel with modules", `
		file /proc/sys/net/core/bpf_jit_*`},
	{"tuning of memory for large machines", `
		file /proc/sys/kernel/numa_balancing*, file /proc/sys/vm/hugetlb_optimize_vmemmap, file /sys/kernel/mm/lru_gen*, file /sys/kernel/mm/hugepages/hugepages-1048576kB*
		file /sys/devices/system/cpu/nohz_full`},
	{"quota warnings go to a terminal; fs-verity needs a disk with keys", `
		file /proc/sys/fs/quota/warnings, file /proc/sys/fs/verity/require_signatures`},
	{"the emulated processor lacks TOPOEXT, and KVM hides leaf 0x80000005", `
		file /sys/devices/system/cpu/cpu0/cache`},
}

// wanted are facts of the guest that the emulated host can't show, because
// Debian has them as modules or its init sets them up.
var wanted = strings.Split(strings.TrimSpace(`
socket packet dgram
socket vsock stream
socket key raw
af_alg hash sha256
af_alg hash sha512
af_alg hash sha1
af_alg hash hmac(sha256)
af_alg skcipher cbc(aes)
af_alg skcipher ctr(aes)
af_alg aead gcm(aes)
in own namespaces mount overlay
in own namespaces tun
in own namespaces dummy interface
in own namespaces veth interface
in own namespaces bridge interface
feature i386 program
feature script with #!
file system 9p
file system erofs
file system ext4
file system fuse
file system overlay
file system tmpfs
controller cpu
controller cpuset
controller hugetlb
controller io
controller memory
controller pids
clock monotonic of 1ns
clock realtime of 1ns
opens /dev/fuse
opens /dev/net/tun
opens /dev/ptmx
path /dev/fd
path /dev/mqueue
path /dev/shm
path /dev/stdin
path /dev/stdout
path /dev/stderr
path /dev/tty
path /proc/config.gz
`), "\n")

// probeProgram returns the path of a copy of tests/probe that everybody may
// run. build.sh puts the program beside the compiled tests; where that is not
// so it is built.
func probeProgram(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "probe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "probe")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(self), "probe"))
	if err == nil {
		err = os.WriteFile(program, data, 0o755)
	} else {
		build := exec.Command("go", "build", "-o", program, "../probe")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		err = build.Run()
	}
	if err != nil {
		t.Fatalf("no probe beside %s, and it can't be built: %v", self, err)
	}
	return program
}

// TestProbe compares what a sandbox offers its user with what Debian's kernel
// offers one.
func TestProbe(t *testing.T) {
	program := probeProgram(t)
	file, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sb := sandbox(t)
	in := command(t, "exec", "-i", sb, "--", "sh", "-c", "cat > /tmp/probe; chmod +x /tmp/probe; /tmp/probe; rm /tmp/probe")
	in.Stdin = file
	r := finish(t, in)
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("the probe in the guest: exit %d, stderr %q", r.code, r.stderr)
	}
	guest := offers(r.stdout)
	for _, fact := range wanted {
		if !guest[fact] {
			t.Errorf("the guest lacks: %s", fact)
		}
	}
	if isDebianCloud() {
		compareWithHost(t, program, guest)
	}
}

// isDebianCloud reports whether this host runs the kernel that the guest is
// measured by. Another one, a newer above all, says nothing.
func isDebianCloud() bool {
	var uts syscall.Utsname
	if syscall.Uname(&uts) != nil {
		return false
	}
	var release []byte
	for _, c := range uts.Release {
		release = append(release, byte(c))
	}
	return bytes.Contains(release, []byte("-cloud-amd64"))
}

func compareWithHost(t *testing.T, program string, guest map[string]bool) {
	cmd := exec.Command(program)
	cmd.Dir = "/"
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	}
	r := finish(t, cmd)
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("the probe on the host: exit %d, stderr %q", r.code, r.stderr)
	}
	used := map[string]bool{}
	host := offers(r.stdout)
	for fact := range host {
		if guest[fact] {
			continue
		}
		if pattern := exception(fact); pattern != "" {
			used[pattern] = true
		} else {
			t.Errorf("the host has it, the guest lacks it: %s", fact)
		}
	}
	for _, pattern := range exceptions() {
		if !used[pattern] {
			t.Errorf("listed as an exception, and none: %s", pattern)
		}
	}
	t.Logf("%d facts of the host, %d of the guest, %d exceptions", len(host), len(guest), len(used))
}

// offers are the facts whose answer is yes.
func offers(output string) map[string]bool {
	facts := map[string]bool{}
	for line := range strings.Lines(output) {
		if fact, yes := strings.CutSuffix(line, ": yes\n"); yes {
			facts[fact] = true
		}
	}
	return facts
}

// exceptions are the patterns of notOffered.
func exceptions() []string {
	var all []string
	for _, n := range notOffered {
		for _, line := range strings.Split(strings.ReplaceAll(n.facts, ",", "\n"), "\n") {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, line)
			}
		}
	}
	return all
}

// exception returns the pattern that covers a fact, "" if none does.
func exception(fact string) string {
	for _, pattern := range exceptions() {
		prefix, open := strings.CutSuffix(pattern, "*")
		if fact == pattern || open && strings.HasPrefix(fact, prefix) {
			return pattern
		}
	}
	return ""
}
