//go:build e2e

// Package e2e runs the program as a user does: the real binary, found on
// PATH, on a machine with KVM. `build.sh test e2e` runs it in the AMD lab, and
// a smaller set in the Intel lab; on a machine with KVM it can be run directly:
//
//	PATH=$PWD/bin:$PATH go test -tags e2e ./tests/e2e
//
// Nothing here asserts wall time. Deadlines exist only so that a hang becomes
// a failure that says where.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/tests/measure"
)

// hang is how long one command may take before it counts as hung, on an
// emulated host with other work beside it.
const hang = 4 * time.Minute

// shared is the sandbox that tests which do not change its life share.
const shared = "shared"

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	home, err := os.MkdirTemp("", "agentkernel-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(home)
	os.Setenv("AGENTKERNEL_HOME", filepath.Join(home, "state"))
	return m.Run()
}

// result is what a command left behind.
type result struct {
	code           int
	stdout, stderr string
}

// command prepares the program with args.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "agentkernel", args...)
	cmd.Cancel = func() error {
		t.Errorf("agentkernel %q hangs", args)
		return cmd.Process.Signal(syscall.SIGQUIT) // its goroutines tell where
	}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// finish runs cmd and returns its result. A death by signal N is code 128+N.
func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", cmd.Args, err)
	}
	return result{exitCode(cmd.ProcessState), out.String(), errs.String()}
}

func exitCode(s *os.ProcessState) int {
	if status := s.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal())
	}
	return s.ExitCode()
}

// ak runs the program with args and without standard input.
func ak(t *testing.T, args ...string) result {
	t.Helper()
	return finish(t, command(t, args...))
}

// must is ak for a command that has to succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	r := ak(t, args...)
	if r.code != 0 {
		t.Fatalf("agentkernel %q: exit %d, stderr %q", args, r.code, r.stderr)
	}
	return r.stdout
}

// expect compares a result with the code and the standard output wanted.
func expect(t *testing.T, what string, r result, code int, stdout string) {
	t.Helper()
	if r.code != code || r.stdout != stdout {
		t.Errorf("%s: exit %d, stdout %q, want %d, %q; stderr %q", what, r.code, r.stdout, code, stdout, r.stderr)
	}
}

// expectError wants exit code 125 or another and a sentence with every word.
func expectError(t *testing.T, what string, r result, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("%s: exit %d, want %d; stderr %q", what, r.code, code, r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("%s: stderr %q does not name %q", what, r.stderr, w)
		}
	}
}

// started makes and starts a sandbox that goes away with the test.
func started(t *testing.T, name string, options ...string) string {
	t.Helper()
	must(t, append(append([]string{"create"}, options...), name)...)
	t.Cleanup(func() { must(t, "remove", "-f", name) })
	must(t, "start", name)
	return name
}

// sandbox returns the running sandbox that tests share. It lives until the
// machine, or the state folder, goes.
func sandbox(t *testing.T) string {
	t.Helper()
	if r := ak(t, "exec", shared, "--", "true"); r.code == 0 {
		return shared
	}
	must(t, "create", shared)
	must(t, "start", shared)
	return shared
}

// waitFor asks again until the condition holds: for states that nothing
// announces, such as a process that is gone from the guest.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hang); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it never came", what)
		}
	}
}

// guestProcesses counts the guest's processes with the given name.
func guestProcesses(t *testing.T, name, process string) string {
	t.Helper()
	return strings.TrimSpace(must(t, "exec", "-u", "root", name, "--", "sh", "-c", "pidof "+process+" | wc -w"))
}

// vmmPID finds a sandbox's VMM.
func vmmPID(t *testing.T, name string) int {
	t.Helper()
	pid, err := measure.VMM(name)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// random is an endless stream of bytes that nobody else has.
func random() io.Reader {
	f, err := os.Open("/dev/urandom")
	if err != nil {
		panic(err)
	}
	return f
}
