package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/host"
	"github.com/agentkernel/agentkernel/host/hosttest"
	"github.com/agentkernel/agentkernel/host/vmm"
)

// actAsCLI makes the test binary a command line with the fake VMM.
const actAsCLI = "CLI_TEST_ACT_AS_CLI"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == vmm.Command {
		os.Exit(hosttest.Main(os.Args[2:]))
	}
	if os.Getenv(actAsCLI) != "" {
		os.Unsetenv(actAsCLI)
		os.Exit(run(context.Background(), os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, openFake))
	}
	os.Exit(m.Run())
}

func openFake(home string) (*host.Host, error) {
	h, err := host.Open(home)
	if err == nil {
		h.Device = hosttest.Device
	}
	return h, err
}

// shell is a state directory of its own with the command line on it.
type shell struct {
	t    *testing.T
	home string
}

func newShell(t *testing.T) *shell {
	s := &shell{t: t, home: filepath.Join(t.TempDir(), "home")}
	t.Setenv(host.HomeVariable, s.home)
	t.Cleanup(func() {
		for _, name := range strings.Fields(s.ok("list", "-q")) {
			s.ok("rm", "-f", name)
		}
		if left, _ := os.ReadDir(filepath.Join(s.home, "sandboxes")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return s
}

func (s *shell) run(in string, args ...string) (code int, out, errs string) {
	s.t.Helper()
	var o, e bytes.Buffer
	code = run(context.Background(), args, Streams{In: strings.NewReader(in), Out: &o, Err: &e}, openFake)
	return code, o.String(), e.String()
}

// ok runs a command that must succeed and returns its output.
func (s *shell) ok(args ...string) string {
	s.t.Helper()
	code, out, errs := s.run("", args...)
	if code != 0 || errs != "" {
		s.t.Fatalf("%q: code %d, %s", args, code, errs)
	}
	return out
}

func (s *shell) up(name string) {
	s.t.Helper()
	s.ok("create", name)
	s.ok("start", name)
}

// The examples of spec/exec-attach.md, as written.
func TestSpecExamples(t *testing.T) {
	s := newShell(t)
	s.up("my-sandbox")
	t.Chdir(t.TempDir())
	show := `for a; do printf "<%s>" "$a"; done; echo " $API_KEY $ANTHROPIC_API_KEY $DEBUG"`
	for name, script := range map[string]string{"script.sh": show, "claude": show} {
		if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir, _ := os.Getwd()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"exec", "my-sandbox", "--", "echo", "hello"}, "hello\n"},
		{[]string{"exec", "my-sandbox", "-w", dir, "--", "ls", "-a", "claude"}, "claude\n"},
		{[]string{"exec", "my-sandbox", "-e", "API_KEY=secret", "-w", dir, "--", "./script.sh"}, " secret  \n"},
		{[]string{"exec", "my-sandbox", "-e", "ANTHROPIC_API_KEY=k", "-e", "DEBUG=true", "-w", dir, "--", "./claude", "-p", "Hello"},
			"<-p><Hello>  k true\n"},
		{[]string{"exec", "my-sandbox", "-e", "ANTHROPIC_API_KEY=", "-e", "DEBUG=true", "-w", dir, "--", "./claude", "-p", "Hello"},
			"<-p><Hello>   true\n"},
		{[]string{"exec", "my-sandbox", "-w", dir, "--", "sh", "-c", "echo $PWD && pwd"}, dir + "\n" + dir + "\n"},
	} {
		if out := s.ok(c.args...); out != c.want {
			t.Errorf("%q: %q, want %q", c.args, out, c.want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	s := newShell(t)
	s.up("box")
	s.ok("create", "down")
	for _, c := range []struct {
		code int
		err  string // part of standard error; "" for none at all
		args string
	}{
		{0, "", "exec box true"},
		{37, "", "exec box -- sh -c exit\x0037"},
		{255, "", "exec box -- sh -c exit\x00255"},
		{137, "", "exec box -- sh -c kill\x00-9\x00$$"},
		{143, "", "exec box -- sh -c kill\x00$$"},
		{127, "agentkernel: exec: ", "exec box nowhere-to-be-found"},
		{126, "agentkernel: exec: ", "exec box /etc/passwd"},
		{137, "agentkernel create --memory", "exec box oom"},
		{125, `agentkernel: exec: sandbox "down" is not started yet (start it with: agentkernel start down)`, "exec down true"},
		{125, `there is no sandbox "nope" (see: agentkernel list)`, "exec nope true"},
		{125, "not a valid sandbox name", "exec ../x true"},
		{125, "lost", "exec box lose-connection"},
		{125, "see: agentkernel exec --help", "exec box"},
		{125, "no command is given", "exec box --"},
		{125, "unknown flag --typo (see: agentkernel exec --help)", "exec box --typo true"},
		{125, "unknown flag -x", "exec -x box true"},
		{125, "unknown flag --bogus", "run --bogus -- true"},
		{125, "unknown flag -Z", "run -Z true"},
		{125, "", "bogus"},
		{125, "no command is given (see: agentkernel --help)", ""},
		{125, "-e", "exec box -e SURELY_NOT_SET_HERE true"},
		{125, "has no key", "exec box -e =x true"},
		{125, "no such file", "exec box --env-file /nowhere true"},
		{125, "not a time", "exec box --timeout soon true"},
		{125, "sandbox \"box\" is running (stop it with: agentkernel stop box)", "start box"},
		{125, "is running", "remove box"},
		{125, "exists already", "create box"},
		{125, "not within", "create --memory 63M x"},
		{125, "not within", "create --cpus 33 x"},
		{125, "not within", "create --cpus 0 x"},
		{125, "kernel", "create --kernel /nowhere x"},
		{125, "there is no sandbox", "logs nope"},
		{125, "unknown flag --force", "list --force"},
		{125, "unexpected argument", "list box"},
	} {
		args := strings.Fields(c.args)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "\x00", " ")
		}
		code, out, errs := s.run("", args...)
		if code != c.code || out != "" || !strings.Contains(errs, c.err) || c.code < 125 && errs != "" {
			t.Errorf("%q: code %d, %q, %q; want %d, %q", args, code, out, errs, c.code, c.err)
		}
		if strings.Count(errs, "\n") > 1 {
			t.Errorf("%q: more than one line: %q", args, errs)
		}
	}
}

func TestOptionsStopAtTheCommand(t *testing.T) {
	s := newShell(t)
	s.up("box")
	print := []string{"printf", "<%s>"}
	for _, c := range []struct {
		before, after []string
		want          string
	}{
		{[]string{"exec", "box"}, []string{"-e", "A=1"}, "<-e><A=1>"},
		{[]string{"exec", "box", "--"}, []string{"-e", "A=1"}, "<-e><A=1>"},
		{[]string{"exec", "box", "--"}, []string{"--", "x", "--"}, "<--><x><-->"},
		{[]string{"exec", "box"}, []string{"--", "x"}, "<--><x>"},
		{[]string{"exec", "--", "box"}, []string{"x"}, "<x>"},
		{[]string{"exec", "-e", "A=1", "box", "-e", "B=2"}, []string{"--help"}, "<--help>"},
		{[]string{"exec", "box"}, []string{"", "a b", "\xff\n"}, "<><a b><\xff\n>"},
		{[]string{"run"}, []string{"-h"}, "<-h>"},
		{[]string{"run", "--cpus", "2", "--"}, []string{"--cpus=3"}, "<--cpus=3>"},
	} {
		args := slices.Concat(c.before, print, c.after)
		if out := s.ok(args...); out != c.want {
			t.Errorf("%q: %q, want %q", args, out, c.want)
		}
	}
}

func TestEnvironmentArrivesUnchanged(t *testing.T) {
	s := newShell(t)
	s.up("box")
	t.Setenv("FROM_HERE", "here, it=is")
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("A=file\nB=\"quoted\" #kept\nFROM_HERE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		name string
		want string
	}{
		{[]string{"-e", "A=1,2;3"}, "A", "1,2;3"},
		{[]string{"-e", "A=x=y="}, "A", "x=y="},
		{[]string{"-e", "A= a  b "}, "A", " a  b "},
		{[]string{"-e", "A=1\n2\t\\n"}, "A", "1\n2\t\\n"},
		{[]string{"-e", "A=\xff\xfe'\"$HOME`"}, "A", "\xff\xfe'\"$HOME`"},
		{[]string{"-e", "A="}, "A", ""},
		{[]string{"-e", "A=${x}%s"}, "A", "${x}%s"},
		{[]string{"-eA=-1"}, "A", "-1"},
		{[]string{"--env=A=1"}, "A", "1"},
		{[]string{"--env", "A=1"}, "A", "1"},
		{[]string{"-e", "FROM_HERE"}, "FROM_HERE", "here, it=is"},
		{[]string{"-e", "A=1", "-e", "A=2"}, "A", "2"},
		{[]string{"-e", "A=1", "--env-file", file}, "A", "1"},
		{[]string{"--env-file", file}, "A", "file"},
		{[]string{"--env-file", file}, "B", `"quoted" #kept`},
		{[]string{"--env-file", file}, "FROM_HERE", "here, it=is"},
	} {
		args := append([]string{"exec", "box"}, c.args...)
		args = append(args, "--", "sh", "-c", `printf "%s" "$`+c.name+`"`)
		if out := s.ok(args...); out != c.want {
			t.Errorf("%q: %q, want %q", args, out, c.want)
		}
	}
}

func TestStdin(t *testing.T) {
	s := newShell(t)
	s.up("box")
	if _, out, _ := s.run("ignored", "exec", "box", "cat"); out != "" {
		t.Errorf("without -i: %q", out)
	}
	if _, out, _ := s.run("a\x00b", "exec", "-i", "box", "cat"); out != "a\x00b" {
		t.Errorf("with -i: %q", out)
	}
}

func TestShow(t *testing.T) {
	s := newShell(t)
	s.ok("create", "--cpus", "2", "--memory", "2G", "box")
	name := strings.TrimSpace(s.ok("create"))
	if out := s.ok("ls"); !strings.HasPrefix(out, "NAME") || !strings.Contains(out, "box ") ||
		!strings.Contains(out, "created  2     2G") || !strings.Contains(out, name) {
		t.Errorf("list: %s", out)
	}
	var views []sandboxView
	if err := json.Unmarshal([]byte(s.ok("ls", "--json")), &views); err != nil || len(views) != 2 || views[0].Status == "" {
		t.Errorf("list --json: %v %v", views, err)
	}
	var view sandboxView
	if err := json.Unmarshal([]byte(s.ok("inspect", "--json", "box")), &view); err != nil || view.CPUs != 2 || view.MemoryMiB != 2048 {
		t.Errorf("inspect --json: %v %v", view, err)
	}
	s.ok("start", "box")
	if out := s.ok("inspect", "box"); !strings.Contains(out, "running") || !strings.Contains(out, "pid") {
		t.Errorf("inspect: %s", out)
	}
	if out := s.ok("logs", "box"); out != "booting box\n\x1b[31mlast words\x1b[0m\n" {
		t.Errorf("logs: %q", out)
	}
	if out := s.ok("logs", "--json", "box"); !strings.HasPrefix(out, `{"source":"console","line":"booting box"}`+"\n") {
		t.Errorf("logs --json: %q", out)
	}
	if out := s.ok("version"); !strings.HasPrefix(out, "agentkernel ") {
		t.Errorf("version: %q", out)
	}
}

// Whatever the guest says, standard error gets no control characters.
func TestGuestTextIsEscaped(t *testing.T) {
	s := newShell(t)
	name := hosttest.Refuses + "x"
	s.ok("create", name)
	code, _, errs := s.run("", "start", name)
	if code != 125 || strings.Contains(errs, "\x1b") || !strings.Contains(errs, `no \x1b root`) || !strings.Contains(errs, `console: \x1b[31mlast words`) {
		t.Errorf("%d %q", code, errs)
	}
	if out := s.ok("ls"); strings.Contains(out, "\x1b") || !strings.Contains(out, "died") {
		t.Errorf("list: %q", out)
	}
}

func TestStopIsIdempotent(t *testing.T) {
	s := newShell(t)
	s.up("box")
	s.ok("stop", "box")
	code, _, errs := s.run("", "stop", "box")
	if code != 0 || !strings.Contains(errs, `sandbox "box" is stopped`) {
		t.Errorf("%d %q", code, errs)
	}
}

func TestHomeUnset(t *testing.T) {
	t.Setenv("HOME", "")
	t.Setenv(host.HomeVariable, "")
	var out, errs bytes.Buffer
	code := Run(t.Context(), []string{"list"}, Streams{Out: &out, Err: &errs})
	if code != 125 || !strings.Contains(errs.String(), host.HomeVariable) {
		t.Errorf("%d %q", code, errs.String())
	}
}

// Every command has help that shows examples before its flags.
func TestHelp(t *testing.T) {
	for _, c := range commands() {
		var out, errs bytes.Buffer
		code := Run(t.Context(), []string{c.name, "--help"}, Streams{Out: &out, Err: &errs})
		text := out.String()
		if code != 0 || errs.Len() > 0 || !strings.Contains(text, "Examples:") ||
			strings.Index(text, "Examples:") > strings.Index(text, "Flags:") {
			t.Errorf("%s: %d %s %s", c.name, code, text, errs.String())
		}
	}
	var out bytes.Buffer
	if code := Run(t.Context(), []string{"--help"}, Streams{Out: &out}); code != 0 || !strings.Contains(out.String(), "exec") {
		t.Errorf("%s", out.String())
	}
}
