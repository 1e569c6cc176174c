package guest

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchDelay keeps the watcher, which takes a thread, away from short commands.
const watchDelay = 50 * time.Millisecond

// watcher notices that nobody reads a pipe or socket any more although nothing
// is written to it: a command that is silent would otherwise outlive the reader
// of its output.
type watcher struct {
	timer *time.Timer

	mu      sync.Mutex
	stopped bool
	wake    int           // eventfd that ends the goroutine
	done    chan struct{} // closed by the goroutine; nil while there is none
}

// watch calls gone, from another goroutine and once at most, when the reader of
// w is gone. Only files that are pipes or sockets are watched. The watching ends
// with stop.
func watch(w any, gone func()) *watcher {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return nil
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil
	}
	t := new(watcher)
	t.timer = time.AfterFunc(watchDelay, func() { t.start(raw, gone) })
	return t
}

func (t *watcher) start(raw syscall.RawConn, gone func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return // the next write will tell
	}
	t.wake, t.done = wake, make(chan struct{})
	go func() {
		defer close(t.done)
		raw.Control(func(fd uintptr) {
			if hungUp(int(fd), wake) {
				gone()
			}
		})
	}()
}

// hungUp blocks until fd has no reader (POLLERR of a pipe, POLLHUP of a socket),
// or until wake is readable, and tells which.
func hungUp(fd, wake int) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}, {Fd: int32(wake), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return false
		}
		switch {
		case fds[1].Revents != 0:
			return false
		case fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0:
			return true
		case fds[0].Revents != 0:
			return false // closed by the caller
		}
	}
}

// stop ends the watching. It may be called on a nil watcher.
func (t *watcher) stop() {
	if t == nil {
		return
	}
	t.timer.Stop()
	t.mu.Lock()
	t.stopped = true
	done := t.done
	t.mu.Unlock()
	if done == nil {
		return
	}
	unix.Write(t.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-done
	unix.Close(t.wake)
}
