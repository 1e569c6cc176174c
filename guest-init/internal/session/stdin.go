package session

import (
	"os"

	"github.com/agentkernel/agentkernel/guest-init/wire"
)

// feed carries the client's bytes into the command's stdin, until the stream's
// end or until nobody reads it any more, and grants the client credit as the
// command reads. It ends when the inbox or the file is closed.
func feed(in *wire.Inbox, file *os.File, out *output) {
	defer file.Close()
	for {
		p, err := in.Peek()
		if err != nil {
			return
		}
		n, err := file.Write(p)
		if err != nil {
			in.Close()
			out.send(wire.AppendEmpty(nil, wire.TypeClosed))
			return
		}
		if grant := in.Discard(n); grant > 0 {
			out.send(wire.AppendCredit(nil, wire.Stdin, grant))
		}
	}
}
