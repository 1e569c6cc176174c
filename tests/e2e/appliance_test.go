//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// onAppliance makes TestAppliance fail on a host that is none.
var onAppliance = flag.Bool("appliance", false, "the host is an appliance: read-only, without a shell")

// A host with a read-only root, no shell and no program but ours and its init.
// The compiled tests are the command of that lab:
//
//	lab --appliance --add DIR --binary agentkernel --env TMPDIR=/run -- \
//		/mnt/e2e.test -test.run Appliance -appliance
//
// Elsewhere this test has the same to do, on a host that offers more.
func TestAppliance(t *testing.T) {
	if *onAppliance {
		checkAppliance(t)
	}
	home := applianceHome(t)
	agentkernel := func(args ...string) *exec.Cmd {
		cmd := command(t, args...)
		cmd.Env = []string{"AGENTKERNEL_HOME=" + home} // no HOME, no PATH
		cmd.Dir = "/"
		return cmd
	}
	expect(t, "run", finish(t, agentkernel("run", "--", "echo", "hello")), 0, "hello\n")
	expect(t, "run, a code", finish(t, agentkernel("run", "--", "sh", "-c", "exit 37")), 37, "")

	expect(t, "create", finish(t, agentkernel("create", "unit")), 0, "unit\n")
	service, errs := agentkernel("start", "--foreground", "unit"), new(bytes.Buffer)
	service.Stderr = errs
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the foreground sandbox", func() bool {
		return finish(t, agentkernel("exec", "unit", "--", "true")).code == 0
	})
	trap := agentkernel("exec", "unit", "--", "sh", "-c", "trap 'echo got TERM; exit 0' TERM; echo ready; while :; do sleep 0.1; done")
	stdout, err := trap.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := trap.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := service.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if line, err := lines.ReadString('\n'); line != "got TERM\n" {
		t.Errorf("the command in the sandbox was not ended in order: %q, %v", line, err)
	}
	trap.Wait()
	service.Wait()
	if code := exitCode(service.ProcessState); code != 0 || errs.Len() != 0 {
		t.Errorf("start --foreground, at TERM: exit %d, stderr %q", code, errs)
	}
	if list := finish(t, agentkernel("list")); !strings.Contains(list.stdout, "stopped") {
		t.Errorf("not stopped afterwards: %+v", list)
	}
	expect(t, "remove", finish(t, agentkernel("remove", "unit")), 0, "")
	nothingLeft(t, home)
}

// checkAppliance fails if the lab gives more than it says.
func checkAppliance(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/bin/sh"); err == nil {
		t.Error("the appliance has a shell")
	}
	for _, dir := range []string{"/", "/tmp", "/root", "/dev/shm", "/mnt"} {
		if err := os.WriteFile(filepath.Join(dir, "written"), nil, 0o600); err == nil {
			t.Errorf("the appliance's %s can be written", dir)
		}
	}
}

// applianceHome is a state folder on the one file system of an appliance that
// can be written.
func applianceHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "agentkernel-")
	if err != nil {
		return filepath.Join(t.TempDir(), "home")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "home")
}

// nothingLeft fails if a state folder holds more than its lock.
func nothingLeft(t *testing.T, home string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(home, "sandboxes"))
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		t.Errorf("left behind in %s: %s", home, e.Name())
	}
}
