package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/host/store"
	"github.com/agentkernel/agentkernel/host/vmm"
)

// DefaultStartTimeout is how long a guest may take to get ready. It is generous
// because hosts may be slow (software emulation); a guest that can't get ready
// is noticed at once, not by this limit.
const DefaultStartTimeout = 120 * time.Second

// StartOptions say how to start a sandbox.
type StartOptions struct {
	Timeout time.Duration // 0 means DefaultStartTimeout
}

// Start boots a sandbox and returns when the guest takes commands. If it
// doesn't get that far, the sandbox is not running, and the error, a
// *StartError, has the reason and the last lines of the guest's console.
func (h *Host) Start(ctx context.Context, name string, o StartOptions) error {
	b, err := h.store.Open(name)
	if err != nil {
		return err
	}
	defer b.Close()
	held, err := h.acquire(ctx, b)
	if err != nil {
		return err
	}
	defer held.Release()
	c, err := b.Config()
	if err != nil {
		return err
	}
	m, err := h.spawn(held, c)
	if err != nil {
		return err
	}
	held.Release() // from here on the VMM's copy is the lock: its death must free it
	return awaitReady(ctx, b, m, o)
}

// acquire takes the sandbox's lock. A VMM that has ended already may still hold
// it for a moment: that moment is waited for.
func (h *Host) acquire(ctx context.Context, b *store.Sandbox) (*store.Held, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	held, err := b.Acquire(ctx)
	if !errors.Is(err, store.ErrRunning) {
		return held, err
	}
	holder, herr := b.Holder(ctx)
	if herr != nil || holder.VMM && !ending(ctx, b, holder) {
		return nil, err
	}
	return b.Acquire(ctx)
}

// awaitReady waits for the guest, within the limit, and ends the VMM if the
// guest doesn't come.
func awaitReady(ctx context.Context, b *store.Sandbox, m *machine, o StartOptions) error {
	limit := o.Timeout
	if limit <= 0 {
		limit = DefaultStartTimeout
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer m.close()
	err := m.ready(limited)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		m.kill(vmm.KindStopped, "its start was called off")
		return ctx.Err()
	}
	failed := &StartError{Name: b.Name, Reason: err.Error()}
	if errors.Is(err, context.DeadlineExceeded) {
		failed.Reason = fmt.Sprintf("the guest was not ready within %s", limit)
	}
	m.kill(vmm.KindGuestError, failed.Reason)
	failed.complete(b)
	return failed
}

// complete adds what the sandbox's files tell.
func (e *StartError) complete(b *store.Sandbox) {
	if e.Reason == errSilent.Error() {
		if log := tail(b.VMMLog, 1); log != "" {
			e.Reason += ": " + log
		}
	}
	e.Console = tail(b.Console, consoleLines)
}

const (
	consoleLines = 10      // how much of the console an error shows
	tailBytes    = 4 << 10 // and how much of it at most
)

// tail returns the last lines of a log; "" if there are none.
func tail(open func() (*os.File, error), lines int) string {
	f, err := open()
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > tailBytes {
		f.Seek(-tailBytes, io.SeekEnd)
	}
	data, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimRight(string(data), "\x00\r\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
