package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func testConfig(name string) Config {
	return Config{Name: name, Created: time.Unix(1e9, 0).UTC(), CPUs: 2, MemoryMiB: 512}
}

func create(t *testing.T, s *Store, c Config) {
	t.Helper()
	h, err := s.Create(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
	h.Close()
}

func acquire(t *testing.T, s *Store, name string) *Held {
	t.Helper()
	b, err := s.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	h, err := b.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// H7.
func TestNames(t *testing.T) {
	for _, name := range []string{"a", "Z9", "a-b_c", "my-sandbox", strings.Repeat("x", MaxName)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "../x", "/abs", "a/b", "-a", "a-", "_a", "a_", "a b", "a\n", "a\x00", "a.b", "é", "а", // the last is Cyrillic
		strings.Repeat("x", MaxName+1), strings.Repeat("x", 300), ".new-1", "a:b",
	} {
		if err := CheckName(name); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"box", "../x", "a\x00", "-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckName(name) != nil {
			return
		}
		if filepath.Base(name) != name || filepath.Clean(name) != name || name[0] == '.' || name[0] == '-' || len(name) > MaxName {
			t.Errorf("%q passed", name)
		}
	})
}

func TestConfigRoundTrip(t *testing.T) {
	for _, c := range []Config{testConfig("box"), {Name: "a", Created: time.Unix(0, 0).UTC(), CPUs: 32, MemoryMiB: 65536, Kernel: "/a b/ü\n\""}} {
		data, err := encodeConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeConfig(data)
		if err != nil || got != c {
			t.Errorf("%+v: %+v %v", c, got, err)
		}
	}
}

// H15: what is not exactly a config.json of this version is refused.
func TestConfigRefused(t *testing.T) {
	const good = `{"version":1,"name":"box","created":"2026-01-02T03:04:05Z","cpus":1,"memory_mib":512}`
	if _, err := decodeConfig([]byte(good)); err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, c := range []string{
		"", "null", "[]", "{", good + "x", good + good, good[:len(good)-1], replace(`{`, `{"extra":1,`), replace(`"cpus"`, `"CPUS"`),
		replace(`{`, `{"cpus":1,`), replace(`"cpus":1,`, ""), replace(`"version":1`, `"version":2`), replace(`"version":1`, `"version":"1"`),
		replace(`512`, `63`), replace(`512`, `65537`), replace(`512`, `-1`), replace(`512`, `1e99`), replace(`:1,"m`, `:33,"m`),
		replace(`box`, `../x`), replace(`2026`, `x`), replace(`{`, `{"kernel":"relative",`), replace(`{`, `{"kernel":1,`), strings.Repeat("[", 100000),
	} {
		if got, err := decodeConfig([]byte(c)); err == nil {
			t.Errorf("%.200q gave %+v", c, got)
		}
	}
}

func FuzzConfig(f *testing.F) {
	data, _ := encodeConfig(testConfig("box"))
	f.Add(data)
	f.Add([]byte(`{"version":1,"name":"box"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeConfig(data)
		if err != nil {
			return
		}
		if err := c.Check(); err != nil {
			t.Errorf("%q gave %+v: %v", data, c, err)
		}
		again, err := encodeConfig(c)
		if err != nil {
			return // a year that JSON can't carry
		}
		if got, err := decodeConfig(again); err != nil || !got.Created.Equal(c.Created) || got.Name != c.Name {
			t.Errorf("%q: %+v, again %+v %v", data, c, got, err)
		}
	})
}

func TestExitRecords(t *testing.T) {
	for text, want := range map[string]Exit{
		"poweroff\tthe guest powered off\n": {"poweroff", "the guest powered off"},
		"stopped\t\n":                       {"stopped", ""},
		"panic\ta\tb\nrest":                 {"panic", "a\tb"},
		"guest-error\t\xff\n":               {"guest-error", "\ufffd"},
	} {
		if e, recorded := parseExit([]byte(text)); e != want || !recorded {
			t.Errorf("%q: %+v %v", text, e, recorded)
		}
	}
	for _, text := range []string{"", "stopped\tno newline", "\n", "stopped\n", "\t\n", "a b\tc\n", "\x00\x00\t\n", strings.Repeat("x", maxExit)} {
		if e, recorded := parseExit([]byte(text)); recorded || e.Kind != exitKilled || e.Orderly() {
			t.Errorf("%q: %+v %v", text, e, recorded)
		}
	}
}

func FuzzExit(f *testing.F) {
	f.Add([]byte("stopped\tx\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, recorded := parseExit(data); recorded && !plainWord(e.Kind) || e.Orderly() && !recorded {
			t.Errorf("%q: %+v %v", data, e, recorded)
		}
	})
}

// H10: whatever the umask.
func TestModes(t *testing.T) {
	for _, mask := range []int{0, 0o777, 0o022} {
		old := unix.Umask(mask)
		s, err := Open(filepath.Join(t.TempDir(), "home"))
		if err == nil {
			var h *Held
			if h, err = s.Create(t.Context(), testConfig("box")); err == nil {
				_, err = h.Prepare()
			}
			if err == nil {
				err = h.NotePid(1)
			}
		}
		unix.Umask(old)
		if err != nil {
			t.Fatalf("umask %#o: %v", mask, err)
		}
		seen := 0
		filepath.WalkDir(s.home.path, func(path string, d fs.DirEntry, err error) error {
			info, ierr := d.Info()
			if err != nil || ierr != nil {
				t.Error(err, ierr)
				return err
			}
			seen++
			if want := fs.FileMode(map[bool]int{true: 0o700, false: 0o600}[d.IsDir()]); info.Mode().Perm() != want {
				t.Errorf("umask %#o: %s has mode %v", mask, path, info.Mode())
			}
			return nil
		})
		if seen < 12 {
			t.Errorf("only %d files", seen)
		}
		s.Close()
	}
}

// H8: symbolic links in place of everything.
func TestSymlinksAreNotFollowed(t *testing.T) {
	base := t.TempDir()
	victim := filepath.Join(base, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(base, "outside")
	os.Mkdir(outside, 0o700)
	os.Symlink(outside, filepath.Join(base, "link"))
	if _, err := Open(filepath.Join(base, "link")); !errors.Is(err, ErrHome) {
		t.Errorf("home: %v", err)
	}
	s := testStore(t)
	create(t, s, testConfig("box"))
	os.Symlink("box", filepath.Join(s.boxes.path, "alias"))
	if _, err := s.Open("alias"); !errors.Is(err, ErrBroken) {
		t.Errorf("sandbox: %v", err)
	}
	for _, name := range []string{vmmLogName, consoleName, exitNext, pidName} {
		h := acquire(t, s, "box")
		path := filepath.Join(h.Path(), name)
		os.Remove(path)
		os.Symlink(victim, path)
		f, err := h.Prepare()
		if err == nil {
			f.Close()
			err = h.NotePid(1)
		}
		if err == nil {
			t.Errorf("%s was followed", name)
		}
		os.Remove(path)
		h.Release()
		h.Close()
	}
	h := acquire(t, s, "box")
	for _, name := range []string{VsockSocket, ControlSocket} {
		os.Remove(filepath.Join(h.Path(), name))
		os.Symlink(victim, filepath.Join(h.Path(), name))
	}
	f, err := h.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	os.Symlink(outside, filepath.Join(h.Path(), "deep"))
	os.WriteFile(filepath.Join(outside, "file"), nil, 0o600)
	if err := h.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
		t.Errorf("the victim: %q %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
		t.Error(err)
	}
}

// H9.
func TestHomeOfOthers(t *testing.T) {
	home := t.TempDir()
	os.Chmod(home, 0o777)
	if _, err := Open(home); !errors.Is(err, ErrHome) || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("mode 0777: %v", err)
	}
	if _, err := Open("relative"); !errors.Is(err, ErrHome) {
		t.Errorf("relative: %v", err)
	}
	if _, err := Open(filepath.Join(home, "a", "b")); !errors.Is(err, ErrHome) {
		t.Errorf("no parent: %v", err)
	}
	if os.Getuid() == 0 {
		os.Chmod(home, 0o700)
		os.Chown(home, 1, 1)
		if _, err := Open(home); !errors.Is(err, ErrHome) {
			t.Errorf("of another user: %v", err)
		}
	}
}

// H15: broken ones are refused, and stay; deep junk can be removed.
func TestBroken(t *testing.T) {
	s := testStore(t)
	for name, spoil := range map[string]func(path string) error{
		"no-config":  func(p string) error { return os.Remove(filepath.Join(p, configName)) },
		"cut-config": func(p string) error { return os.Truncate(filepath.Join(p, configName), 20) },
		"big-config": func(p string) error { return os.Truncate(filepath.Join(p, configName), maxConfig+1) },
		"renamed":    func(p string) error { return nil },
		"fifo": func(p string) error {
			os.Remove(filepath.Join(p, configName))
			return unix.Mkfifo(filepath.Join(p, configName), 0o600)
		},
	} {
		create(t, s, testConfig("box"))
		path := filepath.Join(s.boxes.path, name)
		if err := os.Rename(filepath.Join(s.boxes.path, "box"), path); err != nil {
			t.Fatal(err)
		}
		if err := spoil(path); err != nil {
			t.Fatal(err)
		}
		b, err := s.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Config(); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
		b.Close()
		if err := s.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s was swept: %v", name, err)
		}
		os.MkdirAll(filepath.Join(path, "a/b/c/d/e"), 0o700)
		os.WriteFile(filepath.Join(path, "a/b/c/d/e/file"), nil, 0)
		if err := s.ForceRemove(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	os.WriteFile(filepath.Join(s.boxes.path, "file"), nil, 0o600)
	if _, err := s.Open("file"); !errors.Is(err, ErrBroken) {
		t.Errorf("a file: %v", err)
	}
	os.MkdirAll(filepath.Join(s.boxes.path, "junk in here"), 0o700)
	if names, err := s.Names(); err != nil || len(names) != 1 || names[0] != "file" {
		t.Errorf("%q %v", names, err)
	}
	for _, lock := range []string{lockName, mutexName} {
		create(t, s, testConfig("box"))
		os.Remove(filepath.Join(s.boxes.path, "box", lock))
		b, err := s.Open("box")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Acquire(t.Context()); !errors.Is(err, ErrBroken) {
			t.Errorf("without %s: %v", lock, err)
		}
		b.Close()
		if err := s.ForceRemove("box"); err != nil {
			t.Error(err)
		}
	}
}

// H5: stale sockets and a stale pid are no sign of life.
func TestStaleFiles(t *testing.T) {
	s := testStore(t)
	create(t, s, testConfig("box"))
	for range 2 {
		h := acquire(t, s, "box")
		f, err := h.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.NotePid(os.Getpid()); err != nil {
			t.Fatal(err)
		}
		if h.Kill() {
			t.Fatal("a process that is no VMM was killed")
		}
		f.Close()
		h.Release()
		holder, err := h.Holder(t.Context())
		if err != nil || holder.VMM || holder.Command {
			t.Errorf("%+v %v", holder, err)
		}
		h.Close()
	}
}

func TestAbandonedWaitLetsGo(t *testing.T) {
	s := testStore(t)
	create(t, s, testConfig("box"))
	b, _ := s.Open("box")
	defer b.Close()
	m, l, err := b.locks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := b.Holder(ctx); done <- err }()
	cancel()
	if err := <-done; !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	m.close()
	if _, err := b.Holder(t.Context()); err != nil {
		t.Errorf("%v", err)
	}
}

// A removed sandbox's directory that somebody still has open is not its
// successor of the same name.
func TestSuccessorIsAnother(t *testing.T) {
	s := testStore(t)
	create(t, s, testConfig("box"))
	old, err := s.Open("box")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	h := acquire(t, s, "box")
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Release()
	create(t, s, testConfig("box"))
	if _, err := old.Acquire(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("acquire: %v", err)
	}
	if err := old.Discard(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("discard: %v", err)
	}
	if _, err := s.Open("box"); err != nil {
		t.Error(err)
	}
}
