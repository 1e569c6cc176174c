// Command bench measures the program on the host it runs on and prints a
// table. `build.sh bench` runs it in the AMD lab under the instruction clock,
// where its figures repeat however busy the machine is. It counts
// instructions, not cache misses or the cost of a VM exit in hardware; the
// number of exits stands beside each figure for that.
package main

import (
	"flag"
	"fmt"
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
	flag.Parse()
	if err := bench(*qemu, *rounds); err != nil {
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
		return run("sh", qemu+"/boot.sh")
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
		{"agentkernel exec -- head -c 16M /dev/zero", []string{"exec", name, "--", "head", "-c", "16777216", "/dev/zero"}},
	} {
		if err := row(r.name, 4*rounds, func() error { return run("agentkernel", r.args...) }, nil); err != nil {
			return err
		}
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

// row measures step, some rounds, and prints the median with the exits that
// all machines together made in one round. part, if given, says which part of
// a round's time counts.
func row(name string, rounds int, step func() error, part func(all time.Duration, i int) time.Duration) error {
	var times []time.Duration
	exits := totalExits()
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
	fmt.Printf("  %-44s %8.1f ms  %7d exits\n", name, ms(median(times)), (totalExits()-exits)/rounds)
	return nil
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out[:min(len(out), 2000)])
	}
	return nil
}

// totalExits counts the VM exits since the KVM module was loaded.
func totalExits() int {
	text, err := os.ReadFile("/sys/kernel/debug/kvm/exits")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
