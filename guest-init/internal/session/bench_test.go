package session_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/agentkernel/agentkernel/host/guest"
)

// BenchmarkExec is a whole exec over a socketpair, both sides in this process.
// Compare BenchmarkSpawn: the price of the process alone.
func BenchmarkExec(b *testing.B) {
	s := newServer(b)
	if os.Geteuid() == 0 {
		s.User = "developer" // whose control group is used again
	}
	b.ReportAllocs()
	for b.Loop() {
		var out bytes.Buffer
		status, err := guest.Exec(context.Background(), dial(b, s), guest.ExecRequest{Args: []string{"/bin/true"}}, nil, &out, &out, nil)
		if err != nil || status.Code != 0 {
			b.Fatal(status, err)
		}
	}
}

func BenchmarkSpawn(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		// Its status is taken by the reaper: an error is expected.
		exec.Command("/bin/true").Run()
	}
}
