package session_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/host/guest"
)

func TestEcho(t *testing.T) {
	s := newServer(t)
	r := run(t, s, sh("echo hello; echo oops >&2; exit 37"), nil)
	if r.failure != nil || r.out != "hello\n" || r.err != "oops\n" || r.status.ExitCode() != 37 {
		t.Fatalf("%+v", r)
	}
}

// G8: every exit code, and what a signal is reported as.
func TestExitCodes(t *testing.T) {
	s := newServer(t)
	for code := range 256 {
		r := run(t, s, sh(fmt.Sprintf("exit %d", code)), nil)
		if r.failure != nil || r.status.ExitCode() != code || r.status.Signal != 0 {
			t.Fatalf("exit %d: %+v", code, r)
		}
	}
}

func TestKilledBySignal(t *testing.T) {
	s := newServer(t)
	for sig := syscall.Signal(1); sig < 32; sig++ {
		switch sig {
		case syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGURG, syscall.SIGWINCH:
			continue // ignored by default
		case syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
			continue // stop
		}
		r := run(t, s, sh(fmt.Sprintf("ulimit -c 0; kill -%d $$", sig)), nil)
		if r.failure != nil || r.status.Signal != sig || r.status.ExitCode() != 128+int(sig) {
			t.Errorf("signal %d: %+v", sig, r)
		}
	}
}

// G7: what cannot be started, and how it is said.
func TestCannotStart(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		write(t, path, text)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := file("plain", "#!/bin/sh\n", 0o644)
	noshebang := file("noshebang", "echo hi\n", 0o755)
	nointerp := file("nointerp", "#!/nonexistent/interp -x\n", 0o755)
	empty := file("empty", "", 0o755)
	loop := filepath.Join(dir, "loop")
	os.Symlink(loop, loop)
	long := make([]string, 20)
	for i := range long {
		long[i] = strings.Repeat("x", 127<<10)
	}
	one := func(arg string) guest.ExecRequest { return guest.ExecRequest{Args: []string{arg}} }
	in := func(arg, d string) guest.ExecRequest { return guest.ExecRequest{Args: []string{arg}, Dir: d} }
	env := func(kv ...string) guest.ExecRequest { return guest.ExecRequest{Args: []string{"true"}, Env: kv} }
	as := func(user string) guest.ExecRequest { return guest.ExecRequest{Args: []string{"true"}, User: user} }
	for _, tt := range []struct {
		name string
		req  guest.ExecRequest
		code int
		text string
	}{
		{"missing on PATH", one("no-such-command"), 127, "not found"},
		{"missing path", one("/no/such/command"), 127, "no such file"},
		{"a file as directory", one("/etc/passwd/x"), 127, "no such file"},
		{"missing relative", one("./no-such-command"), 127, "no such file"},
		{"empty name", one(""), 127, "not found"},
		{"no arguments", guest.ExecRequest{}, 125, "no command"},
		{"not executable", one(plain), 126, "permission denied"},
		{"relative not executable", in("./plain", dir), 126, "permission denied"},
		{"directory", one("/tmp"), 126, "is a directory"},
		{"no #! line", one(noshebang), 126, "#!"},
		{"empty file", one(empty), 126, "#!"},
		{"no interpreter", one(nointerp), 126, `"/nonexistent/interp"`},
		{"symlink loop", one(loop), 126, "symbolic links"},
		{"name too long", one("/" + strings.Repeat("y", 300)), 126, "too long"},
		{"E2BIG", guest.ExecRequest{Args: append([]string{"true"}, long...)}, 126, "argument list too long"},
		{"one argument too long", guest.ExecRequest{Args: []string{"true", strings.Repeat("x", 200<<10)}}, 126, "argument list too long"},
		{"not executable on PATH", guest.ExecRequest{Args: []string{"plain"}, Env: []string{"PATH=" + dir}}, 126, "permission denied"},
		{"missing directory", in("true", "/no/such/dir"), 125, `"/no/such/dir" does not exist`},
		{"directory is a file", in("true", plain), 125, "is not a directory"},
		{"relative directory", in("true", "tmp"), 125, "not an absolute path"},
		{"NUL in argument", guest.ExecRequest{Args: []string{"true", "a\x00b"}}, 125, "NUL"},
		{"NUL in variable", env("A=\x00"), 125, "NUL"},
		{"NUL in directory", in("true", "/\x00"), 125, "NUL"},
		{"NUL in command", one("/bin/\x00"), 125, "NUL"},
		{"empty key", env("=x"), 125, "KEY=VALUE"},
		{"no value", env("KEY"), 125, "KEY=VALUE"},
		{"unknown user", as("nobody-here"), 125, `user "nobody-here"`},
		{"unknown group", as("root:nogroup-here"), 125, `group "nogroup-here"`},
		{"empty group", as("root:"), 125, "USER:GROUP"},
		{"number too large", as("4294967295"), 125, "does not exist"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, s, tt.req, nil)
			e, ok := r.failure.(*guest.Error)
			if !ok || e.Code != tt.code || !strings.Contains(e.Message, tt.text) {
				t.Errorf("got %v %#v, want code %d and %q", r.failure, r.failure, tt.code, tt.text)
			}
		})
	}
	if r := run(t, s, sh("echo alive"), nil); r.out != "alive\n" {
		t.Errorf("afterwards: %+v", r)
	}
}

func TestLookup(t *testing.T) {
	s := newServer(t)
	a, b := t.TempDir(), t.TempDir()
	write(t, filepath.Join(a, "prog"), "#!/bin/sh\necho a\n") // not executable
	write(t, filepath.Join(b, "prog"), "#!/bin/sh\necho b\n")
	os.Chmod(filepath.Join(b, "prog"), 0o755)
	os.Mkdir(filepath.Join(a, "sub"), 0o755)
	for _, tt := range []struct{ name, path, dir, arg, want string }{
		{"goes past what it may not run", a + ":" + b, "/", "prog", "b\n"},
		{"relative entry", ".", b, "prog", "b\n"},
		{"empty entry", "", b, "prog", "b\n"},
		{"with a slash PATH is not asked", a, b, "./prog", "b\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, s, guest.ExecRequest{Args: []string{tt.arg}, Dir: tt.dir, Env: []string{"PATH=" + tt.path}}, nil)
			if r.out != tt.want {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	s := newServer(t)
	s.Env = []string{"IMAGE=1", "BOTH=image"}
	value := "commas,and;=equals \t\nnewlines\xff\x01"
	r := run(t, s, guest.ExecRequest{Args: []string{"env", "-0"}, Env: []string{"A=first", "BOTH=request", "A=" + value, "EMPTY="}}, nil)
	want := map[string]string{"HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh",
		"PATH":  "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"IMAGE": "1", "BOTH": "request", "A": value, "EMPTY": ""}
	for kv := range strings.SplitSeq(strings.TrimSuffix(r.out, "\x00"), "\x00") {
		key, v, _ := strings.Cut(kv, "=")
		if w, ok := want[key]; !ok || w != v {
			t.Errorf("%q = %q, want %q", key, v, w)
		}
		delete(want, key)
	}
	if len(want) > 0 {
		t.Errorf("missing: %q", want)
	}
}

func TestManyVariables(t *testing.T) {
	s := newServer(t)
	req := guest.ExecRequest{Args: []string{"sh", "-c", "env | grep -c ^MANY_"}}
	for i := range 10000 {
		req.Env = append(req.Env, fmt.Sprintf("MANY_%d=%d", i, i))
	}
	if r := run(t, s, req, nil); r.out != "10000\n" {
		t.Errorf("%+v", r)
	}
}

func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	s := newServer(t)
	s.User = "developer"
	for _, tt := range []struct{ user, want string }{
		{"", "1000 1000 1000 44 /home/developer"},
		{"guest", "1001 1001 1001 /home/guest"},
		{"1000", "1000 1000 1000 44 /home/developer"},
		{"developer:root", "1000 0 0 /home/developer"},
		{"root:44", "0 44 44 /root"},
		{"4711", "4711 4711 4711 /"},
		{"4711:12", "4711 12 12 /"},
	} {
		r := run(t, s, guest.ExecRequest{User: tt.user, Args: []string{"sh", "-c", "echo $(id -u) $(id -g) $(id -G) $HOME"}}, nil)
		if r.out != tt.want+"\n" {
			t.Errorf("%q: got %q %v, want %q", tt.user, r.out+r.err, r.failure, tt.want)
		}
	}
}

// The pipes belong to the user: /dev/stdout can be opened again.
func TestUserOpensItsPipes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	s := newServer(t)
	req := sh("cat </dev/stdin >/dev/stdout; echo err >/dev/stderr")
	req.User = "developer"
	r := run(t, s, req, strings.NewReader("in\n"))
	if r.out != "in\n" || r.err != "err\n" {
		t.Errorf("%+v", r)
	}
}

// Permissions are the target user's, and the fault is named.
func TestPermissionsOfUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	s := newServer(t)
	open := t.TempDir()
	closed := filepath.Join(open, "closed")
	os.MkdirAll(closed, 0o700)
	for d := open; d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	os.Chmod("/tmp", 0o777|os.ModeSticky)
	write(t, filepath.Join(closed, "prog"), "#!/bin/sh\necho ran\n")
	os.Chmod(filepath.Join(closed, "prog"), 0o755)
	for _, tt := range []struct {
		name string
		req  guest.ExecRequest
		code int
		text string
	}{
		{"directory", guest.ExecRequest{Args: []string{"true"}, Dir: closed}, 125, "permission denied for user 1000"},
		{"program", guest.ExecRequest{Args: []string{closed + "/prog"}}, 126, "permission denied"},
		{"on PATH", guest.ExecRequest{Args: []string{"prog"}, Env: []string{"PATH=" + closed}}, 126, "permission denied"},
	} {
		tt.req.User = "developer"
		r := run(t, s, tt.req, nil)
		e, ok := r.failure.(*guest.Error)
		if !ok || e.Code != tt.code || !strings.Contains(e.Message, tt.text) {
			t.Errorf("%s: %v", tt.name, r.failure)
		}
	}
}

// A child starts with nothing but its three descriptors, default signals, an
// empty mask and a session of its own.
func TestCleanChild(t *testing.T) {
	s := newServer(t)
	r := run(t, s, sh(`ls /proc/self/fd | wc -l; grep -E 'SigBlk|SigIgn' /proc/self/status; `+
		`set -- $(cat /proc/$$/stat); [ "$1" = "$5" ] && [ "$1" = "$6" ] && echo own`), nil)
	want := "4\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nown\n"
	if r.out != want {
		t.Errorf("got %q, want %q", r.out, want)
	}
}
