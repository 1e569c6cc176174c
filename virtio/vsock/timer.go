package vsock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Kinds of deadlines. A connection has at most one, and all of a kind wait
// equally long, so that a list in order of entry is in order of deadline.
const (
	timerHandshake  = iota // for the CONNECT line
	timerConnect           // for the answer to REQUEST
	timerClosing           // for RST after SHUTDOWN(both)
	timerCredit            // for credit, after CREDIT_REQUEST
	timerCreditSlow        // the same, asked for often enough
	numTimers
)

// creditRetry is how long data waits for credit before the guest is asked
// again, when it is the number of packets that is exhausted, not the window: a
// guest that believes there is room may keep silent for ever. The first
// creditTries come at this pace, the others at creditRetrySlow.
const (
	creditRetry     = 50 * time.Millisecond
	creditTries     = 4
	creditRetrySlow = time.Second
)

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
		timerHandshake:  int64(l.Handshake),
		timerConnect:    int64(l.Connect),
		timerClosing:    int64(l.Close),
		timerCredit:     int64(creditRetry),
		timerCreditSlow: int64(creditRetrySlow),
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

// shift puts every deadline off.
func (t *timers) shift(by int64) {
	for i := range t.lists {
		for c := t.lists[i].head; c != nil; c = c.links[linkTimer].next {
			c.deadline += by
		}
	}
}

// startTimer gives c a deadline in place of the one it has.
func (d *Device) startTimer(c *conn, kind int) {
	c.unlink(linkTimer)
	c.deadline = d.clock() + d.timers.waits[kind]
	d.timers.lists[kind].push(c)
}

// armTimer sets the timerfd if it would fire too late, or not at all.
func (d *Device) armTimer() {
	if d.paused {
		return // Resume wakes the loop
	}
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
	if d.paused {
		return
	}
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
	case timerCredit, timerCreditSlow:
		if c.starved {
			d.askCredit(c)
		}
	}
}

// askCredit sends CREDIT_REQUEST, and does so again if that is the only way to
// hear of the guest.
func (d *Device) askCredit(c *conn) {
	d.raise(c, dueCreditRequest)
	switch {
	case c.windowFull(): // the guest will say so when there is room
	case c.asked < creditTries:
		c.asked++
		d.startTimer(c, timerCredit)
	default:
		d.startTimer(c, timerCreditSlow)
	}
}
