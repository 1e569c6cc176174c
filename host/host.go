// Package host creates sandboxes, runs commands in them and removes them: all
// that the command line does, for programs.
//
//	h, err := host.Open(home)             // home, err := host.DefaultHome()
//	_, err = h.Create(ctx, host.Config{Name: "box", CPUs: 1, MemoryMiB: 512})
//	err = h.Start(ctx, "box", host.StartOptions{})
//	status, err := h.Exec(ctx, "box", host.ExecRequest{Args: []string{"true"}}, host.Streams{})
//
// There is no daemon: every call works on the state directory, and any number
// of processes may do so at once. A sandbox's VMM is a process of its own that
// outlives the caller; it is started as the hidden command `agentkernel vmm` of
// [Host.Program], by default the running program's own file. An embedder whose
// program is not agentkernel names the agentkernel binary there.
//
// Calls block until what they are named for is done or their context ends. They
// print nothing, handle no signals and read no environment (DefaultHome alone
// does). Errors wrap the sentinels of this package and name the sandbox. Text
// in errors and reasons may quote the guest: escape it before it meets a
// terminal.
package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/host/store"
	"github.com/agentkernel/agentkernel/kvm"
)

// HomeVariable names the environment variable that says where state is kept.
const HomeVariable = "AGENTKERNEL_HOME"

// DefaultHome returns where state is kept: $AGENTKERNEL_HOME, or
// ~/.agentkernel.
func DefaultHome() (string, error) {
	if home := os.Getenv(HomeVariable); home != "" {
		return filepath.Abs(home)
	}
	if home := os.Getenv("HOME"); home != "" {
		return filepath.Abs(filepath.Join(home, ".agentkernel"))
	}
	return "", errors.New("HOME is not set: set " + HomeVariable + " to the directory that is to keep the sandboxes' state")
}

// Host is an open state directory. It is safe for use by several goroutines.
type Host struct {
	// Program is the agentkernel binary that VMMs are started from; by default
	// the running program's own file. Set it before the first use.
	Program string
	// Device opens /dev/kvm; by default, that of the host. An embedder without
	// the right to may get it from a broker.
	Device func() (*os.File, error)

	store *store.Store
}

// Open opens the state directory home, and makes it if it isn't there.
func Open(home string) (*Host, error) {
	s, err := store.Open(home)
	if err != nil {
		return nil, err
	}
	return &Host{Program: "/proc/self/exe", Device: kvm.OpenDevice, store: s}, nil
}

// Close closes the state directory. It ends no sandbox.
func (h *Host) Close() { h.store.Close() }

// Config is what a sandbox is created with.
type Config = store.Config

// By default a sandbox has one vCPU and 512 MiB of memory.
const (
	DefaultCPUs      = 1
	DefaultMemoryMiB = 512
)

// Status is what a sandbox is doing.
type Status string

// The statuses.
const (
	Created Status = "created" // never started
	Running Status = "running" // its VMM lives; the guest may still be booting
	Stopped Status = "stopped" // ended in order
	Died    Status = "died"    // ended otherwise: see Reason
	Broken  Status = "broken"  // its files can't be read: see Reason
)

// Sandbox is what is known of a sandbox.
type Sandbox struct {
	Name      string
	Status    Status
	Reason    string // why it died or is broken; may quote the guest
	Created   time.Time
	CPUs      int
	MemoryMiB int
	Kernel    string // "" for the embedded one
	Dir       string // where its files are
	Socket    string // its vsock socket, while it runs: "CONNECT <port>" first
	PID       int    // of its VMM; 0 if it isn't running, or not known

	// KVM is how often the vCPUs have left the guest since its start, by KVM's
	// names ("exits" for all, "mmio_exits", …). Only Inspect fills it in, and
	// only while the sandbox runs.
	KVM map[string]uint64
}

// lockWait is how long a call waits for locks that are held for moments only.
const lockWait = 10 * time.Second

// Create makes a sandbox, which is then there but not running. Zero CPUs and
// MemoryMiB mean the defaults, an empty name a generated one.
func (h *Host) Create(ctx context.Context, c Config) (Sandbox, error) {
	held, c, err := h.create(ctx, c)
	if err != nil {
		return Sandbox{}, err
	}
	defer held.Close()
	defer held.Release()
	h.sweep(ctx)
	return Sandbox{
		Name: c.Name, Status: Created, Created: c.Created, CPUs: c.CPUs,
		MemoryMiB: c.MemoryMiB, Kernel: c.Kernel, Dir: held.Path(),
	}, nil
}

func (h *Host) create(ctx context.Context, c Config) (*store.Held, Config, error) {
	if c.CPUs == 0 {
		c.CPUs = DefaultCPUs
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = DefaultMemoryMiB
	}
	if c.Created.IsZero() {
		c.Created = time.Now().UTC().Truncate(time.Second)
	}
	if err := checkKernel(c.Kernel); err != nil {
		return nil, c, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	if c.Name != "" {
		held, err := h.store.Create(ctx, c)
		return held, c, err
	}
	for range 100 { // 2^16 of each pair of words: two tries are rare
		c.Name = generateName()
		held, err := h.store.Create(ctx, c)
		if !errors.Is(err, store.ErrExists) {
			return held, c, err
		}
	}
	return nil, c, errors.New("no free generated name found: name the sandbox")
}

// checkKernel finds a mistyped --kernel when the sandbox is created, not later.
func checkKernel(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return fmt.Errorf("kernel: %s is not a regular file", path)
	}
	return nil
}

// sweep deletes what killed commands left behind. It is housekeeping: what
// can't be swept stays, and is no error of the command at hand.
func (h *Host) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	_ = h.store.Sweep(ctx)
}

// List returns all sandboxes, by name. One that can't be read is listed as
// Broken.
func (h *Host) List(ctx context.Context) ([]Sandbox, error) {
	h.sweep(ctx)
	names, err := h.store.Names()
	if err != nil {
		return nil, err
	}
	all := make([]Sandbox, 0, len(names))
	for _, name := range names {
		s, err := h.Inspect(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			s = Sandbox{Name: name, Status: Broken, Reason: brokenReason(err)}
		}
		all = append(all, s)
	}
	return all, nil
}

// Inspect returns what is known of one sandbox.
func (h *Host) Inspect(ctx context.Context, name string) (Sandbox, error) {
	b, err := h.store.Open(name)
	if errors.Is(err, store.ErrBroken) {
		return Sandbox{Name: name, Status: Broken, Reason: brokenReason(err)}, nil
	}
	if err != nil {
		return Sandbox{}, err
	}
	defer b.Close()
	s := Sandbox{Name: name, Dir: b.Path()}
	c, err := b.Config()
	if err == nil {
		s.Created, s.CPUs, s.MemoryMiB, s.Kernel = c.Created, c.CPUs, c.MemoryMiB, c.Kernel
		s.Status, s.Reason, err = status(ctx, b)
	}
	if errors.Is(err, store.ErrBroken) {
		s.Status, s.Reason, err = Broken, brokenReason(err), nil
	}
	if s.Status == Running {
		s.PID = b.Pid()
		s.Socket = filepath.Join(s.Dir, store.VsockSocket)
		s.KVM = counters(ctx, b)
	}
	return s, err
}

// brokenReason is what makes a sandbox broken, without the word itself.
func brokenReason(err error) string {
	return strings.TrimPrefix(err.Error(), store.ErrBroken.Error()+": ")
}

// status derives a sandbox's status from its lock and its exit file.
func status(ctx context.Context, b *store.Sandbox) (Status, string, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	holder, err := b.Holder(ctx)
	if err != nil {
		return "", "", err
	}
	if holder.VMM && !ending(ctx, b, holder) {
		return Running, "", nil
	}
	exit, started, recorded, err := b.Exit()
	switch {
	case err == nil && started && !recorded && holder.Command:
		return Running, "", nil // its VMM is being started
	case err != nil:
		return "", "", err
	case !started:
		return Created, "", nil
	case exit.Orderly():
		return Stopped, "", nil
	}
	return Died, exit.Reason, nil
}
