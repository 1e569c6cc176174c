package store

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Crash points: a child process does one thing to a store and kills itself
// right before its k-th change to the disk, for every k. Afterwards the store
// must be whole: what existed is as it was or as it was to be, nothing is half
// made, everything can be done again, and a sweep leaves nothing behind.

const (
	crashVariable = "STORE_TEST_CRASH" // "what k home" for the child
	crashCode     = 42
)

func TestMain(m *testing.M) {
	if job := os.Getenv(crashVariable); job != "" {
		var what, home string
		var k int
		if _, err := fmt.Sscanf(job, "%s %d %s", &what, &k, &home); err != nil {
			panic(err)
		}
		step := func(string, string) error {
			if k--; k < 0 {
				os.Exit(crashCode) // nothing deferred runs; locks go with the process
			}
			return nil
		}
		if err := jobs[what](home, step); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type stepFunc = func(op, name string) error

// jobs are the things that change a store.
var jobs = map[string]func(home string, step stepFunc) error{
	"create":    func(home string, step stepFunc) error { return doCreate(home, step, false) },
	"ephemeral": func(home string, step stepFunc) error { return doCreate(home, step, true) },
	"start": func(home string, step stepFunc) error {
		return withHeld(home, step, func(h *Held) error {
			f, err := h.Prepare()
			if err != nil {
				return err
			}
			defer f.Close()
			if err := h.NotePid(1); err != nil {
				return err
			}
			return RecordExit(f.Exit, Exit{Kind: ExitStopped})
		})
	},
	"remove": func(home string, step stepFunc) error {
		return withHeld(home, step, func(h *Held) error { return h.Remove(ctxForTest) })
	},
	"sweep": func(home string, step stepFunc) error {
		s, err := open(home, step)
		if err != nil {
			return err
		}
		defer s.Close()
		return s.Sweep(ctxForTest)
	},
}

func doCreate(home string, step stepFunc, ephemeral bool) error {
	s, err := open(home, step)
	if err != nil {
		return err
	}
	defer s.Close()
	c := testConfig("new")
	c.Ephemeral = ephemeral
	h, err := s.Create(ctxForTest, c)
	if err == nil {
		h.Release()
		h.Close()
	}
	return err
}

func withHeld(home string, step stepFunc, do func(*Held) error) error {
	s, err := open(home, step)
	if err != nil {
		return err
	}
	defer s.Close()
	b, err := s.Open("old")
	if err != nil {
		return err
	}
	defer b.Close()
	h, err := b.Acquire(ctxForTest)
	if err != nil {
		return err
	}
	defer h.Release()
	return do(h)
}

// prepareHome makes a store with the sandbox "old", stopped, and the leftovers
// of dead commands.
func prepareHome(t *testing.T) string {
	t.Helper()
	home := filepath.Join(t.TempDir(), "h")
	s, err := Open(home)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	create(t, s, testConfig("old"))
	h := acquire(t, s, "old")
	f, err := h.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	if err := RecordExit(f.Exit, Exit{Kind: ExitStopped, Reason: "by request"}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	h.Release()
	h.Close()
	os.Mkdir(filepath.Join(s.boxes.path, newPrefix+"1"), 0o700)
	os.MkdirAll(filepath.Join(s.boxes.path, delPrefix+"2", "x"), 0o700)
	c := testConfig("dead")
	c.Ephemeral = true
	create(t, s, c)
	return home
}

// checkHome checks the invariants.
func checkHome(t *testing.T, home, what string, done bool) {
	t.Helper()
	s, err := Open(home)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	names, err := s.Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := s.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Config(); err != nil && name != "dead" { // a sweep may have died in it; its name was .del- then
			t.Errorf("%s is half made: %v", name, err)
		}
		if h, err := b.Holder(ctxForTest); err != nil || h != (Holder{}) {
			t.Errorf("%s: %+v %v", name, h, err)
		}
		b.Close()
	}
	has := func(name string) bool { return strings.Contains(" "+strings.Join(names, " ")+" ", " "+name+" ") }
	if what != "remove" && !has("old") || what == "remove" && done && has("old") {
		t.Errorf("old: %v", names)
	}
	if (what == "create" || what == "ephemeral") && done && !has("new") {
		t.Errorf("new: %v", names)
	}
	if has("old") && what != "start" {
		checkStopped(t, home)
	}
	again(t, s, has)
}

func checkStopped(t *testing.T, home string) {
	t.Helper()
	s, err := Open(home)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, err := s.Open("old")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if e, _, _, err := b.Exit(); err != nil || !e.Orderly() {
		t.Errorf("old: %+v %v", e, err)
	}
}

// again does everything once more, and sweeps: nothing may be left.
func again(t *testing.T, s *Store, has func(string) bool) {
	t.Helper()
	if has("old") {
		h := acquire(t, s, "old")
		f, err := h.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := h.Remove(ctxForTest); err != nil {
			t.Error(err)
		}
		h.Release()
		h.Close()
	}
	if has("new") {
		h := acquire(t, s, "new")
		if err := h.Remove(ctxForTest); err != nil {
			t.Error(err)
		}
		h.Release()
		h.Close()
	}
	create(t, s, testConfig("new"))
	if err := s.Sweep(ctxForTest); err != nil {
		t.Error(err)
	}
	left, err := s.boxes.names()
	if err != nil || len(left) != 1 || left[0] != "new" {
		t.Errorf("left after a sweep: %q %v", left, err)
	}
}

func TestCrashPoints(t *testing.T) {
	for what := range jobs {
		t.Run(what, func(t *testing.T) {
			for k := 0; ; k++ {
				if k > 200 {
					t.Fatal("no end")
				}
				home := prepareHome(t)
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = []string{crashVariable + "=" + what + " " + strconv.Itoa(k) + " " + home}
				out, err := cmd.CombinedOutput()
				code := cmd.ProcessState.ExitCode()
				if code != crashCode && err != nil {
					t.Fatalf("k=%d: %v %s", k, err, out)
				}
				checkHome(t, home, what, code == 0)
				if t.Failed() {
					t.Fatalf("k=%d", k)
				}
				if code == 0 {
					t.Logf("%d crash points", k)
					if k < 3 {
						t.Errorf("only %d changes were seen", k)
					}
					return
				}
			}
		})
	}
}

// H4: an error in place of the k-th change, for every k: the old state stays,
// and the error comes back.
func TestErrorPoints(t *testing.T) {
	for what := range jobs {
		t.Run(what, func(t *testing.T) {
			for k := 0; k < 200; k++ {
				home := prepareHome(t)
				left, failed := k, ""
				err := jobs[what](home, func(op, name string) error {
					if left--; left == -1 {
						failed = op + " " + name
						return unix.ENOSPC
					}
					return nil
				})
				if failed != "" && !errors.Is(err, unix.ENOSPC) {
					t.Errorf("k=%d: %s failed, and the error is %v", k, failed, err)
				}
				if what == "start" && err != nil && !strings.HasSuffix(failed, pidName) {
					checkStopped(t, home) // a start that failed before it began changes nothing
				}
				checkHome(t, home, what, err == nil)
				if t.Failed() {
					t.Fatalf("k=%d %s", k, failed)
				}
				if failed == "" {
					return
				}
			}
		})
	}
}
