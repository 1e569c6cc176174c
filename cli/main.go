// Command agentkernel runs commands in hardware-isolated sandboxes: small
// virtual machines on KVM, without a daemon and without root.
//
// This package is the command line: grammar, terminal, exit codes and
// sentences. What it does is done by package host.
package main

import (
	"context"
	"os"

	"github.com/agentkernel/agentkernel/host/vmm"
)

func main() {
	// A sandbox's VMM is this same program. It has no use for a command line's
	// grammar, so it branches off first.
	if len(os.Args) > 1 && os.Args[1] == vmm.Command {
		os.Exit(vmm.Main(os.Args[2:]))
	}
	os.Exit(Run(context.Background(), os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
