package guest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// maxPath is the longest path that a sockaddr_un holds, with its NUL.
const maxPath = 107

// maxReply bounds the answer to CONNECT: "OK 4294967295\n".
const maxReply = 14

// Dial connects to a sandbox's socket and asks for the guest's exec port. The
// handshake (CONNECT <port>, answered by OK <port>) takes no round trip of its
// own: the request goes out with the first Write, in one piece with it, and the
// answer is taken off the first Read.
//
// The context bounds the connecting alone. An error wraps the cause of the
// system: fs.ErrNotExist and ECONNREFUSED say that no VMM listens.
func Dial(ctx context.Context, socket string) (net.Conn, error) {
	path := socket
	if len(path) > maxPath {
		dir, err := unix.Open(filepath.Dir(socket), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: filepath.Dir(socket), Err: err}
		}
		defer unix.Close(dir)
		path = "/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(socket)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return &conn{UnixConn: c.(*net.UnixConn), prefix: "CONNECT " + strconv.Itoa(wire.ExecPort) + "\n"}, nil
}

// conn is a connection whose handshake is under way.
type conn struct {
	*net.UnixConn

	mu     sync.Mutex
	prefix string // to be sent before the first byte

	answered bool // the reader's: OK was read
}

// Write sends p, the first time behind the CONNECT line.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	prefix := c.prefix
	c.prefix = ""
	if prefix == "" {
		c.mu.Unlock()
		return c.UnixConn.Write(p)
	}
	defer c.mu.Unlock()
	n, err := c.UnixConn.Write(append([]byte(prefix), p...))
	return max(n-len(prefix), 0), err
}

// Read reads what follows the OK line.
func (c *conn) Read(p []byte) (int, error) {
	if !c.answered {
		if err := c.readReply(); err != nil {
			return 0, err
		}
		c.answered = true
	}
	return c.UnixConn.Read(p)
}

// readReply reads the OK line without a byte of what follows: it looks first
// (MSG_PEEK), which costs no more than reading the line byte by byte would.
func (c *conn) readReply() error {
	var buf [maxReply]byte
	for have := 0; ; {
		n, err := c.peek(buf[:], have)
		if err != nil {
			return err
		}
		line, _, whole := strings.Cut(string(buf[:n]), "\n")
		if !whole && n < maxReply {
			have = n
			continue
		}
		if !whole || !validReply(line) {
			return fmt.Errorf("%w: %q in answer to CONNECT", wire.ErrProtocol, line)
		}
		_, err = io.ReadFull(c.UnixConn, buf[:len(line)+1])
		return err
	}
}

func validReply(line string) bool {
	port, ok := strings.CutPrefix(line, "OK ")
	_, err := strconv.ParseUint(port, 10, 32)
	return ok && err == nil
}

// peek returns more than have bytes of what can be read, without taking them.
func (c *conn) peek(buf []byte, have int) (n int, err error) {
	raw, err := c.UnixConn.SyscallConn()
	if err != nil {
		return 0, err
	}
	readErr := raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), buf, unix.MSG_PEEK)
		return err != unix.EAGAIN && (err != nil || n > have || n == 0)
	})
	switch {
	case readErr != nil:
		return 0, readErr
	case err != nil:
		return 0, os.NewSyscallError("recv", err)
	case n <= have:
		return 0, io.EOF
	}
	return n, nil
}
