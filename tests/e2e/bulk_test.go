//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/tests/measure"
)

const (
	bulk = 256 << 20

	// boundKiB is what neither the CLI nor the VMM, guest memory apart, may
	// exceed however much data passes through: several times what is seen,
	// and far below the data.
	boundKiB = 64 << 10
)

// maxRSS is the peak resident size in KiB of a command that has ended.
func maxRSS(cmd *exec.Cmd) int {
	return int(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
}

type hashing struct {
	hash.Hash
	n int64
}

func (h *hashing) Write(p []byte) (int, error) {
	h.n += int64(len(p))
	return h.Hash.Write(p)
}

func (h *hashing) sum() string { return hex.EncodeToString(h.Sum(nil)) }

// 256 MiB each way arrive unchanged and stay in nobody's memory.
func TestBulk(t *testing.T) {
	sb := started(t, "bulk")
	in := &hashing{Hash: sha256.New()}
	send := command(t, "exec", "-i", sb, "--", "sha256sum")
	send.Stdin = io.TeeReader(io.LimitReader(random(), bulk), in)
	r := finish(t, send)
	if got, _, _ := strings.Cut(r.stdout, " "); r.code != 0 || got != in.sum() {
		t.Errorf("to the guest: exit %d, %s, want %s; stderr %q", r.code, got, in.sum(), r.stderr)
	}
	t.Logf("to the guest: CLI peak %d KiB", maxRSS(send))

	check := ak(t, "exec", sb, "--", "sh", "-c", "yes 0123456789abcdef | head -c 268435456 | sha256sum")
	again := &hashing{Hash: sha256.New()}
	repeat := command(t, "exec", sb, "--", "sh", "-c", "yes 0123456789abcdef | head -c 268435456")
	repeat.Stdout = again
	finish(t, repeat)
	if want, _, _ := strings.Cut(check.stdout, " "); again.sum() != want || again.n != bulk {
		t.Errorf("from the guest: %d bytes, %s, want %s", again.n, again.sum(), want)
	}
	t.Logf("from the guest: CLI peak %d KiB", maxRSS(repeat))

	vmm, err := measure.NonGuest(vmmPID(t, sb), 512<<10)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("VMM beside guest memory: %+v KiB", vmm)
	for what, kib := range map[string]int{"CLI sending": maxRSS(send), "CLI receiving": maxRSS(repeat), "VMM": vmm.RSS} {
		if kib > boundKiB {
			t.Errorf("%s used %d KiB, more than %d", what, kib, boundKiB)
		}
	}
}
