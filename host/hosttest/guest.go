package hosttest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// guest serves one request as a guest's first process would, though it is far
// simpler: no users, no directories, no control groups.
type guest struct {
	m    *machine
	conn net.Conn
	rd   *wire.Reader

	credit [3]*wire.Credit // of stdout and stderr

	mu sync.Mutex // one frame at a time
}

func (m *machine) vsock(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	if line, err := br.ReadString('\n'); err != nil || line != "CONNECT 1\n" {
		return
	}
	conn.Write([]byte("OK 1073741824\n"))
	g := &guest{m: m, conn: conn, rd: wire.NewReader(br, wire.FromHost),
		credit: [3]*wire.Credit{wire.Stdout: wire.NewCredit(), wire.Stderr: wire.NewCredit()}}
	h, err := g.rd.Next()
	if err != nil {
		return
	}
	payload, err := g.rd.Payload()
	if err != nil {
		return
	}
	switch h.Type {
	case wire.TypeShutdown:
		g.shutdown()
	case wire.TypeStart:
		start, err := wire.DecodeStart(payload)
		if err != nil {
			g.send(wire.AppendError(nil, wire.Failure{Code: 125, Message: err.Error()}))
			return
		}
		g.run(start)
	}
}

func (g *guest) send(frame []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conn.Write(frame)
}

func (g *guest) shutdown() {
	g.send(wire.AppendEmpty(nil, wire.TypeOK))
	if !strings.HasPrefix(g.m.name, Deaf) && !strings.HasPrefix(g.m.name, Stuck) {
		g.m.end("poweroff", "the guest powered off", func() {})
	}
}

// run runs a command and answers with its output and its end. A command that is
// named kill-vmm or lose-connection does that instead; oom ends as if the
// guest's out-of-memory killer had struck.
func (g *guest) run(s *wire.Start) {
	switch s.Args[0] {
	case "kill-vmm":
		syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	case "lose-connection":
		g.send(wire.AppendStarted(nil, 2))
		return
	}
	cmd := exec.Command(s.Args[0], s.Args[1:]...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, s.Env...)
	cmd.Dir = s.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, in, err := g.start(cmd, s)
	if s.Args[0] == "oom" {
		g.end(out, wire.Exit{Signal: 9, OOM: true})
		return
	}
	if err != nil {
		code := uint8(126)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, syscall.ENOENT) {
			code = 127
		}
		g.send(wire.AppendError(nil, wire.Failure{Code: code, Message: err.Error()}))
		return
	}
	go g.listen(cmd, in)
	out.Wait()
	cmd.Wait()
	g.end(out, exitOf(cmd))
}

func exitOf(cmd *exec.Cmd) wire.Exit {
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return wire.Exit{Signal: uint8(ws.Signal())}
	}
	return wire.Exit{Code: uint8(ws.ExitStatus())}
}

// outputs are a command's two outputs on their way.
type outputs struct {
	sync.WaitGroup
	total [3]uint64
}

func (g *guest) start(cmd *exec.Cmd, s *wire.Start) (*outputs, io.WriteCloser, error) {
	out := &outputs{}
	stdout, _ := cmd.StdoutPipe()
	stderr, _ := cmd.StderrPipe()
	var in io.WriteCloser
	if s.Stdin {
		in, _ = cmd.StdinPipe()
	}
	g.mu.Lock() // Started comes first
	defer g.mu.Unlock()
	if err := cmd.Start(); err != nil && s.Args[0] != "oom" {
		return out, nil, err
	}
	g.conn.Write(wire.AppendStarted(nil, 2))
	if s.Args[0] == "oom" {
		return out, nil, nil
	}
	out.Go(func() { g.pump(stdout, wire.Stdout, out) })
	out.Go(func() { g.pump(stderr, wire.Stderr, out) })
	return out, in, nil
}

func (g *guest) pump(r io.Reader, stream uint8, out *outputs) {
	buf := make([]byte, wire.HeaderSize+16<<10)
	for {
		room := min(g.credit[stream].Wait(), 16<<10)
		if room == 0 {
			return // the client is gone
		}
		n, err := r.Read(buf[wire.HeaderSize : wire.HeaderSize+room])
		if n > 0 {
			g.credit[stream].Use(n)
			out.total[stream] += uint64(n)
			wire.PutHeader(buf, wire.Header{Type: wire.TypeData, Stream: stream, Length: uint32(n)})
			g.send(buf[:wire.HeaderSize+n])
		}
		if err != nil {
			return
		}
	}
}

func (g *guest) end(out *outputs, exit wire.Exit) {
	b := wire.AppendEOF(nil, wire.Stdout, out.total[wire.Stdout])
	b = wire.AppendEOF(b, wire.Stderr, out.total[wire.Stderr])
	g.send(wire.AppendExit(b, exit))
}

// listen takes stdin and signals until the client goes, which ends the command.
func (g *guest) listen(cmd *exec.Cmd, in io.WriteCloser) {
	defer func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		g.credit[wire.Stdout].Close()
		g.credit[wire.Stderr].Close()
	}()
	for {
		h, err := g.rd.Next()
		if err != nil {
			return
		}
		p, err := g.rd.Payload()
		if err != nil {
			return
		}
		switch h.Type {
		case wire.TypeData:
			in.Write(p)
			g.send(wire.AppendCredit(nil, wire.Stdin, uint32(len(p))))
		case wire.TypeEOF:
			in.Close()
		case wire.TypeCredit:
			if n, err := wire.DecodeCredit(p); err == nil {
				g.credit[h.Stream].Grant(n)
			}
		case wire.TypeSignal:
			syscall.Kill(-cmd.Process.Pid, syscall.Signal(p[0]))
		}
	}
}
