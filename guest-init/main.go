// The guest's first process: it makes the bare kernel a system, and serves the
// host's requests over vsock until it is told to end.
package main

import (
	"fmt"
	"os"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest-init: runs as the first process of a guest only")
		os.Exit(1)
	}
	var g guest
	if err := g.boot(); err != nil {
		g.fail(err)
	}
	g.run()
}
