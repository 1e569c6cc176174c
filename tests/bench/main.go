// Command bench measures the program on the host it runs on and prints a
// table. `build.sh bench` runs it in the AMD lab under the instruction clock,
// where its figures repeat however busy the machine is. It counts
// instructions, not cache misses or the cost of a VM exit in hardware: the
// number of exits is printed for that.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/tests/measure"
)

func main() {
	qemu := flag.String("qemu", "", "folder with QEMU, its libraries, vmlinux and an initramfs, to compare with")
	rounds := flag.Int("rounds", 5, "how often each row is measured; the median is printed")
	archive := flag.String("initramfs", "", "write the initramfs for QEMU here, and do nothing else")
	busybox := flag.String("busybox", "/bin/busybox", "what to put in that initramfs")
	flag.Parse()
	err := error(nil)
	if *archive != "" {
		err = writeInitramfs(*archive, *busybox)
	} else {
		err = bench(*qemu, *rounds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(qemu string, rounds int) error {
	home, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	os.Setenv("AGENTKERNEL_HOME", home)
	for _, setting := range []struct{ text, nx string }{
		{"KVM's default settings", ""},
		{"kvm.nx_huge_pages=never", "never"},
	} {
		if setting.nx != "" {
			if err := os.WriteFile("/sys/module/kvm/parameters/nx_huge_pages", []byte(setting.nx), 0); err != nil {
				return err
			}
		}
		fmt.Printf("\n%s, median of %d:\n", setting.text, rounds)
		if err := cold(qemu, rounds); err != nil {
			return err
		}
	}
	fmt.Println("\nA running sandbox:")
	return warm(rounds)
}

// cold measures whole lives of a machine.
func cold(qemu string, rounds int) error {
	var teardowns []time.Duration
	err := row("agentkernel run -- true", rounds, func() error {
		if err := run("agentkernel", "run", "--", "true"); err != nil {
			return err
		}
		t, err := teardown()
		teardowns = append(teardowns, t)
		return err
	}, func(all time.Duration, i int) time.Duration { return all - teardowns[i] })
	if err != nil {
		return err
	}
	fmt.Printf("  %-44s %8.1f ms\n", "its VMM's end behind that", ms(median(teardowns)))
	if qemu == "" {
		return nil
	}
	return row("QEMU microvm, to the first user-space line", rounds, func() error {
		return run("sh", qemu+"/qemu.sh")
	}, nil)
}

// teardown waits until no VMM is left, and says how long it took.
func teardown() (time.Duration, error) {
	start := time.Now()
	for time.Since(start) < time.Minute {
		out, _ := exec.Command("pidof", "agentkernel").Output() // exits 1 when there is none
		if len(out) == 0 {
			return time.Since(start), nil
		}
	}
	return 0, fmt.Errorf("a VMM does not end")
}

// warm measures execs in a sandbox that runs, and what its VMM uses.
func warm(rounds int) error {
	const name, mib = "bench", 512
	for _, args := range [][]string{{"create", "--memory", strconv.Itoa(mib) + "M", name}, {"start", name}} {
		if err := run("agentkernel", args...); err != nil {
			return err
		}
	}
	defer run("agentkernel", "remove", "-f", name)
	for _, r := range []struct {
		name string
		args []string
	}{
		{"agentkernel version (the CLI alone)", []string{"version"}},
		{"agentkernel exec -- true", []string{"exec", name, "--", "true"}},
	} {
		if err := row(r.name, 2*rounds, func() error { return run("agentkernel", r.args...) }, nil); err != nil {
			return err
		}
	}
	if err := exits(name); err != nil {
		return err
	}
	pid, err := measure.VMM(name)
	if err != nil {
		return err
	}
	f, err := measure.NonGuest(pid, mib<<10)
	if err != nil {
		return err
	}
	fmt.Printf("  VMM beside guest memory: Rss %.1f MiB, Anonymous %.1f MiB\n", float64(f.RSS)/1024, float64(f.Anonymous)/1024)
	return nil
}

// exits prints how often the vCPU of a running sandbox leaves the guest in one
// exec, and why, by KVM's own counters.
func exits(name string) error {
	before, err := counters(name)
	if err != nil {
		return err
	}
	if err := run("agentkernel", "exec", name, "--", "true"); err != nil {
		return err
	}
	after, err := counters(name)
	if err != nil {
		return err
	}
	fmt.Printf("  VM exits from start on %d; in one exec -- true:", before["exits"])
	for _, k := range slices.Sorted(maps.Keys(after)) {
		fmt.Printf(" %s %d", k, after[k]-before[k])
	}
	fmt.Println()
	return nil
}

// counters returns what inspect tells of KVM's counters.
func counters(name string) (map[string]int, error) {
	out, err := exec.Command("agentkernel", "inspect", "--json", name).Output()
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", name, err)
	}
	var v struct {
		KVM map[string]int `json:"kvm"`
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return nil, err
	}
	if v.KVM["exits"] == 0 {
		return nil, fmt.Errorf("inspect %s tells of no exits: %s", name, out)
	}
	return v.KVM, nil
}

// row measures step, some rounds, and prints the median. part, if given, says
// which part of a round's time counts.
func row(name string, rounds int, step func() error, part func(all time.Duration, i int) time.Duration) error {
	var times []time.Duration
	for i := range rounds {
		start := time.Now()
		if err := step(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		t := time.Since(start)
		if part != nil {
			t = part(t, i)
		}
		times = append(times, t)
	}
	fmt.Printf("  %-44s %8.1f ms\n", name, ms(median(times)))
	return nil
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out[:min(len(out), 2000)])
	}
	return nil
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
