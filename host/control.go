package host

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/host/store"
	"github.com/agentkernel/agentkernel/host/vmm"
)

// answerWait is how long a living VMM may take for an answer that it gives at
// once. A VMM that takes longer lives all the same: its lock says so.
const answerWait = 2 * time.Second

// control is one request's connection.
type control struct {
	conn net.Conn
	r    *bufio.Reader
}

// dialControl connects to the VMM and sends a request.
func dialControl(ctx context.Context, b *store.Sandbox, request string) (*control, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", b.Socket(store.ControlSocket))
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, request+"\n"); err != nil {
		conn.Close()
		return nil, err
	}
	return &control{conn: conn, r: bufio.NewReaderSize(conn, 512)}, nil
}

func (c *control) close() {
	if c != nil {
		c.conn.Close()
	}
}

// answer waits for the answer until ctx ends. io.EOF and its like mean that the
// VMM is gone.
func (c *control) answer(ctx context.Context) (string, error) {
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := c.r.ReadSlice('\n')
	if ctx.Err() != nil && err != nil {
		return "", ctx.Err()
	}
	return strings.TrimSuffix(string(line), "\n"), err
}

// ending reports whether a VMM whose lock is held is past its end: it has
// recorded it, or was killed and the kernel is still taking it apart. If so, it
// waits until the lock is free.
func ending(ctx context.Context, b *store.Sandbox, h store.Holder) bool {
	if _, _, recorded, err := b.Exit(); err != nil || !recorded {
		if answers(ctx, b) {
			return false
		}
	}
	return b.Wait(ctx, h) == nil
}

// answers reports whether the VMM answers, or has at least not gone away.
func answers(ctx context.Context, b *store.Sandbox) bool {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	c, err := dialControl(ctx, b, vmm.ControlPing)
	if err != nil {
		return !gone(err)
	}
	defer c.close()
	_, err = c.answer(ctx)
	return err == nil || ctx.Err() != nil
}

// finished waits until the VMM has recorded its end or is gone.
func (c *control) finished(ctx context.Context) error {
	line, err := c.answer(ctx)
	if ctx.Err() != nil && err != nil {
		return ctx.Err()
	}
	if err == nil && line != vmm.ControlOK {
		return fmt.Errorf("the VMM answered %q", line)
	}
	return nil
}

// counters asks the VMM how often its vCPUs left the guest, and why. Nothing is
// known of a VMM that does not answer.
func counters(ctx context.Context, b *store.Sandbox) map[string]uint64 {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	c, err := dialControl(ctx, b, vmm.ControlStats)
	if err != nil {
		return nil
	}
	defer c.close()
	line, err := c.answer(ctx)
	if err != nil {
		return nil
	}
	all := make(map[string]uint64)
	for word := range strings.FieldsSeq(line) {
		name, value, _ := strings.Cut(word, "=")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			all[name] = n
		}
	}
	return all
}
