package session

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/guest-init/internal/account"
	"github.com/agentkernel/agentkernel/guest-init/internal/reaper"
	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// execution is one command and its connection. Its goroutines:
//
//	serve   reads frames; ends when the client is gone or says nonsense
//	wait    waits for the child, then for the pumps, and sends Exit
//	pumps   stdout and stderr; may outlive the execution as discarders
//	feed    stdin, if there is one
type execution struct {
	srv  *Server
	req  *wire.Start
	user account.User
	out  output

	child  *reaper.Child
	group  Group // nil without control groups
	stdin  *wire.Inbox
	inFile *os.File
	pumps  [2]*pump
	ended  sync.WaitGroup // the pumps' streams

	mu       sync.Mutex
	over     bool // the child's status is known
	timedOut bool
	timer    *time.Timer   // of the time limit, then of kill-after
	done     chan struct{} // closed when Exit was sent
}

// begin starts the command. On failure nothing of it is left but the group.
func (e *execution) begin() *wire.Failure {
	cmd, f := e.command()
	if f != nil {
		return f
	}
	if g := e.srv.Groups; g != nil {
		group, err := g()
		if err != nil {
			return failed("control group: %v", err)
		}
		e.group = group
	}
	var pipes pipes
	defer pipes.closeChildEnds()
	if err := pipes.open(e.req.Stdin, e.user); err != nil {
		return failed("pipe: %v", err)
	}
	if e.child, f = e.launch(cmd, &pipes); f != nil {
		pipes.closeOurEnds()
		return f
	}
	e.attach(&pipes)
	return nil
}

// attach starts the goroutines around a child that runs.
func (e *execution) attach(p *pipes) {
	e.done = make(chan struct{})
	e.ended.Add(2)
	for i, fd := range [2]int{p.ours[1], p.ours[2]} {
		file := os.NewFile(uintptr(fd), "pipe")
		raw, _ := file.SyscallConn() // an open file has one
		e.pumps[i] = &pump{stream: uint8(i + 1), file: file, raw: raw,
			credit: wire.NewCredit(), out: &e.out, ended: &e.ended}
	}
	var started [wire.HeaderSize + 4]byte
	e.out.later(wire.AppendStarted(started[:0], uint32(e.child.Pid)))
	if e.req.Stdin {
		e.stdin = wire.NewInbox()
		e.inFile = os.NewFile(uintptr(p.ours[0]), "pipe")
		go feed(e.stdin, e.inFile, &e.out)
	}
	go e.pumps[0].run()
	go e.pumps[1].run()
	e.mu.Lock()
	if e.req.Timeout > 0 {
		e.timer = time.AfterFunc(e.req.Timeout, e.timeout)
	}
	e.mu.Unlock()
	go e.wait()
}

// serve reads the client's frames until it is gone.
func (e *execution) serve(conn net.Conn, rd *wire.Reader) {
	for {
		h, err := rd.Next()
		if err == nil {
			err = e.frame(h, rd)
		}
		if err != nil {
			break
		}
	}
	e.hangup()
	<-e.done
	e.release()
}

func (e *execution) frame(h wire.Header, rd *wire.Reader) error {
	if h.Type == wire.TypeData {
		if e.stdin == nil {
			return wire.ErrProtocol
		}
		return e.stdin.Fill(rd, int(h.Length))
	}
	p, err := rd.Payload()
	if err != nil {
		return err
	}
	switch h.Type {
	case wire.TypeEOF:
		total, err := wire.DecodeEOF(p)
		if err != nil || e.stdin == nil {
			return wire.ErrProtocol
		}
		return e.stdin.EOF(total)
	case wire.TypeCredit:
		n, err := wire.DecodeCredit(p)
		if err != nil {
			return err
		}
		return e.pumps[h.Stream-1].credit.Grant(n)
	case wire.TypeSignal:
		sig, err := wire.DecodeSignal(p)
		if err == nil {
			e.srv.Reaper.SignalGroup(e.child, syscall.Signal(sig))
		}
		return err
	}
	return wire.ErrProtocol
}

// hangup ends a command whose client is gone: HUP, and CONT in case it is
// stopped; after a grace whatever is left gets KILL. After the command's own end
// there is nothing to do: what it left running lives on.
func (e *execution) hangup() {
	e.mu.Lock()
	over := e.over
	e.mu.Unlock()
	for _, p := range e.pumps {
		p.credit.Close()
	}
	if over {
		return
	}
	e.signal(syscall.SIGHUP)
	if e.group == nil {
		time.AfterFunc(hangupGrace, e.kill)
		return
	}
	if !e.group.WaitEmpty(time.Now().Add(hangupGrace)) {
		e.kill()
	}
}

// signal signals the process group so that a stopped process gets it too.
func (e *execution) signal(sig syscall.Signal) bool {
	sent := e.srv.Reaper.SignalGroup(e.child, sig)
	e.srv.Reaper.SignalGroup(e.child, syscall.SIGCONT)
	return sent
}

// kill ends every process of the command.
func (e *execution) kill() {
	if e.group == nil || e.group.Kill() != nil {
		e.srv.Reaper.SignalGroup(e.child, syscall.SIGKILL)
	}
}

// timeout is called by the timer of the time limit.
func (e *execution) timeout() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || !e.signal(syscall.SIGTERM) {
		return
	}
	e.timedOut = true
	e.timer = time.AfterFunc(e.req.KillAfter, e.killLate)
}

func (e *execution) killLate() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.over {
		e.kill()
	}
}

// wait sees the command to its end.
func (e *execution) wait() {
	defer close(e.done)
	status := <-e.child.Exited()
	timedOut := e.markOver()
	if timedOut {
		e.kill() // what ignored TERM in another process group
	}
	if e.stdin != nil {
		e.stdin.Close()
		e.inFile.Close()
	}
	for _, p := range e.pumps {
		p.childGone()
	}
	exit := e.exit(status, timedOut)
	e.ended.Wait()
	// The client closes on this; until then its late frames are read.
	e.out.conn.SetReadDeadline(time.Now().Add(lingerTime))
	var frame [wire.HeaderSize + 3]byte
	e.out.last(wire.AppendExit(frame[:0], exit))
}

// markOver records the child's end and stops the timers.
func (e *execution) markOver() (timedOut bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
	if e.timer != nil {
		e.timer.Stop()
	}
	return e.timedOut
}

// exitKilled is how a shell reports that its command was killed.
const exitKilled = 128 + int(syscall.SIGKILL)

func (e *execution) exit(status syscall.WaitStatus, timedOut bool) wire.Exit {
	x := wire.Exit{TimedOut: timedOut}
	if status.Signaled() {
		x.Signal = uint8(status.Signal())
	} else {
		x.Code = uint8(status.ExitStatus())
	}
	killed := x.Signal == uint8(syscall.SIGKILL) || int(x.Code) == exitKilled
	x.OOM = killed && e.group != nil && e.group.OOMKilled()
	return x
}

// release gives the group back. Root can have changed its group.
func (e *execution) release() {
	if e.group != nil {
		e.group.Release(e.user.UID != 0)
	}
}

// pipes are the descriptors of a child's stdin, stdout and stderr.
type pipes struct {
	child [3]int // blocking; 0 where there is none
	ours  [3]int // non-blocking; 0 where there is none
}

// open makes the pipes and gives them to the user, who may open them again
// under /dev/stdout and the like.
func (p *pipes) open(stdin bool, u account.User) error {
	for i := range p.child {
		if i == wire.Stdin && !stdin {
			continue
		}
		if err := p.openOne(i, u); err != nil {
			p.closeOurEnds()
			return err
		}
	}
	return nil
}

func (p *pipes) openOne(i int, u account.User) error {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	ours, child := 0, 1
	if i == wire.Stdin {
		ours, child = 1, 0
	}
	p.ours[i], p.child[i] = fds[ours], fds[child]
	if _, err := unix.FcntlInt(uintptr(fds[ours]), unix.F_SETFL, unix.O_NONBLOCK); err != nil {
		return err
	}
	if u.UID == 0 {
		return nil
	}
	return unix.Fchown(fds[child], int(u.UID), int(u.GID))
}

func (p *pipes) closeChildEnds() { closeAll(&p.child) }
func (p *pipes) closeOurEnds()   { closeAll(&p.ours) }

func closeAll(fds *[3]int) {
	for i, fd := range fds {
		if fd > 0 {
			unix.Close(fd)
			fds[i] = 0
		}
	}
}
