package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// killedError is the number of the signal that ended the lab.
type killedError int

func (k killedError) Error() string { return fmt.Sprintf("killed by signal %d", int(k)) }

// watcher turns this process's signals into events for the lab.
type watcher struct {
	caught  chan os.Signal
	signals chan byte
	resizes chan [2]uint16
	done    chan struct{}
}

// watchSignals forwards the first INT, TERM or HUP to the command; the second
// cancels. On a terminal the keys come as input and a signal is from outside.
func watchSignals(tty bool, cancel context.CancelCauseFunc) *watcher {
	w := &watcher{
		caught:  make(chan os.Signal, 8),
		signals: make(chan byte, 1),
		resizes: make(chan [2]uint16, 1),
		done:    make(chan struct{}),
	}
	signal.Notify(w.caught, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if tty {
		signal.Notify(w.caught, syscall.SIGWINCH)
	}
	go w.run(cancel)
	return w
}

func (w *watcher) run(cancel context.CancelCauseFunc) {
	defer close(w.done)
	asked := false
	for s := range w.caught {
		n := s.(syscall.Signal)
		switch {
		case n == syscall.SIGWINCH:
			w.resize()
		case asked:
			cancel(killedError(n))
		default:
			asked = true
			w.signals <- byte(n) // has room for one, and this is the only one
		}
	}
}

// resize passes the newest size on; one that nobody took yet is replaced.
func (w *watcher) resize() {
	rows, cols, ok := terminalSize()
	if !ok {
		return
	}
	select {
	case <-w.resizes:
	default:
	}
	w.resizes <- [2]uint16{rows, cols}
}

func (w *watcher) stop() {
	signal.Stop(w.caught)
	close(w.caught)
	<-w.done
}
