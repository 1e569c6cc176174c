package vsock

// Membership of a connection in the device's lists. A connection is in at
// most one list of each kind.
const (
	linkControl = iota // has control packets for the guest
	linkData           // may have data for the guest
	linkTimer          // has a deadline
	numLinks
)

// link is one place of a connection in a list: no list operation allocates.
type link struct {
	in         *list // nil: in no list of the kind
	prev, next *conn
}

// list is an intrusive first-in first-out list of connections.
type list struct {
	kind       int
	head, tail *conn
}

// push appends c unless it is in a list of the kind already.
func (l *list) push(c *conn) {
	k := &c.links[l.kind]
	if k.in != nil {
		return
	}
	*k = link{in: l, prev: l.tail}
	if l.tail == nil {
		l.head = c
	} else {
		l.tail.links[l.kind].next = c
	}
	l.tail = c
}

// pop removes and returns the first connection; nil when the list is empty.
func (l *list) pop() *conn {
	c := l.head
	if c != nil {
		c.unlink(l.kind)
	}
	return c
}

// unlink removes c from the list of the kind that it is in, if any.
func (c *conn) unlink(kind int) {
	k := c.links[kind]
	if k.in == nil {
		return
	}
	if k.prev == nil {
		k.in.head = k.next
	} else {
		k.prev.links[kind].next = k.next
	}
	if k.next == nil {
		k.in.tail = k.prev
	} else {
		k.next.links[kind].prev = k.prev
	}
	c.links[kind] = link{}
}
