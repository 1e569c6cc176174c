// Package measure reads what a process uses, for the end-to-end tests and the
// benchmark.
package measure

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Footprint is what a VMM uses beside its guest's RAM, in KiB, summed over
// every other mapping.
type Footprint struct {
	RSS       int // resident, shared file pages included
	Anonymous int // of that, what no file backs
}

// guestSlackKiB is what the mapping of guest RAM has beside it, so that huge
// pages fit (package guestmem).
const guestSlackKiB = 2048

// NonGuest reads the footprint of the VMM with process id pid. Guest RAM is
// the mapping of guestKiB and the slack; a VMM without it is an error.
func NonGuest(pid, guestKiB int) (Footprint, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return Footprint{}, err
	}
	defer f.Close()
	var sum, current Footprint
	var size int
	found := false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		switch key, rest, _ := strings.Cut(lines.Text(), ":"); key {
		case "Size":
			fmt.Sscan(rest, &size)
		case "Rss":
			fmt.Sscan(rest, &current.RSS)
		case "Anonymous":
			fmt.Sscan(rest, &current.Anonymous)
		case "VmFlags": // the last line of a mapping
			if size == guestKiB+guestSlackKiB {
				found = true
			} else {
				sum.RSS += current.RSS
				sum.Anonymous += current.Anonymous
			}
		}
	}
	if err := lines.Err(); err != nil {
		return Footprint{}, err
	}
	if !found {
		return Footprint{}, fmt.Errorf("process %d maps no guest RAM of %d KiB", pid, guestKiB)
	}
	return sum, nil
}

// VMM finds the process id of a sandbox's VMM by its command line.
func VMM(name string) (int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(line), "\x00vmm\x00--name\x00"+name+"\x00") {
			var pid int
			_, err = fmt.Sscanf(path, "/proc/%d/", &pid)
			return pid, err
		}
	}
	return 0, fmt.Errorf("sandbox %q has no VMM process", name)
}
