package guest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// listen returns a socket on which each connection is handled by serve.
func listen(t *testing.T, dir string, serve func(net.Conn)) string {
	t.Helper()
	// A listener at a path that is too long for an address: go there first.
	back, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	l, err := net.Listen("unix", "vsock.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(back)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return filepath.Join(dir, "vsock.sock")
}

// hybrid answers CONNECT with the given pieces, one write each, and then behaves
// as a guest that runs a command.
func hybrid(pieces ...string) func(net.Conn) {
	return func(c net.Conn) {
		defer c.Close()
		r := bufio.NewReader(c)
		if line, err := r.ReadString('\n'); err != nil || line != "CONNECT 1\n" {
			return
		}
		for _, p := range pieces {
			c.Write([]byte(p))
		}
		rd := wire.NewReader(r, wire.FromHost)
		if _, err := rd.Next(); err != nil {
			return
		}
		rd.Payload()
		c.Write(join(started, data(1, "hello"), wire.AppendEOF(nil, 1, 5), wire.AppendEOF(nil, 2, 0), exit0))
		io.Copy(io.Discard, r)
	}
}

func TestDial(t *testing.T) {
	for name, tt := range map[string]struct {
		reply []string
		want  error
	}{
		"whole":       {[]string{"OK 1073741824\n"}, nil},
		"longest":     {[]string{"OK 4294967295\n"}, nil},
		"in pieces":   {[]string{"O", "K", " ", "1", "\n"}, nil},
		"refused":     {nil, ErrProtocol}, // binary where OK should be
		"not OK":      {[]string{"NO 1\n"}, ErrProtocol},
		"not a port":  {[]string{"OK x\n"}, ErrProtocol},
		"too large":   {[]string{"OK 4294967296\n"}, ErrProtocol},
		"without end": {[]string{strings.Repeat("O", 100)}, ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Dial(context.Background(), listen(t, t.TempDir(), hybrid(tt.reply...)))
			if err != nil {
				t.Fatal(err)
			}
			o := exec(c, ExecRequest{})
			if tt.want == nil && (o.err != nil || o.out.String() != "hello") || !errors.Is(o.err, tt.want) {
				t.Errorf("%+v", o)
			}
		})
	}
}

// A VMM that hangs up instead of answering.
func TestDialHungUp(t *testing.T) {
	c, err := Dial(context.Background(), listen(t, t.TempDir(), func(c net.Conn) { c.Close() }))
	if err != nil {
		t.Fatal(err)
	}
	if o := exec(c, ExecRequest{}); !errors.Is(o.err, ErrLost) {
		t.Errorf("%v", o.err)
	}
}

// Request and CONNECT line go out together.
func TestDialPipelines(t *testing.T) {
	first := make(chan []byte, 1)
	c, err := Dial(context.Background(), listen(t, t.TempDir(), func(c net.Conn) {
		defer c.Close()
		buf := make([]byte, 1000)
		n, _ := c.Read(buf)
		first <- buf[:n]
	}))
	if err != nil {
		t.Fatal(err)
	}
	exec(c, ExecRequest{})
	if p := <-first; !strings.HasPrefix(string(p), "CONNECT 1\n\x01") || !strings.Contains(string(p), "true") {
		t.Errorf("%q", p)
	}
}

// A home whose path is longer than a socket's address.
func TestDialLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 100))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(context.Background(), listen(t, dir, hybrid("OK 5\n")))
	if err != nil {
		t.Fatal(err)
	}
	if o := exec(c, ExecRequest{}); o.err != nil || o.out.String() != "hello" {
		t.Errorf("%+v", o)
	}
}

func TestDialErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(context.Background(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	stale := filepath.Join(dir, "stale")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := Dial(context.Background(), stale); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
	long := filepath.Join(dir, strings.Repeat("d", 100), "none")
	if _, err := Dial(context.Background(), long); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
