//go:build e2e

package e2e

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestMachineShapes(t *testing.T) {
	two := started(t, "two", "--cpus", "2")
	expect(t, "2 vCPUs", ak(t, "exec", two, "--", "nproc"), 0, "2\n")
	big := started(t, "big", "--memory", "5G")
	r := ak(t, "exec", big, "--", "sh", "-c", "awk '/MemTotal/ {print int($2/1048576)}' /proc/meminfo")
	if r.stdout != "4\n" && r.stdout != "5\n" { // the kernel keeps some of the 5 GiB
		t.Errorf("5 GiB: MemTotal is %q GiB, stderr %q", r.stdout, r.stderr)
	}
	small := started(t, "small", "--memory", "64M")
	expect(t, "64 MiB", ak(t, "exec", small, "--", "echo", "ok"), 0, "ok\n")
}

func TestTenSandboxes(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 10 {
		name := fmt.Sprint("ten-", i)
		must(t, "create", "--memory", "96M", name)
		t.Cleanup(func() { must(t, "remove", "-f", name) })
		wg.Go(func() {
			if r := ak(t, "start", name); r.code != 0 {
				t.Errorf("start %s: %s", name, r.stderr)
			}
		})
	}
	wg.Wait()
	for i := range 10 {
		name := fmt.Sprint("ten-", i)
		expect(t, name, ak(t, "exec", name, "--", "hostname"), 0, name+"\n")
	}
}

// What the base system promises to programs.
func TestBaseSystem(t *testing.T) {
	sb := started(t, "base")
	for _, tt := range []struct{ name, script, want string }{
		{"loopback is up", "(nc -l -p 7777 -e echo up &); sleep 1; nc 127.0.0.1 7777", "up"},
		{"IPv6 loopback", "grep -c ^00000000000000000000000000000001 /proc/net/if_inet6", "1"},
		{"the date", fmt.Sprintf("d=$(date +%%s); [ $d -ge %d ] && [ $d -le %d ] && echo right", time.Now().Unix()-2, time.Now().Unix()+3600), "right"},
		{"getrandom", "head -c 16 /dev/random | wc -c", "16"},
		{"devpts and shm", "[ -c /dev/ptmx ] && [ -d /dev/pts ] && echo x > /dev/shm/f && cat /dev/shm/f && rm /dev/shm/f", "x"},
		{"workspace is the user's", "stat -c %U /workspace /home/developer | uniq", "developer"},
		{"tmp", "stat -c %a /tmp", "1777"},
		{"files", "getent passwd developer 2>/dev/null || grep ^developer: /etc/passwd", "developer:x:1000:1000:developer:/home/developer:/bin/sh"},
		{"localhost", "grep -c localhost /etc/hosts | grep -q '[1-9]' && echo yes", "yes"},
		{"scripts", "printf '#!/bin/sh\\necho script\\n' > /tmp/s; chmod +x /tmp/s; /tmp/s; rm /tmp/s", "script"},
		{"kernel configuration", "zcat /proc/config.gz | grep -c =y | awk '{print ($1 > 500)}'", "1"},
		{"controllers", "for c in cpuset cpu io memory pids; do grep -qw $c /sys/fs/cgroup/cgroup.controllers || echo no $c; done; echo ok", "ok"},
		{"file systems", "for f in tmpfs overlay ext4 erofs fuse 9p; do grep -qw $f /proc/filesystems || echo no $f; done; echo ok", "ok"},
		{"namespaces", "ls /proc/self/ns | tr '\\n' ' '", "cgroup ipc mnt net pid pid_for_children time time_for_children user uts"},
		{"an unprivileged user namespace", "unshare -Ur id -u", "0"},
		{"host name", "hostname", "base"},
	} {
		r := ak(t, "exec", sb, "--", "sh", "-c", tt.script)
		if got := strings.TrimSpace(r.stdout); r.code != 0 || got != tt.want {
			t.Errorf("%s: exit %d, %q, want %q; stderr %q", tt.name, r.code, got, tt.want, r.stderr)
		}
	}
}

// eatMemory is a command that takes all the memory it can get, bit by bit, so
// that no single request is refused.
const eatMemory = `exec awk 'BEGIN { s = sprintf("%4096s", ""); while (1) a[i++] = s i }'`

func TestOOM(t *testing.T) {
	sb := started(t, "oom", "--memory", "128M")
	r := ak(t, "exec", sb, "--", "sh", "-c", eatMemory)
	expectError(t, "out of memory", r, 137, "memory", "create --memory")
	expect(t, "afterwards", ak(t, "exec", sb, "--", "echo", "alive"), 0, "alive\n")
}

func TestGuestPowersOff(t *testing.T) {
	sb := started(t, "poweroff")
	ak(t, "exec", "-u", "root", sb, "--", "poweroff")
	waitFor(t, "the end of the sandbox", func() bool { return status(t, sb) != "running" })
	if got := status(t, sb); got != "stopped" {
		t.Errorf("status %q after the guest's own power-off", got)
	}
	must(t, "start", sb)
}

// A panicking kernel ends its sandbox, and its words are kept.
func TestGuestPanics(t *testing.T) {
	sb := started(t, "panic", "--memory", "128M")
	must(t, "exec", "-u", "root", sb, "--", "sh", "-c", "echo 2 > /proc/sys/vm/panic_on_oom")
	expectError(t, "the exec that panics it", ak(t, "exec", sb, "--", "sh", "-c", eatMemory), 125)
	waitFor(t, "the end of the sandbox", func() bool { return status(t, sb) != "running" })
	if got := status(t, sb); got != "died" {
		t.Errorf("status %q", got)
	}
	if said := must(t, "inspect", sb); !strings.Contains(said, "panic") || !strings.Contains(said, "out of memory") && !strings.Contains(said, "Out of memory") {
		t.Errorf("inspect does not give the reason: %s", said)
	}
}

// vmlinux makes a kernel file of a few bytes of machine code.
func vmlinux(t *testing.T, code string) string {
	t.Helper()
	le := binary.LittleEndian
	file := make([]byte, 64+56)
	copy(file, "\x7fELF\x02\x01\x01")
	le.PutUint16(file[16:], 2)  // executable
	le.PutUint16(file[18:], 62) // x86-64
	le.PutUint64(file[24:], 16<<20)
	le.PutUint64(file[32:], 64)
	le.PutUint16(file[54:], 56)
	le.PutUint16(file[56:], 1)
	segment := file[64:]
	le.PutUint32(segment, 1)
	le.PutUint64(segment[8:], uint64(len(file)))
	le.PutUint64(segment[24:], 16<<20)
	le.PutUint64(segment[32:], uint64(len(code)))
	le.PutUint64(segment[40:], uint64(len(code)))
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, append(file, code...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A kernel that never gets ready makes start fail within its limit, with the
// reason.
func TestStartFails(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("this is no kernel at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, kernel string
		words        []string
	}{
		{"text", text, []string{"kernel", "ELF"}},
		{"triple-fault", vmlinux(t, "\x0f\x0b"), []string{"triple fault"}},
		{"spins", vmlinux(t, "\xeb\xfe"), []string{"3s"}},
		{"halts", vmlinux(t, "\xfa\xf4"), []string{"3s"}},
		// out 0x3f8 'A', '\n'; then reset by the keyboard controller
		{"resets", vmlinux(t, "\x66\xba\xf8\x03\xb0A\xee\xb0\n\xee\xb0\xfe\xe6\x64\xeb\xfe"), []string{"reset", "A"}},
	} {
		must(t, "create", "--kernel", tt.kernel, tt.name)
		expectError(t, tt.name, ak(t, "start", "--timeout", "3s", tt.name), 125, tt.words...)
		if got := status(t, tt.name); got == "running" {
			t.Errorf("%s: status %q", tt.name, got)
		}
		must(t, "remove", tt.name)
	}
}

// listed is one line of list --json.
type listed struct {
	Name   string `json:"name"`
	Status string `json:"status"`
}

func status(t *testing.T, name string) string {
	t.Helper()
	var all []listed
	if err := json.Unmarshal([]byte(must(t, "list", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == name {
			return s.Status
		}
	}
	return "absent"
}

func TestLifecycle(t *testing.T) {
	must(t, "create", "life")
	if got := status(t, "life"); got != "created" {
		t.Errorf("created: %q", got)
	}
	expectError(t, "created twice", ak(t, "create", "life"), 125, "life")
	expectError(t, "exec before start", ak(t, "exec", "life", "--", "true"), 125, "agentkernel start life")
	must(t, "start", "life")
	if got := status(t, "life"); got != "running" {
		t.Errorf("started: %q", got)
	}
	expectError(t, "started twice", ak(t, "start", "life"), 125, "running")
	expectError(t, "removed while running", ak(t, "remove", "life"), 125, "stop life")
	must(t, "stop", "life")
	if got := status(t, "life"); got != "stopped" {
		t.Errorf("stopped: %q", got)
	}
	must(t, "start", "life")
	must(t, "rm", "-f", "life")
	if got := status(t, "life"); got != "absent" {
		t.Errorf("removed: %q", got)
	}
	expectError(t, "removed twice", ak(t, "remove", "life"), 125, "life")
}

func TestVMMKilled(t *testing.T) {
	sb := started(t, "killed")
	running := command(t, "exec", sb, "--", "sleep", "1000")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(vmmPID(t, sb), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	running.Wait()
	if code := exitCode(running.ProcessState); code != 125 {
		t.Errorf("the exec that was running: exit %d", code)
	}
	waitFor(t, "the lock's release", func() bool { return status(t, sb) != "running" })
	if got := status(t, sb); got != "died" {
		t.Errorf("list says %q", got)
	}
	expectError(t, "exec", ak(t, "exec", sb, "--", "true"), 125, "agentkernel start killed")
	must(t, "start", sb)
	expect(t, "started again", ak(t, "exec", sb, "--", "echo", "back"), 0, "back\n")
}

func TestForeground(t *testing.T) {
	must(t, "create", "fg")
	t.Cleanup(func() { must(t, "remove", "-f", "fg") })
	cmd := command(t, "start", "--foreground", "fg")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the start", func() bool { return status(t, "fg") == "running" && ak(t, "exec", "fg", "--", "true").code == 0 })
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("TERM: %v", err)
	}
	if got := status(t, "fg"); got != "stopped" {
		t.Errorf("status %q", got)
	}
}

func TestBadNames(t *testing.T) {
	for _, name := range []string{"../x", "/abs", ".", "-x", "x-", "a b", "ü", strings.Repeat("x", 64)} {
		expectError(t, name, ak(t, "create", "--", name), 125)
	}
	expectError(t, "unknown flag", ak(t, "create", "--no-such", "x"), 125, "no-such")
	expectError(t, "too little memory", ak(t, "create", "--memory", "1M", "x"), 125, "64")
	expectError(t, "too many CPUs", ak(t, "create", "--cpus", "33", "x"), 125, "32")
}

// Ten CLIs race on one name: one wins, the others say why they did not.
func TestRaces(t *testing.T) {
	const racers = 10
	race := func(args ...string) (won int) {
		codes := make(chan int, racers)
		for range racers {
			cmd := command(t, args...)
			go func() {
				cmd.Run()
				codes <- exitCode(cmd.ProcessState)
			}()
		}
		for range racers {
			switch code := <-codes; code {
			case 0:
				won++
			case 125:
			default:
				t.Errorf("%q: exit %d", args, code)
			}
		}
		return won
	}
	for _, step := range [][]string{{"create", "raced"}, {"start", "raced"}, {"remove", "-f", "raced"}} {
		if won := race(step...); won != 1 {
			t.Errorf("%q: %d winners", step, won)
		}
	}
	if got := status(t, "raced"); got != "absent" {
		t.Errorf("status %q", got)
	}
}

func TestLongHomeAndModes(t *testing.T) {
	home := filepath.Join(t.TempDir(), strings.Repeat("long-", 30))
	t.Setenv("AGENTKERNEL_HOME", home)
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	expect(t, "a long home", ak(t, "run", "--keep", "--name", "kept", "-e", "CANARY=dead-canary", "--", "echo", "ok"), 0, "ok\n")
	filepath.Walk(home, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return nil
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v", path, info.Mode())
		}
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), "dead-canary") {
			t.Errorf("%s holds the value of a variable", path)
		}
		return nil
	})
	must(t, "rm", "-f", "kept")
}

func TestNoHome(t *testing.T) {
	cmd := command(t, "list")
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "HOME=") && !strings.HasPrefix(e, "AGENTKERNEL_HOME=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	expectError(t, "no HOME", finish(t, cmd), 125, "AGENTKERNEL_HOME")
}

func TestLogsAndInspect(t *testing.T) {
	sb := sandbox(t)
	must(t, "exec", "-u", "root", sb, "--", "sh", "-c", "echo '<1>a line for the log' > /dev/kmsg")
	waitFor(t, "the line", func() bool { return strings.Contains(must(t, "logs", sb), "a line for the log") })
	var v map[string]any
	if err := json.Unmarshal([]byte(must(t, "inspect", "--json", sb)), &v); err != nil {
		t.Errorf("inspect is no JSON: %v", err)
	}
	must(t, "version")
	must(t, "doctor")
}
