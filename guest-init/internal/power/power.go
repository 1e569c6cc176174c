// Package power ends the guest orderly.
package power

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Users is the control group of all users' processes.
type Users interface {
	WaitEmpty(deadline time.Time) bool
	Kill() error
}

// killGrace bounds the wait for processes after KILL. One in an uninterruptible
// call does not end; the guest does.
const killGrace = time.Second

// EndProcesses sends TERM to every process but PID 1, and KILL after grace to
// those that are left. It returns when all are gone, or killGrace after KILL.
func EndProcesses(users Users, grace time.Duration) {
	if unix.Kill(-1, unix.SIGTERM) == unix.ESRCH {
		return
	}
	unix.Kill(-1, unix.SIGCONT)
	if !users.WaitEmpty(time.Now().Add(grace)) {
		users.Kill()
		users.WaitEmpty(time.Now().Add(killGrace))
	}
	unix.Kill(-1, unix.SIGKILL) // what had left the control group
}

// SyncDisks writes everything out and takes file systems on disks from under
// what is left of the system, so that they are clean.
func SyncDisks() {
	unix.Sync()
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return
	}
	defer f.Close()
	var disks []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if dev, target, ok := parseMount(s.Text()); ok && strings.HasPrefix(dev, "/dev/") {
			disks = append(disks, target)
		}
	}
	// The last mounted first: it may lie on another.
	for _, target := range slices.Backward(disks) {
		if unix.Unmount(target, 0) != nil {
			unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
}

// parseMount reads a line of /proc/self/mounts and undoes the kernel's escapes.
func parseMount(line string) (device, target string, ok bool) {
	words := strings.Fields(line)
	if len(words) < 4 {
		return "", "", false
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	return words[0], unescape.Replace(words[1]), true
}

// Off ends the machine. With reboot=k on the command line a restart is a pulse
// on the keyboard controller's reset line, which ends the VMM.
func Off() {
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
