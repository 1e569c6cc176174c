//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestRun(t *testing.T) {
	expect(t, "echo", ak(t, "run", "--", "echo", "hello"), 0, "hello\n")
	expect(t, "exit code", ak(t, "run", "--", "sh", "-c", "exit 37"), 37, "")
	expect(t, "base system", ak(t, "run", "--", "sh", "-c", "whoami; pwd; uname -r | cut -d- -f2"), 0, "developer\n/workspace\nagentkernel\n")
	if left := must(t, "list", "--json"); strings.Contains(left, "run-") {
		t.Errorf("a sandbox stayed behind: %s", left)
	}
	r := ak(t, "run", "--keep", "--name", "kept", "--", "sh", "-c", "echo x > /workspace/f")
	expect(t, "--keep", r, 0, "")
	if !strings.Contains(must(t, "list"), "kept") {
		t.Error("--keep did not keep the sandbox")
	}
	must(t, "remove", "-f", "kept")
}

// The examples of the specification, as they are written there.
func TestSpecExamples(t *testing.T) {
	sb := started(t, "my-sandbox")
	root := func(script string) { must(t, "exec", "-u", "root", sb, "--", "sh", "-c", script) }
	root(`printf '#!/bin/sh\necho "key=$API_KEY"\n' > /workspace/script.sh; chmod +x /workspace/script.sh`)
	root(`printf '#!/bin/sh\necho "args: $*"; echo "key=${ANTHROPIC_API_KEY-unset} debug=$DEBUG"\n' > /usr/bin/claude; chmod +x /usr/bin/claude`)
	root(`printf '#!/bin/sh\necho 2\n' > /usr/bin/python3; chmod +x /usr/bin/python3`)

	shell := func(line string, env ...string) result {
		cmd := exec.Command("sh", "-c", line)
		cmd.Env = append(os.Environ(), env...)
		return finish(t, cmd)
	}
	expect(t, "simple", shell(`agentkernel exec my-sandbox -- echo "hello"`), 0, "hello\n")
	if r := shell(`agentkernel exec my-sandbox -- ls -la /workspace`); r.code != 0 || !strings.Contains(r.stdout, "script.sh") {
		t.Errorf("ls: %+v", r)
	}
	expect(t, "env", shell(`agentkernel exec my-sandbox -e API_KEY=secret -- ./script.sh`), 0, "key=secret\n")
	claude := "agentkernel exec my-sandbox \\\n  -e ANTHROPIC_API_KEY=$ANTHROPIC_API_KEY \\\n  -e DEBUG=true \\\n  -- claude -p \"Hello\""
	expect(t, "claude, key set", shell(claude, "ANTHROPIC_API_KEY=sk-1"), 0, "args: -p Hello\nkey=sk-1 debug=true\n")
	expect(t, "claude, key unset", shell("unset ANTHROPIC_API_KEY; "+claude), 0, "args: -p Hello\nkey= debug=true\n")
	expect(t, "shell", shell(`agentkernel exec my-sandbox -- sh -c "echo \$HOME && pwd"`), 0, "/home/developer\n/workspace\n")
	expect(t, "python", shell(`agentkernel exec my-sandbox -- python3 -c "print(1+1)"; echo $?`), 0, "2\n0\n")
}

func TestExitCodes(t *testing.T) {
	sb := sandbox(t)
	for _, code := range []int{0, 1, 2, 124, 125, 126, 127, 128, 254, 255} {
		expect(t, fmt.Sprint("exit ", code), ak(t, "exec", sb, "--", "sh", "-c", fmt.Sprint("exit ", code)), code, "")
	}
	expect(t, "killed", ak(t, "exec", sb, "--", "sh", "-c", "kill -9 $$"), 137, "")
	expectError(t, "not found", ak(t, "exec", sb, "--", "no-such-program"), 127, "no-such-program")
	expectError(t, "not executable", ak(t, "exec", sb, "--", "/etc/passwd"), 126, "/etc/passwd")
	expectError(t, "a directory", ak(t, "exec", sb, "--", "/etc"), 126, "/etc")
	expectError(t, "no such user", ak(t, "exec", "-u", "nobody-here", sb, "--", "true"), 125, "nobody-here")
	expectError(t, "no such directory", ak(t, "exec", "-w", "/nowhere", sb, "--", "true"), 125, "/nowhere")
	expectError(t, "no such sandbox", ak(t, "exec", "missing", "--", "true"), 125, "missing")
	expectError(t, "no command", ak(t, "exec", sb), 125)
	expectError(t, "unknown flag", ak(t, "exec", "--no-such-flag", sb, "--", "true"), 125, "no-such-flag")
	expectError(t, "timeout", ak(t, "exec", "--timeout", "1s", "--kill-after", "1s", sb, "--", "sh", "-c", "trap '' TERM; while :; do sleep 1; done"), 124)
	if n := guestProcesses(t, sb, "sleep"); n != "0" {
		t.Errorf("%s processes survived the timeout", n)
	}
}

func TestEnvironment(t *testing.T) {
	sb := sandbox(t)
	value := "a,b=c d;e\nf\xff\x01é"
	for _, args := range [][]string{
		{"exec", "-e", "V=" + value, sb, "--", "sh", "-c", `printf "%s\n" "$V"`},
		{"exec", sb, "-e", "V=" + value, "--", "sh", "-c", `printf "%s\n" "$V"`},
		{"exec", sb, "-e", "V=first", "-e", "V=" + value, "sh", "-c", `printf "%s\n" "$V"`},
	} {
		expect(t, fmt.Sprint(args), ak(t, args...), 0, value+"\n")
	}
	expect(t, "empty value", ak(t, "exec", "-e", "V=", sb, "--", "sh", "-c", `echo "${V-unset}."`), 0, ".\n")
	expect(t, "the command's own flags", ak(t, "exec", sb, "echo", "-e", "V=1"), 0, "V=1\n")
	inherit := command(t, "exec", "-e", "FROM_HERE", sb, "--", "sh", "-c", `echo "$FROM_HERE"`)
	inherit.Env = append(os.Environ(), "FROM_HERE=x y")
	expect(t, "inherited", finish(t, inherit), 0, "x y\n")
	expectError(t, "unset", ak(t, "exec", "-e", "NOT_SET_AT_ALL", sb, "--", "true"), 125, "NOT_SET_AT_ALL")
	expectError(t, "empty key", ak(t, "exec", "-e", "=x", sb, "--", "true"), 125)
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("# comment\nA=from file\nB=from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, "--env-file", ak(t, "exec", "--env-file", file, "-e", "B=later", sb, "--", "sh", "-c", "echo $A, $B"), 0, "from file, later\n")
	expect(t, "defaults", ak(t, "exec", sb, "--", "sh", "-c", "echo $HOME $USER $SHELL; id -u; pwd"), 0, "/home/developer developer /bin/sh\n1000\n/workspace\n")
	expect(t, "root", ak(t, "exec", "-u", "root", "-w", "/tmp", sb, "--", "sh", "-c", "echo $HOME $USER; id -u; pwd"), 0, "/root root\n0\n/tmp\n")
	expect(t, "user and group", ak(t, "exec", "-u", "1000:0", sb, "--", "sh", "-c", "id -u; id -g"), 0, "1000\n0\n")
}

func TestStreams(t *testing.T) {
	sb := sandbox(t)
	r := ak(t, "exec", sb, "--", "sh", "-c", "echo out; echo err >&2; printf '\\000\\377'")
	if r.stdout != "out\n\x00\xff" || r.stderr != "err\n" {
		t.Errorf("%+v", r)
	}
	in := command(t, "exec", "-i", sb, "--", "cat")
	in.Stdin = strings.NewReader("half-close reaches the guest\n")
	expect(t, "stdin", finish(t, in), 0, "half-close reaches the guest\n")
	none := command(t, "exec", sb, "--", "wc", "-c")
	none.Stdin = strings.NewReader("nobody reads this")
	expect(t, "no stdin without -i", finish(t, none), 0, "0\n")
}

// A command's output arrives while the command runs.
func TestOutputIsLive(t *testing.T) {
	cmd := command(t, "exec", "-i", sandbox(t), "--", "sh", "-c", "echo first; read x; echo $x")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	for _, want := range []string{"first\n", "second\n"} {
		if line, err := lines.ReadString('\n'); err != nil || line != want {
			t.Fatalf("%q, %v; want %q", line, err, want)
		}
		io.WriteString(stdin, "second\n")
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// A client that reads only stderr gets all of it while stdout is full, and
// the exit too.
func TestStderrPassesAFullStdout(t *testing.T) {
	const size = 4 << 20
	cmd := command(t, "exec", sandbox(t), "--", "sh", "-c", fmt.Sprintf("yes | head -c %d & head -c %d /dev/zero >&2; echo end >&2; wait", size, size))
	stdout, _ := cmd.StdoutPipe()
	stderr, _ := cmd.StderrPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	errs, err := readUntil(stderr, "end\n")
	if err != nil || len(errs) != size+len("end\n") {
		t.Fatalf("stderr: %d bytes, %v", len(errs), err)
	}
	out, err := io.ReadAll(stdout)
	if err != nil || len(out) != size {
		t.Fatalf("stdout: %d bytes, %v", len(out), err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func readUntil(r io.Reader, end string) ([]byte, error) {
	var all []byte
	for buf := make([]byte, 64<<10); !bytes.HasSuffix(all, []byte(end)); {
		n, err := r.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func TestSignals(t *testing.T) {
	sb := sandbox(t)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2} {
		cmd := command(t, "exec", sb, "--", "sh", "-c", fmt.Sprintf("trap 'echo got; exit 9' %d; echo ready; while :; do sleep 0.1; done", s))
		stdout, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(stdout)
		if line, err := lines.ReadString('\n'); line != "ready\n" {
			t.Fatalf("%v: %q, %v", s, line, err)
		}
		cmd.Process.Signal(s)
		if line, err := lines.ReadString('\n'); line != "got\n" {
			t.Errorf("%v: %q, %v", s, line, err)
		}
		cmd.Wait()
		if code := exitCode(cmd.ProcessState); code != 9 {
			t.Errorf("%v: exit %d", s, code)
		}
	}
}

// Nothing stays in the guest when the client goes.
func TestNoProcessStaysBehind(t *testing.T) {
	sb := sandbox(t)
	pipe := exec.Command("sh", "-c", "agentkernel exec "+sb+" -- yes | head -1")
	expect(t, "yes | head -1", finish(t, pipe), 0, "y\n")
	waitFor(t, "the end of yes", func() bool { return guestProcesses(t, sb, "yes") == "0" })

	cmd := command(t, "exec", sb, "--", "sh", "-c", "sleep 4321 & echo ready; exec sleep 4322")
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bufio.NewReader(stdout).ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	waitFor(t, "the end of a killed client's command", func() bool { return guestProcesses(t, sb, "sleep") == "0" })
}

func TestOpenStdinHoldsNothingBack(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, args := range [][]string{{"exec", sandbox(t), "--", "true"}, {"exec", "-i", sandbox(t), "--", "true"}} {
		cmd := command(t, args...)
		cmd.Stdin = r
		expect(t, fmt.Sprint(args), finish(t, cmd), 0, "")
	}
}

func TestGrandchildHoldsNothingBack(t *testing.T) {
	sb := started(t, "grandchild")
	expect(t, "background job", ak(t, "exec", sb, "--", "sh", "-c", "sleep 600 & echo ok"), 0, "ok\n")
	if n := guestProcesses(t, sb, "sleep"); n != "1" {
		t.Errorf("%s sleeps live on, want 1", n)
	}
	// Later output is discarded: the writer neither dies nor blocks.
	ak(t, "exec", sb, "--", "sh", "-c", "(trap 'echo pipe > /workspace/died' PIPE; i=0; while [ $i -lt 300 ]; do head -c 4096 /dev/zero; i=$((i+1)); done; echo done > /workspace/wrote) & echo ok")
	waitFor(t, "the writer's end", func() bool {
		return ak(t, "exec", sb, "--", "cat", "/workspace/wrote").stdout == "done\n"
	})
	if r := ak(t, "exec", sb, "--", "cat", "/workspace/died"); r.code == 0 {
		t.Error("the grandchild got SIGPIPE")
	}
}

// 50 execs at once, each with a MiB of its own.
func TestParallelExecs(t *testing.T) {
	sb := sandbox(t)
	const execs, size = 50, 1 << 20
	var wg sync.WaitGroup
	for i := range execs {
		data := make([]byte, size)
		if _, err := io.ReadFull(random(), data); err != nil {
			t.Fatal(err)
		}
		cmd := command(t, "exec", "-i", sb, "--", "cat")
		cmd.Stdin = bytes.NewReader(data)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		wg.Go(func() {
			if err := cmd.Run(); err != nil || !bytes.Equal(out.Bytes(), data) {
				t.Errorf("exec %d: %v, %d bytes back, stderr %q", i, err, out.Len(), errs.String())
			}
		})
	}
	wg.Wait()
}

func TestSequence(t *testing.T) {
	sb := started(t, "sequence")
	for i := range 200 {
		if r := ak(t, "exec", sb, "--", "sh", "-c", "exit "+strconv.Itoa(i%256)); r.code != i%256 {
			t.Fatalf("exec %d: exit %d, stderr %q", i, r.code, r.stderr)
		}
	}
	must(t, "stop", sb)
	must(t, "start", sb)
	expect(t, "after a restart", ak(t, "exec", sb, "--", "echo", "again"), 0, "again\n")
}
