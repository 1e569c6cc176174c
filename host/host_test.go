package host_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/host"
	"github.com/agentkernel/agentkernel/host/hosttest"
	"github.com/agentkernel/agentkernel/host/store"
	"github.com/agentkernel/agentkernel/host/vmm"
)

// The test binary is its own VMM.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == vmm.Command {
		os.Exit(hosttest.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// open returns a host in a new state directory. At the test's end nothing may
// be running there.
func open(t *testing.T) (*host.Host, string) {
	t.Helper()
	home := filepath.Join(t.TempDir(), "home")
	h, err := host.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	h.Device = hosttest.Device
	t.Cleanup(func() {
		all, err := h.List(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, s := range all {
			if err := h.Remove(context.Background(), s.Name, host.RemoveOptions{Force: true}); err != nil {
				t.Errorf("remove %s: %v", s.Name, err)
			}
		}
		if left, _ := os.ReadDir(filepath.Join(home, "sandboxes")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		h.Close()
	})
	return h, home
}

func create(t *testing.T, h *host.Host, name string) {
	t.Helper()
	if _, err := h.Create(t.Context(), host.Config{Name: name}); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, h *host.Host, name string) {
	t.Helper()
	if err := h.Start(t.Context(), name, host.StartOptions{}); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, h *host.Host, name string, want host.Status) host.Sandbox {
	t.Helper()
	s, err := h.Inspect(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if s.Status != want {
		t.Fatalf("%s is %s (%s), want %s", name, s.Status, s.Reason, want)
	}
	return s
}

func sh(t *testing.T, h *host.Host, name, script string) (string, host.ExitStatus, error) {
	t.Helper()
	var out bytes.Buffer
	status, err := h.Exec(t.Context(), name, host.ExecRequest{Args: []string{"sh", "-c", script}}, host.Streams{Stdout: &out})
	return out.String(), status, err
}

func TestDescriptorNumbersAgree(t *testing.T) {
	if store.LockFD != vmm.FDLock {
		t.Errorf("store.LockFD is %d, vmm.FDLock %d", store.LockFD, vmm.FDLock)
	}
}

func TestLifeCycle(t *testing.T) {
	h, _ := open(t)
	create(t, h, "box")
	expect(t, h, "box", host.Created)
	for range 2 {
		start(t, h, "box")
		if s := expect(t, h, "box", host.Running); s.PID == 0 {
			t.Error("no pid")
		}
		out, status, err := sh(t, h, "box", "echo hello; exit 37")
		if err != nil || out != "hello\n" || status.ExitCode() != 37 {
			t.Fatalf("%q %+v %v", out, status, err)
		}
		if err := h.Stop(t.Context(), "box", host.StopOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(t, h, "box", host.Stopped)
	}
	if err := h.Remove(t.Context(), "box", host.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Inspect(t.Context(), "box"); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("after remove: %v", err)
	}
}

func TestNamedErrors(t *testing.T) {
	h, _ := open(t)
	create(t, h, "box")
	_, _, err := sh(t, h, "box", "true")
	var down *host.NotRunningError
	if !errors.As(err, &down) || down.Status != host.Created {
		t.Errorf("exec of a created sandbox: %v", err)
	}
	if err := h.Stop(t.Context(), "box", host.StopOptions{}); !errors.Is(err, host.ErrNotRunning) {
		t.Errorf("stop of a created sandbox: %v", err)
	}
	if _, err := h.Create(t.Context(), host.Config{Name: "box"}); !errors.Is(err, host.ErrExists) {
		t.Errorf("create twice: %v", err)
	}
	start(t, h, "box")
	if err := h.Start(t.Context(), "box", host.StartOptions{}); !errors.Is(err, host.ErrRunning) {
		t.Errorf("start twice: %v", err)
	}
	if err := h.Remove(t.Context(), "box", host.RemoveOptions{}); !errors.Is(err, host.ErrRunning) {
		t.Errorf("remove while it runs: %v", err)
	}
	for _, err := range []error{
		h.Start(t.Context(), "nope", host.StartOptions{}), h.Stop(t.Context(), "nope", host.StopOptions{}),
		h.Remove(t.Context(), "nope", host.RemoveOptions{Force: true}),
	} {
		if !errors.Is(err, host.ErrNotFound) {
			t.Errorf("no such sandbox: %v", err)
		}
	}
	if err := h.Start(t.Context(), "../box", host.StartOptions{}); !errors.Is(err, host.ErrName) {
		t.Errorf("name: %v", err)
	}
}

func TestStartFailures(t *testing.T) {
	h, _ := open(t)
	for name, reason := range map[string]string{
		hosttest.Refuses + "x": "no",
		hosttest.Silent + "x":  "ended without a reason",
		hosttest.Hangs + "x":   "not ready within 100ms",
	} {
		create(t, h, name)
		o := host.StartOptions{}
		if strings.HasPrefix(name, hosttest.Hangs) {
			o.Timeout = 100 * time.Millisecond
		}
		err := h.Start(t.Context(), name, o)
		var failed *host.StartError
		if !errors.As(err, &failed) || !strings.Contains(failed.Reason, reason) || !strings.Contains(failed.Console, "last words") {
			t.Errorf("%s: %#v", name, err)
		}
		if s := expect(t, h, name, host.Died); !strings.Contains(s.Reason, reason) {
			t.Errorf("%s: reason %q", name, s.Reason)
		}
	}
}

func TestStartWithoutKVMLeavesTheStatus(t *testing.T) {
	h, _ := open(t)
	create(t, h, "box")
	h.Device = func() (*os.File, error) { return nil, host.ErrKVMPermission }
	if err := h.Start(t.Context(), "box", host.StartOptions{}); !errors.Is(err, host.ErrKVMPermission) {
		t.Errorf("%v", err)
	}
	expect(t, h, "box", host.Created)
	_, err := h.Run(t.Context(), host.ExecRequest{Args: []string{"true"}}, host.Streams{}, host.RunOptions{})
	if !errors.Is(err, host.ErrKVMPermission) {
		t.Errorf("%v", err)
	}
}

func TestCancelledStartEndsTheVMM(t *testing.T) {
	h, _ := open(t)
	create(t, h, hosttest.Hangs+"x")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Start(ctx, hosttest.Hangs+"x", host.StartOptions{}) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	expect(t, h, hosttest.Hangs+"x", host.Stopped)
}

func TestStopForcesADeafGuest(t *testing.T) {
	h, _ := open(t)
	create(t, h, hosttest.Deaf+"x")
	start(t, h, hosttest.Deaf+"x")
	if err := h.Stop(t.Context(), hosttest.Deaf+"x", host.StopOptions{Timeout: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	expect(t, h, hosttest.Deaf+"x", host.Stopped)
}

// Restart at once: the VMM keeps the lock for a moment after it has said that
// its end is on record.
func TestRestartAtOnce(t *testing.T) {
	h, _ := open(t)
	create(t, h, "box")
	for range 10 {
		start(t, h, "box")
		if err := h.Stop(t.Context(), "box", host.StopOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
}

// H1: kill -9 of the VMM.
func TestKilledVMM(t *testing.T) {
	h, _ := open(t)
	create(t, h, "box")
	for range 10 {
		start(t, h, "box")
		s := expect(t, h, "box", host.Running)
		if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s = expect(t, h, "box", host.Died)
		if !strings.Contains(s.Reason, "killed") {
			t.Errorf("reason %q", s.Reason)
		}
		if _, _, err := sh(t, h, "box", "true"); !errors.Is(err, host.ErrNotRunning) {
			t.Errorf("exec: %v", err)
		}
	}
}

func TestKilledVMMDuringExec(t *testing.T) {
	h, _ := open(t)
	create(t, h, "box")
	start(t, h, "box")
	_, err := h.Exec(t.Context(), "box", host.ExecRequest{Args: []string{"kill-vmm"}}, host.Streams{})
	if !errors.Is(err, host.ErrLost) || !errors.Is(err, host.ErrNotRunning) {
		t.Errorf("%v", err)
	}
	start(t, h, "box")
	_, err = h.Exec(t.Context(), "box", host.ExecRequest{Args: []string{"lose-connection"}}, host.Streams{})
	if !errors.Is(err, host.ErrLost) || errors.Is(err, host.ErrNotRunning) {
		t.Errorf("%v", err)
	}
}

// H6: exactly one wins, the others get a named error.
func TestRaces(t *testing.T) {
	h, home := open(t)
	others := make([]*host.Host, 10)
	for i := range others {
		o, err := host.Open(home)
		if err != nil {
			t.Fatal(err)
		}
		o.Device = hosttest.Device
		others[i] = o
		defer o.Close()
	}
	race := func(what string, named error, // or ErrBusy
		do func(*host.Host) error) {
		t.Helper()
		errs := make([]error, len(others))
		var all sync.WaitGroup
		for i, o := range others {
			all.Go(func() { errs[i] = do(o) })
		}
		all.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, named) && !errors.Is(err, host.ErrBusy) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if won != 1 {
			t.Errorf("%s: %d won", what, won)
		}
	}
	for range 5 {
		race("create", host.ErrExists, func(o *host.Host) error {
			_, err := o.Create(context.Background(), host.Config{Name: "box"})
			return err
		})
		race("start", host.ErrRunning, func(o *host.Host) error {
			return o.Start(context.Background(), "box", host.StartOptions{})
		})
		expect(t, h, "box", host.Running)
		if err := h.Stop(t.Context(), "box", host.StopOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		race("remove", host.ErrNotFound, func(o *host.Host) error {
			return o.Remove(context.Background(), "box", host.RemoveOptions{})
		})
	}
}

// H6, pairs of different commands: whatever comes of them has a name, and the
// sandbox can be used afterwards.
func TestMixedRaces(t *testing.T) {
	h, _ := open(t)
	ctx := context.Background()
	do := map[string]func() error{
		"start":  func() error { return h.Start(ctx, "box", host.StartOptions{}) },
		"stop":   func() error { return h.Stop(ctx, "box", host.StopOptions{}) },
		"force":  func() error { return h.Stop(ctx, "box", host.StopOptions{Force: true}) },
		"remove": func() error { return h.Remove(ctx, "box", host.RemoveOptions{}) },
		"rm -f":  func() error { return h.Remove(ctx, "box", host.RemoveOptions{Force: true}) },
		"create": func() error { _, err := h.Create(ctx, host.Config{Name: "box"}); return err },
		"exec": func() error {
			_, err := h.Exec(ctx, "box", host.ExecRequest{Args: []string{"true"}}, host.Streams{})
			return err
		},
	}
	named := []error{host.ErrExists, host.ErrRunning, host.ErrNotRunning, host.ErrNotFound, host.ErrBusy, host.ErrLost, host.ErrStart}
	for first := range do {
		for second := range do {
			var errs [2]error
			var all sync.WaitGroup
			all.Go(func() { errs[0] = do[first]() })
			all.Go(func() { errs[1] = do[second]() })
			all.Wait()
			for i, err := range errs {
				if err != nil && !slices.ContainsFunc(named, func(n error) bool { return errors.Is(err, n) }) {
					t.Errorf("%s with %s: error %d: %v", first, second, i, err)
				}
			}
		}
	}
	if err := h.Remove(ctx, "box", host.RemoveOptions{Force: true}); err != nil && !errors.Is(err, host.ErrNotFound) {
		t.Error(err)
	}
	create(t, h, "box")
	start(t, h, "box")
}

func TestListWhileEverythingChanges(t *testing.T) {
	h, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			if _, err := h.List(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	for range 10 { // a List that looks at a lock must never make a Start fail
		create(t, h, "box")
		start(t, h, "box")
		if err := h.Remove(t.Context(), "box", host.RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	all.Wait()
}

func TestRun(t *testing.T) {
	h, home := open(t)
	var out, errs bytes.Buffer
	name, started := "", false
	status, err := h.Run(t.Context(), host.ExecRequest{Args: []string{"sh", "-c", "cat; echo oops >&2; exit 3"}},
		host.Streams{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errs, Started: func() { started = true }},
		host.RunOptions{Created: func(n string) { name = n }})
	if err != nil || status.ExitCode() != 3 || out.String() != "hello" || errs.String() != "oops\n" || name == "" || !started {
		t.Fatalf("%+v %v %q %q %q %v", status, err, out.String(), errs.String(), name, started)
	}
	if left, _ := os.ReadDir(filepath.Join(home, "sandboxes")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRunKeep(t *testing.T) {
	h, _ := open(t)
	status, err := h.Run(t.Context(), host.ExecRequest{Args: []string{"true"}}, host.Streams{},
		host.RunOptions{Keep: true, Config: host.Config{Name: "kept"}})
	if err != nil || status.ExitCode() != 0 {
		t.Fatalf("%+v %v", status, err)
	}
	expect(t, h, "kept", host.Running)
}

func TestRunThatDoesNotStart(t *testing.T) {
	h, _ := open(t)
	for _, name := range []string{hosttest.Refuses + "x", hosttest.Silent + "x", hosttest.Hangs + "x"} {
		_, err := h.Run(t.Context(), host.ExecRequest{Args: []string{"true"}}, host.Streams{},
			host.RunOptions{Config: host.Config{Name: name}, Start: host.StartOptions{Timeout: time.Second / 2}})
		var failed *host.StartError
		if !errors.As(err, &failed) || !strings.Contains(failed.Console, "last words") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := h.Inspect(t.Context(), name); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

func TestCancelledRunLeavesNothing(t *testing.T) {
	h, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	name := ""
	_, err := h.Run(ctx, host.ExecRequest{Args: []string{"sleep", "1000"}}, host.Streams{Started: cancel},
		host.RunOptions{Created: func(n string) { name = n }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := h.Inspect(t.Context(), name); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("still there: %v", err)
	}
}

func TestWait(t *testing.T) {
	h, _ := open(t)
	create(t, h, "box")
	start(t, h, "box")
	ended := make(chan host.Sandbox)
	go func() {
		s, err := h.Wait(context.Background(), "box")
		if err != nil {
			t.Error(err)
		}
		ended <- s
	}()
	if err := h.Stop(t.Context(), "box", host.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := <-ended; s.Status != host.Stopped {
		t.Errorf("%+v", s)
	}
}

// H9: a state directory whose path is longer than a socket address.
func TestLongHome(t *testing.T) {
	home := filepath.Join(t.TempDir(), strings.Repeat("long-", 30), strings.Repeat("path-", 30))
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	h, err := host.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	h.Device = hosttest.Device
	name := strings.Repeat("n", store.MaxName)
	create(t, h, name)
	start(t, h, name)
	if out, _, err := sh(t, h, name, "echo hello"); err != nil || out != "hello\n" {
		t.Errorf("%q %v", out, err)
	}
	if err := h.Remove(t.Context(), name, host.RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
}

// H17, H18: what a VMM inherits.
func TestVMMInheritsNothing(t *testing.T) {
	h, _ := open(t)
	t.Setenv("CANARY", "secret")
	create(t, h, "box")
	start(t, h, "box")
	s := expect(t, h, "box", host.Running)
	proc := filepath.Join("/proc", itoa(s.PID))
	if env, err := os.ReadFile(filepath.Join(proc, "environ")); err != nil || len(env) > 0 {
		t.Errorf("environment %q %v", env, err)
	}
	if dir, err := os.Readlink(filepath.Join(proc, "cwd")); err != nil || dir != "/" {
		t.Errorf("directory %q %v", dir, err)
	}
	if sid, err := getsid(s.PID); err != nil || sid != s.PID {
		t.Errorf("session %d %v", sid, err)
	}
}
