package l1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/tests/lab/proto"
)

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command is the job's process and the lab's ends of its streams.
type command struct {
	pid    int
	stdin  *os.File   // the terminal when there is one
	output []*os.File // stdout and stderr, or the terminal alone
	tty    bool
}

// start starts the job's command in a session of its own. Its exit is seen by
// reap, never by Wait: PID 1 must collect every process anyhow.
func start(job *proto.Job) (*command, error) {
	args := make([]string, len(job.Args))
	for i, a := range job.Args {
		args[i] = string(a)
	}
	cmd := &exec.Cmd{Args: args, Dir: "/root", Env: environment(job)}
	path, err := lookUp(args[0])
	if err != nil {
		return nil, err
	}
	cmd.Path = path
	if job.TTY {
		return startOnTerminal(cmd, job)
	}
	return startOnPipes(cmd)
}

func startOnTerminal(cmd *exec.Cmd, job *proto.Job) (*command, error) {
	size := &pty.Winsize{Rows: job.Rows, Cols: job.Cols}
	attrs := &syscall.SysProcAttr{Setsid: true, Setctty: true}
	term, err := pty.StartWithAttrs(cmd, size, attrs)
	if err != nil {
		return nil, err
	}
	return &command{pid: cmd.Process.Pid, stdin: term, output: []*os.File{term}, tty: true}, nil
}

func startOnPipes(cmd *exec.Cmd) (*command, error) {
	var ours, theirs [3]*os.File
	for i := range ours {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		ours[i], theirs[i] = r, w
		defer func() { theirs[i].Close() }()
	}
	ours[0], theirs[0] = theirs[0], ours[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[2]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &command{pid: cmd.Process.Pid, stdin: ours[0], output: []*os.File{ours[1], ours[2]}}, nil
}

// lookUp finds a program as a shell does, in searchPath.
func lookUp(name string) (string, error) {
	if strings.ContainsRune(name, '/') {
		return name, nil
	}
	for _, dir := range strings.Split(searchPath, ":") {
		path := dir + "/" + name
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fs.ErrNotExist
}

// startCode is the exit code for a command that could not be started.
func startCode(err error) byte {
	if errors.Is(err, fs.ErrNotExist) {
		return 127
	}
	return 126
}

func environment(job *proto.Job) []string {
	env := []string{"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "PATH=" + searchPath}
	for _, kv := range job.Env {
		env = append(env, string(kv))
	}
	return env // os/exec keeps the last of two equal keys
}

// signal sends to the command's process group.
func (c *command) signal(n byte) error {
	return unix.Kill(-c.pid, syscall.Signal(n))
}

// resize tells the terminal its size.
func (c *command) resize(rows, cols uint16) error {
	if !c.tty {
		return nil
	}
	return pty.Setsize(c.stdin, &pty.Winsize{Rows: rows, Cols: cols})
}

// reap collects every process that ends until the command did, and returns the
// command's exit code.
func (c *command) reap() (byte, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for the command: %w", err)
		}
		if pid != c.pid {
			continue
		}
		if status.Signaled() {
			return 128 + byte(status.Signal()), nil
		}
		return byte(status.ExitStatus()), nil
	}
}
