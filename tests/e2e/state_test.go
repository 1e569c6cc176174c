//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A file system without space: nothing new comes, what is there can be used,
// stopped and removed.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("a tmpfs, for which root is needed: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	t.Setenv("AGENTKERNEL_HOME", filepath.Join(dir, "home"))
	must(t, "create", "up")
	must(t, "start", "up")
	must(t, "create", "down")
	free := fill(t, filepath.Join(dir, "filler"))
	defer free()

	r := ak(t, "create", "new")
	expectError(t, "create", r, 125, "no space left")
	expectError(t, "start", ak(t, "start", "down"), 125, "down", "no space left")
	expectError(t, "run", ak(t, "run", "--", "true"), 125, "no space left")
	for name, want := range map[string]string{"new": "absent", "down": "created", "up": "running"} {
		whole(t, "on a full disk", name, want)
	}
	expect(t, "exec", ak(t, "exec", "up", "--", "echo", "works"), 0, "works\n")
	must(t, "stop", "up")
	whole(t, "stopped on a full disk", "up", "stopped")
	must(t, "rm", "up")
	must(t, "rm", "down")
	nothingLeft(t, filepath.Join(dir, "home"))
	free()
	expect(t, "with space again", ak(t, "run", "--", "echo", "works"), 0, "works\n")
}

// fill makes a file that takes all the space there is.
func fill(t *testing.T, path string) (free func()) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 4096); err == nil; _, err = f.Write(buf) {
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	f.Close()
	return func() { os.Remove(path) }
}

// State that this program did not write is refused, shown, and can be removed.
func TestBrokenState(t *testing.T) {
	home := useHome(t)
	for name, change := range map[string]func(config string) string{
		"unknown-key": func(c string) string { return strings.Replace(c, "{", `{"colour": "red",`, 1) },
		"other-name":  func(c string) string { return strings.Replace(c, `"other-name"`, `"another"`, 1) },
		"cut-short":   func(c string) string { return c[:len(c)/2] },
		"empty":       func(string) string { return "" },
		"too-large":   func(c string) string { return strings.Repeat(" ", 1<<20) + c },
	} {
		must(t, "create", name)
		path := filepath.Join(home, "sandboxes", name, "config.json")
		config, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(change(string(config))), 0o600); err != nil {
			t.Fatal(err)
		}
		whole(t, "changed by hand", name, "broken")
		expectError(t, "start", ak(t, "start", name), 125, name, "broken", "agentkernel remove -f "+name)
		expectError(t, "exec", ak(t, "exec", name, "--", "true"), 125, name)
		expectError(t, "create", ak(t, "create", name), 125, name, "exists")
		expectError(t, "rm", ak(t, "rm", name), 125, name, "broken")
		whole(t, "after rm without -f", name, "broken")
		must(t, "rm", "-f", name)
	}
	nothingLeft(t, home)
}

// A symbolic link in the state folder is not followed, wherever it stands.
func TestPlantedLinks(t *testing.T) {
	home := useHome(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "create", "box")
	for _, file := range []string{"console.log", "vmm.log", "exit", "vmm.pid", "vsock.sock", "control.sock", "lock", "mutex", "ephemeral", "config.json"} {
		path := filepath.Join(home, "sandboxes", "box", file)
		os.Remove(path)
		if err := os.Symlink(victim, path); err != nil {
			t.Fatal(err)
		}
		if r := ak(t, "start", "box"); r.code != 0 && (r.code != 125 || r.stderr == "") {
			t.Errorf("start with a link for %s: %+v", file, r)
		}
		must(t, "list")
		must(t, "rm", "-f", "box")
		must(t, "create", "box")
	}
	must(t, "rm", "box")

	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Mkdir(elsewhere, 0o700); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(elsewhere, "precious")
	os.WriteFile(precious, []byte("x"), 0o600)
	if err := os.Symlink(elsewhere, filepath.Join(home, "sandboxes", "box")); err != nil {
		t.Fatal(err)
	}
	whole(t, "a link for a sandbox", "box", "broken")
	expectError(t, "start", ak(t, "start", "box"), 125, "box")
	must(t, "rm", "-f", "box")
	nothingLeft(t, home)
	if _, err := os.Stat(precious); err != nil {
		t.Error("rm -f followed a link")
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "untouched" {
		t.Errorf("the links' target: %q, %v", data, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	os.Symlink(home, link)
	t.Setenv("AGENTKERNEL_HOME", link)
	expectError(t, "a home that is a link", ak(t, "list"), 125, "symbolic link")
}

// What a dead VMM and a power cut leave is no obstacle.
func TestStaleFiles(t *testing.T) {
	home := useHome(t)
	must(t, "create", "box")
	for _, file := range []string{"vsock.sock", "control.sock", "vmm.pid", "exit.next", "console.log"} {
		if err := os.WriteFile(filepath.Join(home, "sandboxes", "box", file), []byte("1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(home, "sandboxes", ".new-1", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	expectError(t, "exec", ak(t, "exec", "box", "--", "true"), 125, "agentkernel start box")
	must(t, "start", "box")
	expect(t, "exec", ak(t, "exec", "box", "--", "echo", "works"), 0, "works\n")
	must(t, "rm", "-f", "box")
	nothingLeft(t, home)
}

// Two state folders know nothing of each other.
func TestTwoHomes(t *testing.T) {
	homes := []string{useHome(t), useHome(t)}
	for _, home := range homes {
		t.Setenv("AGENTKERNEL_HOME", home)
		must(t, "create", "--memory", "96M", "box")
		must(t, "start", "box")
		must(t, "exec", "box", "--", "sh", "-c", "echo "+home+" > /workspace/mine")
	}
	for _, home := range homes {
		t.Setenv("AGENTKERNEL_HOME", home)
		expect(t, "exec", ak(t, "exec", "box", "--", "cat", "/workspace/mine"), 0, home+"\n")
		must(t, "rm", "-f", "box")
		nothingLeft(t, home)
	}
}

// Without /dev/kvm, or the right to it, every error names the mend.
func TestNoKVM(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("root is needed to be another user")
	}
	home, err := os.MkdirTemp("", "agentkernel-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	if err := os.Chown(home, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AGENTKERNEL_HOME", home)
	user := func(args ...string) result {
		cmd := command(t, args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
		return finish(t, cmd)
	}
	expectError(t, "run as a user", user("run", "--", "true"), 125, "/dev/kvm", "group kvm", "usermod -aG kvm")
	expect(t, "create as a user", user("create", "box"), 0, "box\n")
	expectError(t, "start as a user", user("start", "box"), 125, "/dev/kvm", "group kvm")
	expect(t, "rm as a user", user("rm", "box"), 0, "")
	if r := user("doctor"); r.code == 0 || !strings.Contains(r.stdout+r.stderr, "kvm") {
		t.Errorf("doctor as a user: %+v", r)
	}
	nothingLeft(t, home)

	t.Setenv("AGENTKERNEL_HOME", filepath.Join(t.TempDir(), "home"))
	without := exec.Command("unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev && exec agentkernel run -- true")
	expectError(t, "run without /dev/kvm", finish(t, without), 125, "/dev/kvm", "agentkernel doctor")
}

// An environment that no system takes is refused with a sentence.
func TestHugeEnvironment(t *testing.T) {
	sb := sandbox(t)
	file := filepath.Join(t.TempDir(), "env")
	for _, tt := range []struct {
		name string
		text []byte
	}{
		{"one value of 100 MB", append([]byte("A="), bytes.Repeat([]byte("x"), 100<<20)...)},
		{"100 MB of variables", manyVariables(100 << 20)},
		{"as much as the file may hold", manyVariables(15 << 20)},
		{"one value over the kernel's limit", append([]byte("A="), bytes.Repeat([]byte("x"), 200<<10)...)},
	} {
		if err := os.WriteFile(file, tt.text, 0o600); err != nil {
			t.Fatal(err)
		}
		r := ak(t, "exec", "--env-file", file, sb, "--", "true")
		if r.code != 125 && r.code != 126 || r.stderr == "" || len(r.stderr) > 1000 {
			t.Errorf("%s: exit %d, stderr %.1000q", tt.name, r.code, r.stderr)
		}
		t.Logf("%s: exit %d, %.300s", tt.name, r.code, r.stderr)
	}
	expect(t, "afterwards", ak(t, "exec", sb, "--", "echo", "fine"), 0, "fine\n")
}

// manyVariables is an --env-file of about size bytes.
func manyVariables(size int) []byte {
	var b bytes.Buffer
	b.Grow(size + 100)
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "VARIABLE_%07d=0123456789012345678901234567890123456789\n", i)
	}
	return b.Bytes()
}
