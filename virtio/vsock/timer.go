package vsock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Kinds of deadlines. A connection has at most one, and all of a kind wait
// equally long, so that a list in order of entry is in order of deadline.
const (
	timerHandshake = iota // for the CONNECT line
	timerConnect          // for the answer to REQUEST
	timerClosing          // for RST after SHUTDOWN(both)
	timerCredit           // for credit, after CREDIT_REQUEST
	numTimers
)

// creditRetry is how long data waits for credit before the guest is asked
// again. A guest that reads says so by itself; this is for one that does not
// because it thinks there is room, when it is the count of packets that is
// exhausted.
const creditRetry = 50 * time.Millisecond

// acceptRetry is how long the listener rests when descriptors have run out and
// none of ours is closed.
const acceptRetry = time.Second

type timers struct {
	lists [numTimers]list
	waits [numTimers]int64 // nanoseconds
	armed int64            // when the timerfd fires; 0: not armed
}

func (t *timers) init(l Limits) {
	for i := range t.lists {
		t.lists[i].kind = linkTimer
	}
	t.waits = [numTimers]int64{
		timerHandshake: int64(l.Handshake),
		timerConnect:   int64(l.Connect),
		timerClosing:   int64(l.Close),
		timerCredit:    int64(creditRetry),
	}
}

// next returns the earliest deadline; 0 for none.
func (t *timers) next() int64 {
	var next int64
	for i := range t.lists {
		if c := t.lists[i].head; c != nil && (next == 0 || c.deadline < next) {
			next = c.deadline
		}
	}
	return next
}

// startTimer gives c a deadline in place of the one it has.
func (d *Device) startTimer(c *conn, kind int) {
	c.unlink(linkTimer)
	c.deadline = d.clock() + d.timers.waits[kind]
	d.timers.lists[kind].push(c)
}

// armTimer sets the timerfd if it would fire too late, or not at all.
func (d *Device) armTimer() {
	next := d.timers.next()
	if at := d.accepting.retryAt; at != 0 && (next == 0 || at < next) {
		next = at
	}
	if next == 0 || d.timers.armed != 0 && d.timers.armed <= next {
		return
	}
	wait := max(1, next-d.clock())
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(wait)}
	if err := unix.TimerfdSettime(d.fds.timer, 0, &spec, nil); err != nil {
		d.log("vsock: arm timer: %v", err)
		return
	}
	d.timers.armed = next
}

// expire ends every wait whose deadline has passed.
func (d *Device) expire() {
	now := d.clock()
	if d.accepting.retryAt != 0 && d.accepting.retryAt <= now {
		d.accepting.resume()
	}
	for kind := range d.timers.lists {
		l := &d.timers.lists[kind]
		// Bounded: startTimer sets deadlines that are later than now.
		for l.head != nil && l.head.deadline <= now {
			d.timeout(l.pop(), kind)
		}
	}
}

func (d *Device) timeout(c *conn, kind int) {
	switch kind {
	case timerHandshake:
		d.stats.Timeouts++
		d.abandon(c, false)
	case timerConnect, timerClosing:
		d.stats.Timeouts++
		d.abandon(c, true)
	case timerCredit:
		if c.starved {
			d.raise(c, dueCreditRequest)
			d.startTimer(c, timerCredit)
		}
	}
}
