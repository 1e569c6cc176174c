package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/agentkernel/agentkernel/virtio"
	"github.com/agentkernel/agentkernel/virtio/queue"
)

// eventTransportReset is VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, §5.10.6.7: the
// driver resets every connection and reads its CID again.
const eventTransportReset = 0

const eventSize = 4 // struct virtio_vsock_event

// transportReset tells the guest that its connections are no more. Nothing is
// put on the receive queue between the event and its acknowledgement: a
// connection opened too early would be reset with the others.
type transportReset struct {
	due     bool // not on the event queue yet
	waiting bool // not acknowledged yet
	chain   queue.Chain
}

// announceReset makes the event due.
func (d *Device) announceReset() {
	d.transport.due, d.transport.waiting = true, true
}

// serveEvents moves a transport reset on. The acknowledgement is that the
// driver makes buffers available anew: the device uses up all there are, one
// for the event, the others with a length of 0, which says nothing.
func (d *Device) serveEvents() error {
	t := &d.transport
	if !t.waiting {
		return nil
	}
	if d.event == nil { // nobody to tell
		*t = transportReset{}
		return nil
	}
	if t.due {
		if err := d.useUpEvents(); err != nil {
			return err
		}
	} else if pending, err := d.event.Pending(); err != nil || pending {
		t.waiting = false
		return err
	}
	more, err := d.event.EnableNotify()
	if more {
		d.fds.signal(d.fds.wake)
	}
	return err
}

// useUpEvents uses every buffer of the event queue: as many as its size at
// most, since none is published in between.
func (d *Device) useUpEvents() error {
	t := &d.transport
	for range d.event.Size() {
		ok, err := d.event.Pop(&t.chain)
		if err != nil || !ok {
			return err
		}
		if err := d.postEvent(); err != nil {
			return err
		}
	}
	return nil
}

// postEvent uses the popped buffer, for the event if that is still due.
func (d *Device) postEvent() error {
	var event [eventSize]byte
	binary.LittleEndian.PutUint32(event[:], eventTransportReset)
	written := uint32(0)
	if d.transport.due && copyOut(d.mem, d.transport.chain.Writable, event[:]) {
		d.transport.due = false
		written = eventSize
	}
	return d.event.Push(d.transport.chain.Head, written)
}

// StateVersion is the version of State.
const StateVersion = 1

// State is a device at rest, for a snapshot. Connections are not part of it:
// they end, and the guest learns so after Restore.
type State struct {
	Version  uint32
	Active   bool
	Features uint64
	NextPort uint32
	Queues   [numQueues]queue.State
	HasEvent bool // the driver made the event queue ready
}

var errState = errors.New("vsock: invalid state")

// State returns the device's state. The VM must be paused.
func (d *Device) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := State{Version: StateVersion, NextPort: d.nextPort, Active: d.mem != nil}
	if !s.Active {
		return s
	}
	s.Features, s.HasEvent = d.act.Features, d.event != nil
	for i, q := range d.act.Queues {
		if q != nil {
			s.Queues[i] = q.State()
		}
	}
	return s
}

// Restore continues from s in place of Activate, on an inactive device. The
// queues of a are those that the transport made; their state comes from s. When
// s was inactive a is not used.
func (d *Device) Restore(s State, a virtio.Activation) error {
	if s.Version != StateVersion || s.NextPort < firstPort {
		return fmt.Errorf("%w: version %d, port %d", errState, s.Version, s.NextPort)
	}
	if s.Active {
		if len(a.Queues) != numQueues || a.Queues[queueRX] == nil || a.Queues[queueTX] == nil || (a.Queues[queueEvent] != nil) != s.HasEvent {
			return errNoQueue
		}
		for i, q := range a.Queues {
			if q == nil {
				continue
			}
			if err := q.Restore(s.Queues[i]); err != nil {
				return fmt.Errorf("vsock: queue %d: %w", i, err)
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mem != nil {
		return fmt.Errorf("%w: the device is active", errState)
	}
	d.nextPort = s.NextPort
	if s.Active {
		d.activate(a)
		d.announceReset()
		d.fds.signal(d.fds.wake)
	}
	return nil
}
