package main

import (
	"errors"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/guest-init/internal/account"
	"github.com/agentkernel/agentkernel/guest-init/internal/cgroup"
	"github.com/agentkernel/agentkernel/guest-init/internal/power"
	"github.com/agentkernel/agentkernel/guest-init/internal/reaper"
	"github.com/agentkernel/agentkernel/guest-init/internal/session"
	"github.com/agentkernel/agentkernel/guest-init/internal/setup"
	"github.com/agentkernel/agentkernel/guest-init/wire"
)

const (
	defaultUser = "developer"
	defaultDir  = "/workspace"

	// signalGrace is the grace of a power-off that a program in the guest asks
	// for (busybox's poweroff, halt and reboot signal PID 1).
	signalGrace = 3 * time.Second
	// flushTime bounds the wait, at the guest's end, for clients to take the
	// last frames of their commands.
	flushTime = time.Second
	// endTime bounds the wait for the VMM to end the machine that has announced
	// its end.
	endTime = 2 * time.Second
	// gcPercent: the heap is small; collecting it seldom costs some MiB.
	gcPercent = 400
)

// guest is PID 1's state.
type guest struct {
	status   net.Conn // to the VMM, for life
	listener *vsock.Listener
	server   session.Server
	groups   *cgroup.Tree
	users    *cgroup.Leaf  // all of groups
	ready    chan struct{} // closed when the first command may start
	end      sync.Once
}

// boot brings the guest to where the host may dial it, and says so.
func (g *guest) boot() error {
	if err := setup.Mount(); err != nil {
		return err
	}
	if err := g.openGroups(); err != nil {
		return err
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	g.ready = make(chan struct{})
	g.server = session.Server{
		Reaper:   reaper.New(),
		Accounts: account.New("/etc"),
		Groups:   func() (session.Group, error) { return g.groups.Leaf() },
		User:     defaultUser,
		Dir:      defaultDir,
		Null:     null,
		Fork:     setup.Fork,
		Shutdown: func(grace time.Duration) { go g.powerOff(grace) },
	}
	// Any CID: asking for the guest's own would cost system calls.
	if g.listener, err = vsock.ListenContextID(unix.VMADDR_CID_ANY, wire.ExecPort, nil); err != nil {
		return err
	}
	if err = g.dial(); err != nil {
		return err
	}
	_, err = g.status.Write([]byte(wire.StatusReady))
	return err
}

func (g *guest) openGroups() (err error) {
	if err = cgroup.Delegate(setup.CgroupRoot, setup.Controllers...); err != nil {
		return err
	}
	if g.groups, err = cgroup.Open(setup.UserGroup); err != nil {
		return err
	}
	if err = cgroup.Delegate(setup.UserGroup, setup.Controllers...); err != nil {
		return err
	}
	g.users, err = g.groups.All()
	return err
}

func (g *guest) dial() error {
	if g.status != nil {
		return nil
	}
	c, err := vsock.Dial(wire.HostCID, wire.StatusPort, nil)
	if err == nil {
		g.status = c
	}
	return err
}

// fail reports that the guest cannot be used, to the VMM or else to the console,
// and ends it.
func (g *guest) fail(err error) {
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	logLine("cannot set up the guest: " + text)
	if g.dial() == nil {
		g.announce(wire.StatusError + text + "\n")
	}
	power.Off()
	os.Exit(1) // the kernel panics, which ends the machine too
}

// run serves until the machine ends. It does not return.
func (g *guest) run() {
	go g.server.Reaper.Run()
	go g.accept()
	setup.Finish(logLine)
	if err := g.groups.Prepare(); err != nil {
		logLine(err.Error())
	}
	close(g.ready)
	debug.SetGCPercent(gcPercent)
	g.signals()
}

// accept serves connections of the host. Those of the guest's own processes, if
// the kernel should let any through, are closed: a request runs as any user.
func (g *guest) accept() {
	for {
		conn, err := g.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
				return
			}
			logLine("accept: " + err.Error())
			time.Sleep(10 * time.Millisecond) // out of descriptors or memory: sessions end and give some back
			continue
		}
		if a, ok := conn.RemoteAddr().(*vsock.Addr); !ok || a.ContextID != wire.HostCID {
			conn.Close()
			continue
		}
		go func() {
			<-g.ready
			g.server.Serve(conn)
		}()
	}
}

// signals handles those that PID 1 is sent. All but the ones for power-off are
// ignored: the Go runtime would end the process for some, and with it the guest.
func (g *guest) signals() {
	c := make(chan os.Signal, 16)
	for sig := syscall.SIGHUP; sig <= syscall.SIGSYS; sig++ {
		switch sig {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGKILL, syscall.SIGSTOP:
			// The reaper's; the runtime's; not to be caught.
		default:
			signal.Notify(c, sig)
		}
	}
	for sig := range c {
		switch sig {
		case syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGINT, syscall.SIGPWR:
			go g.powerOff(signalGrace)
		}
	}
}

// powerOff ends the guest: processes, sessions, file systems, machine.
func (g *guest) powerOff(grace time.Duration) {
	g.end.Do(func() {
		g.listener.Close()
		power.EndProcesses(g.users, grace)
		g.flush()
		power.SyncDisks()
		g.announce(wire.StatusPoweroff)
		power.Off()
	})
}

// announce tells the VMM that this is the end, and gives it time to take the
// machine away. A restart right after the write would overtake it: the kernel
// sends what is written to a vsock from a work queue.
func (g *guest) announce(line string) {
	g.status.Write([]byte(line))
	g.status.SetReadDeadline(time.Now().Add(endTime))
	g.status.Read(make([]byte, 1))
}

// flush waits for the sessions to report their commands' ends.
func (g *guest) flush() {
	done := make(chan struct{})
	go func() {
		g.server.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(flushTime):
	}
}

// logLine writes a line to the kernel's log, which the console shows.
func logLine(text string) {
	const warning = "<4>"
	line := []byte(warning + "agentkernel: " + text + "\n")
	fd, err := unix.Open("/dev/kmsg", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		os.Stderr.Write(line[len(warning):])
		return
	}
	defer unix.Close(fd)
	unix.Write(fd, line)
}
