// Command lab runs a command on an emulated host that has /dev/kvm.
package main

import (
	"os"

	"github.com/agentkernel/agentkernel/tests/lab/l1"
)

func main() {
	if l1.Wanted() {
		l1.Main()
	}
	os.Exit(run(os.Args[1:]))
}
