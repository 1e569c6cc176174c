package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// newTree returns a tree in the machine's cgroup v2 hierarchy, if it can be had.
func newTree(t *testing.T) *Tree {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
			continue
		}
		tree, err := Open(filepath.Join(root, "agentkernel-cgroup-test-"+strconv.Itoa(os.Getpid())))
		if err == nil {
			t.Cleanup(func() {
				if err := tree.Close(); err != nil {
					t.Error(err)
				}
			})
			return tree
		}
	}
	t.Skip("needs a writable cgroup v2")
	return nil
}

func start(t *testing.T, l *Leaf, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: l.FD()}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestLeaf(t *testing.T) {
	tree := newTree(t)
	l, err := tree.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	if l.Populated() || !l.WaitEmpty(time.Time{}) {
		t.Error("a new leaf is not empty")
	}
	cmd := start(t, l, "setsid sleep 1000 & sleep 1000")
	if !l.Populated() {
		t.Error("nothing in it")
	}
	if l.WaitEmpty(time.Now().Add(10 * time.Millisecond)) {
		t.Error("empty while its processes live")
	}
	if err := l.Kill(); err != nil {
		t.Fatal(err)
	}
	if !l.WaitEmpty(time.Now().Add(time.Minute)) {
		t.Error("processes survived")
	}
	cmd.Wait()
	if l.OOMKilled() {
		t.Error("a plain kill counts as out of memory")
	}
	l.Release(true)
}

// A leaf that nobody can have changed is used again; others are not.
func TestReuse(t *testing.T) {
	tree := newTree(t)
	if err := tree.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ pristine, same bool }{{true, true}, {true, true}, {false, false}} {
		l, err := tree.Leaf()
		if err != nil {
			t.Fatal(err)
		}
		start(t, l, "true").Wait()
		l.Release(tt.pristine)
		next, err := tree.Leaf()
		if err != nil {
			t.Fatal(err)
		}
		if (l == next) != tt.same {
			t.Errorf("pristine %v: same %v", tt.pristine, l == next)
		}
		next.Release(true)
	}
}

// Survivors keep their leaf until the last of them is gone.
func TestSurvivors(t *testing.T) {
	tree := newTree(t)
	l, err := tree.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	cmd := start(t, l, "exec sleep 1000")
	l.Release(true)
	if _, err := os.Stat(l.path); err != nil {
		t.Errorf("removed under a process: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	tree.watchers.Wait()
	if _, err := os.Stat(l.path); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
}

// Root in the guest may make groups of its own, in its leaf and beside it.
func TestUserMadeGroups(t *testing.T) {
	tree := newTree(t)
	if err := os.Mkdir(filepath.Join(tree.path, "1"), 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filepath.Join(tree.path, "1"))
	l, err := tree.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(l.path, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.Release(false)
	if _, err := os.Stat(l.path); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
	os.Remove(filepath.Join(tree.path, "1"))
}

func TestField(t *testing.T) {
	data := []byte("low 0\noom 3\noom_kill 12\noom_group_kill 1\nbad x\ncut")
	for name, want := range map[string]uint64{"oom": 3, "oom_kill": 12, "oom_group_kill": 1, "low": 0, "bad": 0, "none": 0, "cut": 0} {
		if got := field(data, name); got != want {
			t.Errorf("%s: %d", name, got)
		}
	}
}

func TestDelegate(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) { os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	file("cgroup.controllers", "cpuset cpu io memory pids\n")
	file("cgroup.subtree_control", "")
	if err := Delegate(dir, "memory", "pids", "unknown"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control")); string(got) != "+memory +pids" {
		t.Errorf("%q", got)
	}
	if err := Delegate(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is none was taken")
	}
}
