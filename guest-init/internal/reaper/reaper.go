// Package reaper starts children and collects their exit statuses. In a process
// that adopts orphans, wait4 for one child steals the status of another; hence
// one Reaper is the only caller of wait4, for children and orphans alike.
//
// One mutex covers both starting (fork and entry in the table) and reaping
// (wait4 and removal), and wait4 never blocks. So a status can neither arrive
// before its child is in the table, nor can a signal reach a process that took
// over a reaped child's number.
package reaper

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Reaper owns the children of this process.
type Reaper struct {
	sigchld chan os.Signal
	done    chan struct{}

	mu       sync.Mutex
	children map[int]*Child
}

// Child is a process that Start started.
type Child struct {
	Pid    int
	exited chan syscall.WaitStatus // one status, buffered
	gone   bool                    // reaped; guarded by Reaper.mu
}

// Exited delivers the child's status, once.
func (c *Child) Exited() <-chan syscall.WaitStatus { return c.exited }

// New returns a reaper. Nothing is reaped until Run.
func New() *Reaper {
	r := &Reaper{
		sigchld:  make(chan os.Signal, 1),
		done:     make(chan struct{}),
		children: make(map[int]*Child),
	}
	signal.Notify(r.sigchld, syscall.SIGCHLD)
	return r
}

// Run reaps until Close.
func (r *Reaper) Run() {
	for {
		select {
		case <-r.sigchld:
			r.reap()
		case <-r.done:
			return
		}
	}
}

// Close ends Run.
func (r *Reaper) Close() {
	signal.Stop(r.sigchld)
	close(r.done)
}

// reap collects every status that there is. One SIGCHLD may stand for many.
func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c := r.children[pid]; c != nil {
			delete(r.children, pid)
			c.gone = true
			c.exited <- status
		}
	}
}

// Start starts a child as syscall.ForkExec does. around, if not nil, wraps the
// fork: it runs with starting and reaping locked out.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr, around func(fork func())) (*Child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var pid int
	var err error
	fork := func() { pid, err = syscall.ForkExec(path, argv, attr) }
	if around != nil {
		around(fork)
	} else {
		fork()
	}
	if err != nil {
		return nil, err
	}
	c := &Child{Pid: pid, exited: make(chan syscall.WaitStatus, 1)}
	r.children[pid] = c
	return c, nil
}

// SignalGroup sends a signal to the child's process group, which bears the
// child's number, unless the child was reaped. It reports whether it was sent.
func (r *Reaper) SignalGroup(c *Child, sig syscall.Signal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !c.gone && syscall.Kill(-c.Pid, sig) == nil
}
