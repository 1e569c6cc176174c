package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/host"
)

// command returns a process of the command line.
func (s *shell) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), actAsCLI+"=1")
	return cmd
}

// begin starts a command whose first line of output is "ready", and returns
// the reader of the rest when it has come.
func begin(t *testing.T, cmd *exec.Cmd) *bufio.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	return r
}

func exitOf(t *testing.T, err error) int {
	t.Helper()
	var e *exec.ExitError
	if err == nil {
		return 0
	}
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	return e.ExitCode()
}

// waitEOF waits until every process that has the pipe's other end is gone.
func waitEOF(t *testing.T, r io.Reader) {
	t.Helper()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	s := newShell(t)
	s.up("box")
	for name, sig := range map[string]syscall.Signal{
		"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP,
		"QUIT": syscall.SIGQUIT, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
	} {
		cmd := s.command("exec", "box", "sh", "-c", "trap 'echo got "+name+"; exit 9' "+name+"; echo ready; while :; do sleep 0.01; done")
		r := begin(t, cmd)
		cmd.Process.Signal(sig)
		rest, _ := io.ReadAll(r)
		if code := exitOf(t, cmd.Wait()); code != 9 || string(rest) != "got "+name+"\n" {
			t.Errorf("%s: code %d, %q", name, code, rest)
		}
	}
}

func TestThirdInterruptGivesUp(t *testing.T) {
	s := newShell(t)
	s.up("box")
	cmd := s.command("exec", "box", "sh", "-c", "trap 'echo got' INT; echo ready; while :; do sleep 0.01; done")
	r := begin(t, cmd)
	for i := range giveUpAfter {
		cmd.Process.Signal(syscall.SIGINT)
		if i < giveUpAfter-1 {
			if line, _ := r.ReadString('\n'); line != "got\n" {
				t.Fatalf("%q", line)
			}
		}
	}
	waitEOF(t, r)
	if code := exitOf(t, cmd.Wait()); code != 130 {
		t.Errorf("code %d", code)
	}
}

// exec box yes | head -1
func TestBrokenPipe(t *testing.T) {
	s := newShell(t)
	s.up("box")
	for _, args := range [][]string{{"exec", "box"}, {"run"}} {
		cmd := s.command(append(args, "sh", "-c", "echo ready; exec yes")...)
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.Read(make([]byte, 6))
		out.Close()
		if code := exitOf(t, cmd.Wait()); code != 141 || errs.Len() > 0 {
			t.Errorf("%s: code %d, %q", args, code, errs.String())
		}
	}
}

// A command line that is killed takes its ephemeral sandbox along, and what it
// could not remove is swept by the next one.
func TestKilledRun(t *testing.T) {
	s := newShell(t)
	cmd := s.command("run", "--name", "box", "sh", "-c", "echo ready; sleep 1000")
	begin(t, cmd)
	h, err := openFake(s.home)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := h.Wait(t.Context(), "box"); err != nil && !errors.Is(err, host.ErrNotFound) {
		t.Error(err)
	}
	if out := s.ok("list", "-q"); out != "" {
		t.Errorf("still there: %s", out)
	}
}

func TestForeground(t *testing.T) {
	s := newShell(t)
	s.ok("create", "box")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		cmd := s.command("start", "--foreground", "box")
		out, _ := cmd.StderrPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s.awaitRunning("box")
		cmd.Process.Signal(sig)
		waitEOF(t, out)
		if code := exitOf(t, cmd.Wait()); code != 0 {
			t.Errorf("%v: code %d", sig, code)
		}
		if out := s.ok("inspect", "box"); !strings.Contains(out, "stopped") {
			t.Errorf("%v: %s", sig, out)
		}
	}
	cmd := s.command("start", "--foreground", "box")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.awaitRunning("box")
	s.run("", "exec", "box", "kill-vmm")
	if code := exitOf(t, cmd.Wait()); code != 125 {
		t.Errorf("killed: code %d", code)
	}
}

// awaitRunning returns when the sandbox takes commands.
func (s *shell) awaitRunning(name string) {
	s.t.Helper()
	for {
		if code, _, _ := s.run("", "exec", name, "true"); code == 0 {
			return
		}
	}
}

// A VMM must not keep the pipes of whoever started it (moby's and runc's old bug).
func TestVMMKeepsNoPipe(t *testing.T) {
	s := newShell(t)
	s.ok("create", "box")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := s.command("start", "box")
	cmd.ExtraFiles = []*os.File{w}
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%s %v", out, err)
	}
	w.Close()
	waitEOF(t, r)
	s.ok("exec", "box", "true")
}

// Secrets (-e) are nowhere on disk and in no VMM's arguments or environment.
func TestSecretsStayInMemory(t *testing.T) {
	s := newShell(t)
	const canary = "canary-5f1d"
	s.up("box")
	s.ok("exec", "box", "-e", "KEY="+canary, "true")
	pid := ""
	for _, line := range strings.Split(s.ok("inspect", "box"), "\n") {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "pid" {
			pid = f[1]
		}
	}
	files, _ := filepath.Glob(filepath.Join(s.home, "sandboxes/box/*"))
	files = append(files, "/proc/"+pid+"/cmdline", "/proc/"+pid+"/environ")
	read := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // a socket
		}
		read++
		if strings.Contains(string(data), canary) {
			t.Errorf("%s has the secret", file)
		}
	}
	if read < 6 {
		t.Errorf("only %d files were read", read)
	}
}
