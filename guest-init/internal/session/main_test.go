package session_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/guest-init/internal/account"
	"github.com/agentkernel/agentkernel/guest-init/internal/cgroup"
	"github.com/agentkernel/agentkernel/guest-init/internal/reaper"
	"github.com/agentkernel/agentkernel/guest-init/internal/session"
	"github.com/agentkernel/agentkernel/host/guest"
)

// The tests run real processes on the development machine, started by this
// process as the guest's first process would.

var (
	children *reaper.Reaper
	groups   *cgroup.Tree // nil without a writable cgroup v2
)

func TestMain(m *testing.M) {
	// What this process inherited is not for its children.
	unix.CloseRange(3, 1<<20, unix.CLOSE_RANGE_CLOEXEC)
	// Orphans come to this process, as they do to PID 1.
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	children = reaper.New()
	go children.Run()
	groups = openGroups()
	code := m.Run()
	if groups != nil {
		groups.Close()
	}
	os.Exit(code)
}

func openGroups() *cgroup.Tree {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
			continue
		}
		if t, err := cgroup.Open(filepath.Join(root, "agentkernel-test-"+strconv.Itoa(os.Getpid()))); err == nil {
			return t
		}
	}
	return nil
}

// newServer returns a server whose default user is the one that runs the test.
func newServer(t testing.TB) *session.Server {
	t.Helper()
	etc := t.TempDir()
	write(t, filepath.Join(etc, "passwd"), "root:x:0:0:root:/root:/bin/sh\n"+
		"developer:x:1000:1000::/home/developer:/bin/sh\n"+
		"guest:x:1001:1001::/home/guest:/bin/bash\n")
	write(t, filepath.Join(etc, "group"), "root:x:0:\ndeveloper:x:1000:\nextra:x:44:developer,other\n")
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(null) })
	s := &session.Server{
		Reaper:   children,
		Accounts: account.New(etc),
		User:     "root",
		Dir:      "/",
		Null:     null,
	}
	if os.Geteuid() != 0 {
		s.User = "0"
	}
	if groups != nil {
		s.Groups = func() (session.Group, error) { return groups.Leaf() }
	}
	t.Cleanup(s.Wait)
	return s
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// dial returns the client's end of a connection that s serves.
func dial(t testing.TB, s *session.Server) net.Conn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	go s.Serve(conns[0])
	return conns[1]
}

// result is a command's outcome.
type result struct {
	out, err string
	status   guest.ExitStatus
	failure  error
}

func sh(script string) guest.ExecRequest {
	return guest.ExecRequest{Args: []string{"sh", "-c", script}}
}

func run(t testing.TB, s *session.Server, req guest.ExecRequest, stdin io.Reader) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req.Stdin = stdin != nil
	var out, err bytes.Buffer
	status, failure := guest.Exec(ctx, dial(t, s), req, stdin, &out, &err, nil)
	return result{out.String(), err.String(), status, failure}
}

// signalChan returns a channel on which the given signals are.
func signalChan(sigs ...syscall.Signal) chan syscall.Signal {
	c := make(chan syscall.Signal, 8)
	for _, s := range sigs {
		c <- s
	}
	return c
}
