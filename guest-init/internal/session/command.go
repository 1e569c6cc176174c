package session

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/guest-init/internal/account"
	"github.com/agentkernel/agentkernel/guest-init/internal/reaper"
	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// failed is a fault that is not the command's.
func failed(format string, args ...any) *wire.Failure {
	return &wire.Failure{Code: wire.CodeFailed, Message: fmt.Sprintf(format, args...)}
}

// command is a request made whole with the guest's defaults.
type command struct {
	args []string
	env  []string
	path string // the PATH that args[0] is looked up in
	dir  string
}

// command checks the request and adds the defaults.
func (e *execution) command() (*command, *wire.Failure) {
	req := e.req
	if len(req.Args) == 0 {
		return nil, failed("no command")
	}
	spec := req.User
	if spec == "" {
		spec = e.srv.User
	}
	var err error
	if e.user, err = e.srv.Accounts.Lookup(spec); err != nil {
		return nil, failed("%v", err)
	}
	c := &command{args: req.Args, dir: req.Dir}
	if c.dir == "" {
		c.dir = e.srv.Dir
	}
	if c.env, c.path, err = environment(&e.user, e.srv.Env, req.Env); err != nil {
		return nil, failed("%v", err)
	}
	if f := checkStrings(c); f != nil {
		return nil, f
	}
	return c, checkDir(c.dir)
}

// checkStrings refuses what no process can be given.
func checkStrings(c *command) *wire.Failure {
	for _, s := range c.args {
		if strings.IndexByte(s, 0) >= 0 {
			return failed("an argument contains a NUL byte")
		}
	}
	for _, s := range c.env {
		if strings.IndexByte(s, 0) >= 0 {
			key, _, _ := strings.Cut(s, "=")
			return failed("environment variable %q contains a NUL byte", key)
		}
	}
	if strings.IndexByte(c.dir, 0) >= 0 {
		return failed("the directory contains a NUL byte")
	}
	return nil
}

func checkDir(dir string) *wire.Failure {
	if !filepath.IsAbs(dir) {
		return failed("directory %q is not an absolute path", dir)
	}
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	switch {
	case err == unix.ENOENT:
		return failed("directory %q does not exist in the sandbox", dir)
	case err != nil:
		return failed("directory %q: %v", dir, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return failed("%q is not a directory", dir)
	}
	return nil
}

// defaultPath is the PATH of a command whose image and request set none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment joins the defaults, the image's and the request's variables. Of
// one name the last wins, in the place of the first.
func environment(u *account.User, image, request []string) (env []string, path string, err error) {
	env = make([]string, 0, 5+len(image)+len(request))
	env = append(env, "PATH="+defaultPath, "HOME="+u.Home, "SHELL="+u.Shell)
	if u.Name != "" {
		env = append(env, "USER="+u.Name, "LOGNAME="+u.Name)
	}
	defaults := len(env)
	env = append(append(env, image...), request...)
	at := make(map[string]int, len(env))
	kept := env[:0]
	for i, kv := range env {
		key, _, ok := strings.Cut(kv, "=")
		if i >= defaults && (!ok || key == "") {
			return nil, "", fmt.Errorf("environment variable %q: want KEY=VALUE", kv)
		}
		if j, seen := at[key]; seen {
			kept[j] = kv
			continue
		}
		at[key] = len(kept)
		kept = append(kept, kv)
	}
	return kept, strings.TrimPrefix(kept[at["PATH"]], "PATH="), nil
}

// launch finds the program and starts it, as execvp(3) would for the user: each
// file of the name along PATH is tried by the child itself, so permissions are
// the user's. Unlike a shell it never runs a file without a #! line.
func (e *execution) launch(c *command, p *pipes) (*reaper.Child, *wire.Failure) {
	attr := e.attributes(c, p)
	name := c.args[0]
	if strings.Contains(name, "/") {
		return e.launchOne(name, c, attr)
	}
	var denied *wire.Failure
	for dir := range strings.SplitSeq(c.path, ":") {
		if name == "" {
			break
		}
		if dir == "" {
			dir = "." // POSIX: an empty entry is the current directory
		}
		child, f := e.launchOne(dir+"/"+name, c, attr)
		switch {
		case f == nil:
			return child, nil
		case f.Code == wire.CodeNotFound:
		case f.Code == wire.CodeNotExecutable:
			denied = f
		default:
			return nil, f
		}
	}
	if denied != nil {
		return nil, denied
	}
	return nil, &wire.Failure{Code: wire.CodeNotFound, Message: fmt.Sprintf("%q: command not found", name)}
}

func (e *execution) attributes(c *command, p *pipes) *syscall.ProcAttr {
	sys := &syscall.SysProcAttr{Setsid: true}
	if uid := uint32(os.Geteuid()); uid == 0 || e.user.UID != uid {
		sys.Credential = &syscall.Credential{Uid: e.user.UID, Gid: e.user.GID, Groups: e.user.Groups}
	}
	if e.group != nil {
		sys.UseCgroupFD, sys.CgroupFD = true, e.group.FD()
	}
	in := p.child[0]
	if in == 0 {
		in = e.srv.Null
	}
	return &syscall.ProcAttr{
		Dir:   c.dir,
		Env:   c.env,
		Files: []uintptr{uintptr(in), uintptr(p.child[1]), uintptr(p.child[2])},
		Sys:   sys,
	}
}

// launchOne starts one file, or says why not.
func (e *execution) launchOne(path string, c *command, attr *syscall.ProcAttr) (*reaper.Child, *wire.Failure) {
	seen := path
	if !filepath.IsAbs(path) {
		seen = c.dir + "/" + path
	}
	var st unix.Stat_t
	if err := unix.Stat(seen, &st); err != nil {
		return nil, statFailure(path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil, notExecutable(path, "is a directory")
	}
	var around func(func())
	if e.srv.Fork != nil {
		around = func(fork func()) { e.srv.Fork(int(attr.Files[2]), fork) }
	}
	child, err := e.srv.Reaper.Start(path, c.args, attr, around)
	if err == nil {
		return child, nil
	}
	return nil, e.startFailure(path, seen, c.dir, err)
}

func notExecutable(path, why string) *wire.Failure {
	return &wire.Failure{Code: wire.CodeNotExecutable, Message: fmt.Sprintf("%q: %s", path, why)}
}

func statFailure(path string, err error) *wire.Failure {
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return &wire.Failure{Code: wire.CodeNotFound, Message: fmt.Sprintf("%q: no such file", path)}
	}
	return notExecutable(path, err.Error())
}

// startFailure explains an error of the child between fork and exec.
func (e *execution) startFailure(path, seen, dir string, err error) *wire.Failure {
	switch err {
	case syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE:
		return failed("the sandbox cannot start another process: %v", err)
	case syscall.EPERM, syscall.EACCES:
		if os.Geteuid() == 0 && !canEnter(&e.user, dir) {
			return failed("directory %q: permission denied for user %d", dir, e.user.UID)
		}
		return notExecutable(path, "permission denied")
	case syscall.ENOENT:
		return notExecutable(path, "its interpreter "+interpreter(seen)+"does not exist")
	case syscall.ENOEXEC:
		return notExecutable(path, "not a program: exec format error (a script needs a #! line, or sh before it)")
	case syscall.E2BIG:
		return notExecutable(path, "argument list too long")
	}
	return notExecutable(path, err.Error())
}

// interpreter names the #! interpreter of a script, with a space after it.
func interpreter(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	var head [256]byte // what the kernel looks at, BINPRM_BUF_SIZE
	n, _ := f.Read(head[:])
	line, _, _ := bytes.Cut(head[:max(n, 0)], []byte("\n"))
	words := bytes.Fields(bytes.TrimPrefix(line, []byte("#!")))
	if !bytes.HasPrefix(line, []byte("#!")) || len(words) == 0 {
		return ""
	}
	return fmt.Sprintf("%q ", words[0])
}

// canEnter tells whether the user may enter a directory. It asks the kernel, on
// a thread that takes on the user's file system identity and dies with it.
func canEnter(u *account.User, dir string) bool {
	result := make(chan bool, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		groups := make([]int, len(u.Groups))
		for i, g := range u.Groups {
			groups[i] = int(g)
		}
		// x/sys/unix makes these three calls for the calling thread alone.
		if unix.Setgroups(groups) != nil {
			result <- true
			return
		}
		unix.Setfsgid(int(u.GID))
		unix.Setfsuid(int(u.UID))
		var st unix.Stat_t
		result <- unix.Stat(dir+"/.", &st) != unix.EACCES
	}()
	return <-result
}
