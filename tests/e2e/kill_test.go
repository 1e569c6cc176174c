//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/tests/measure"
)

// useHome gives the test a state folder of its own and returns its path.
func useHome(t *testing.T) string {
	t.Helper()
	home := filepath.Join(t.TempDir(), "home")
	t.Setenv("AGENTKERNEL_HOME", home)
	return home
}

// kills is at how many moments of its run a command is killed.
const kills = 6

// moments are spread over the time that a command needs undisturbed, so that on
// a slow machine too they hit all of its work. What is asserted holds at any
// moment.
func moments(undisturbed time.Duration) []time.Duration {
	var all []time.Duration
	for i := range kills {
		all = append(all, undisturbed*time.Duration(i)/kills)
	}
	return all
}

// took runs the program with args, which must succeed, and measures it.
func took(t *testing.T, args ...string) time.Duration {
	t.Helper()
	began := time.Now()
	must(t, args...)
	return time.Since(began)
}

// killAfter starts the program and kills it, and only it, after a while.
func killAfter(t *testing.T, d time.Duration, args ...string) {
	t.Helper()
	cmd := command(t, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
	cmd.Process.Kill()
	cmd.Wait()
}

// whole fails unless list works and says one of these of the sandbox.
func whole(t *testing.T, what, name string, statuses ...string) string {
	t.Helper()
	got := status(t, name)
	if !strings.Contains(" "+strings.Join(statuses, " ")+" ", " "+got+" ") {
		t.Errorf("%s: %s is %s", what, name, got)
	}
	return got
}

// A CLI that is killed at any moment leaves nothing half made, and the name can
// be used.
func TestKilledCLI(t *testing.T) {
	home := useHome(t)
	const box = "box"
	create := took(t, "create", "--memory", "96M", box)
	start := took(t, "start", box)
	stop := took(t, "stop", box)
	remove := took(t, "rm", box)

	for _, d := range moments(create) {
		killAfter(t, d, "create", "--memory", "96M", box)
		if whole(t, fmt.Sprint("create killed after ", d), box, "absent", "created") == "absent" {
			must(t, "create", "--memory", "96M", box)
		}
		must(t, "rm", box)
	}
	for _, d := range moments(remove) {
		must(t, "create", "--memory", "96M", box)
		killAfter(t, d, "rm", box)
		if whole(t, fmt.Sprint("rm killed after ", d), box, "absent", "created") == "created" {
			must(t, "rm", box)
		}
	}
	must(t, "create", "--memory", "96M", box)
	for _, d := range moments(start) {
		killAfter(t, d, "start", box)
		whole(t, fmt.Sprint("start killed after ", d), box, "created", "running", "died", "stopped")
		must(t, "stop", "-f", box) // or says that it does not run
	}
	for _, d := range moments(stop) {
		must(t, "start", box)
		killAfter(t, d, "stop", box)
		whole(t, fmt.Sprint("stop killed after ", d), box, "running", "stopped")
		must(t, "stop", box)
		whole(t, "stop once more", box, "stopped")
	}
	must(t, "start", box)
	expect(t, "after all that", ak(t, "exec", box, "--", "echo", "fine"), 0, "fine\n")
	must(t, "rm", "-f", box)
	nothingLeft(t, home)
}

// What a killed `run` leaves goes away: the VM by itself, the files with the
// next command.
func TestKilledRun(t *testing.T) {
	home := useHome(t)
	run := []string{"run", "--memory", "96M", "--name", "brief", "--", "true"}
	for _, d := range moments(took(t, run...)) {
		killAfter(t, d, run...)
		waitFor(t, fmt.Sprint("the end of the VMM, its run killed after ", d), func() bool {
			_, err := measure.VMM("brief")
			return err != nil
		})
		must(t, "list")
		must(t, run...) // the name is free
	}
	nothingLeft(t, home)
}

// A VMM that is killed while it starts makes start fail, with a sentence.
func TestVMMKilledDuringStart(t *testing.T) {
	useHome(t)
	const box = "box"
	must(t, "create", "--memory", "96M", box)
	t.Cleanup(func() { must(t, "rm", "-f", box) })
	undisturbed := took(t, "start", box)
	must(t, "stop", "-f", box)
	for _, d := range moments(undisturbed) {
		done := make(chan result)
		cmd := command(t, "start", box)
		go func() { done <- finish(t, cmd) }()
		var pid int
		waitFor(t, "the VMM", func() (found bool) {
			var err error
			pid, err = measure.VMM(box)
			return err == nil
		})
		time.Sleep(d)
		syscall.Kill(pid, syscall.SIGKILL)
		switch r := <-done; r.code {
		case 0: // it was ready before
		case 125:
			expectError(t, "start", r, 125, box, "did not start")
		default:
			t.Errorf("VMM killed after %v: %+v", d, r)
		}
		waitFor(t, "the lock's release", func() bool { return status(t, box) != "running" })
		whole(t, fmt.Sprint("VMM killed after ", d), box, "died")
	}
	must(t, "start", box)
	expect(t, "after all that", ak(t, "exec", box, "--", "echo", "fine"), 0, "fine\n")
}

// Ten commands run while stop does: each gets its own code, or 125.
func TestStopDuringExecs(t *testing.T) {
	useHome(t)
	const box = "box"
	must(t, "create", box)
	t.Cleanup(func() { must(t, "rm", "-f", box) })
	must(t, "start", box)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range 10 {
		script := fmt.Sprintf("trap 'exit %d' TERM; echo ready; while :; do sleep 0.1; done", 10+i)
		cmd := command(t, "exec", box, "--", "sh", "-c", script)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
			t.Fatalf("exec %d: %q, %v", i, line, err)
		}
		wg.Go(func() {
			exit := (*exec.ExitError)(nil)
			if err := cmd.Wait(); !errors.As(err, &exit) {
				t.Errorf("exec %d: %v", i, err)
			} else if code := exitCode(cmd.ProcessState); code != 10+i && code != 125 {
				t.Errorf("exec %d: exit %d", i, code)
			}
		})
	}
	for i := range 10 {
		cmd := command(t, "exec", box, "--", "true")
		wg.Go(func() {
			// 143 and 137: the power-off ended it like any other process.
			r := finish(t, cmd)
			if ended := r.code == 143 || r.code == 137; r.code != 0 && r.code != 125 && !ended || r.code == 125 && r.stderr == "" {
				t.Errorf("exec %d beside stop: %+v", i, r)
			}
		})
	}
	must(t, "stop", box)
}
