// Package session serves the requests of the wire protocol: one connection, one
// request. It needs no guest: any stream and any Linux machine will do, which is
// how it is tested.
package session

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/agentkernel/agentkernel/guest-init/internal/account"
	"github.com/agentkernel/agentkernel/guest-init/internal/reaper"
	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// Group is the control group of one exec.
type Group interface {
	FD() int                           // for CLONE_INTO_CGROUP
	Kill() error                       // every process in it
	OOMKilled() bool                   // since it was handed out
	WaitEmpty(deadline time.Time) bool // whether no process is left
	Release(pristine bool)             // give it back; pristine: its processes could not change it
}

// Server serves connections. All fields are set before the first Serve and not
// changed after.
type Server struct {
	Reaper   *reaper.Reaper
	Accounts *account.DB
	Groups   func() (Group, error)     // nil: processes are ended by process group alone
	Env      []string                  // of the image; a request's comes after it
	User     string                    // default user
	Dir      string                    // default directory
	Null     int                       // descriptor of /dev/null, for commands without stdin
	Shutdown func(grace time.Duration) // begins the guest's end and returns

	// Fork, if not nil, wraps a fork; highest is the highest descriptor of those
	// that were opened for it.
	Fork func(highest int, fork func())

	sessions sync.WaitGroup
}

const (
	// hangupGrace is how long the processes of a client that went away have
	// between HUP and KILL.
	hangupGrace = 500 * time.Millisecond
	// lingerTime bounds the wait for a client to close after the last frame.
	lingerTime = 10 * time.Second
)

// Serve serves one connection and closes it. It returns when the request is done
// and the client gone. Processes and output pipes that outlive their command may
// outlive Serve.
func (s *Server) Serve(conn net.Conn) {
	s.sessions.Add(1)
	defer s.sessions.Done()
	defer conn.Close()
	rd := wire.NewReader(conn, wire.FromHost)
	h, err := rd.Next()
	if err != nil {
		refuse(conn, err)
		return
	}
	payload, err := rd.Payload()
	if err != nil {
		return
	}
	switch h.Type {
	case wire.TypeStart:
		s.start(conn, rd, payload)
	case wire.TypeShutdown:
		s.shutdown(conn, payload)
	default:
		refuse(conn, fmt.Errorf("%w: the connection does not begin with a request", wire.ErrProtocol))
	}
}

// Wait blocks until no connection is being served.
func (s *Server) Wait() { s.sessions.Wait() }

func (s *Server) start(conn net.Conn, rd *wire.Reader, payload []byte) {
	req, err := wire.DecodeStart(payload)
	if err != nil {
		refuse(conn, err)
		return
	}
	e := &execution{srv: s, req: req, out: output{conn: conn}}
	if f := e.begin(); f != nil {
		e.release()
		conn.Write(wire.AppendError(nil, *f))
		linger(conn)
		return
	}
	e.serve(conn, rd)
}

func (s *Server) shutdown(conn net.Conn, payload []byte) {
	req, err := wire.DecodeShutdown(payload)
	if err != nil {
		refuse(conn, err)
		return
	}
	conn.Write(wire.AppendEmpty(nil, wire.TypeOK))
	s.Shutdown(req.Grace)
}

// refuse answers a connection whose request could not be understood. A client
// that went away gets no answer.
func refuse(conn net.Conn, err error) {
	var version *wire.VersionError
	if errors.Is(err, io.EOF) || !errors.Is(err, wire.ErrProtocol) && !errors.As(err, &version) {
		return
	}
	conn.Write(wire.AppendError(nil, wire.Failure{Code: wire.CodeFailed, Message: err.Error()}))
	linger(conn)
}

// linger waits for the client to close, so that what it still sends does not
// reset the connection before it has read the last frame.
func linger(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(lingerTime))
	io.Copy(io.Discard, io.LimitReader(conn, wire.MaxStart))
}
