//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/tests/measure"
)

const (
	chunk = 16 << 20
	bulk  = 16 * chunk

	// boundKiB is what neither the CLI nor the VMM, guest memory apart, may
	// exceed however much data passes through: several times what is seen,
	// and far below the data.
	boundKiB = 32 << 10
)

// maxRSS is the peak resident size in KiB of a command that has ended.
func maxRSS(cmd *exec.Cmd) int {
	return int(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
}

// chunkHashes hashes what is written to it, a chunk at a time.
type chunkHashes struct {
	hash.Hash
	in   int // bytes of the chunk so far
	sums []string
}

func (h *chunkHashes) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), chunk-h.in)
		h.Hash.Write(rest[:n])
		rest = rest[n:]
		if h.in += n; h.in == chunk {
			h.sums = append(h.sums, hex.EncodeToString(h.Sum(nil)))
			h.Reset()
			h.in = 0
		}
	}
	return len(p), nil
}

// 256 MiB out of the guest and 16 MiB into it arrive unchanged, and stay in
// nobody's memory.
func TestBulk(t *testing.T) {
	sb := started(t, "bulk")
	want, _, _ := strings.Cut(must(t, "exec", sb, "--", "sh", "-c",
		fmt.Sprintf("head -c %d /dev/urandom > /tmp/chunk; sha256sum /tmp/chunk", chunk)), " ")
	out := &chunkHashes{Hash: sha256.New()}
	receive := command(t, "exec", sb, "--", "sh", "-c", "for i in $(seq 16); do cat /tmp/chunk; done")
	receive.Stdout = out
	if r := finish(t, receive); r.code != 0 || out.in != 0 || len(out.sums)*chunk != bulk {
		t.Errorf("exit %d, %d chunks and %d bytes; stderr %q", r.code, len(out.sums), out.in, r.stderr)
	}
	for i, sum := range out.sums {
		if sum != want {
			t.Errorf("chunk %d differs from what the guest sent", i)
		}
	}

	in := sha256.New()
	send := command(t, "exec", "-i", sb, "--", "sha256sum")
	send.Stdin = io.TeeReader(io.LimitReader(random(), chunk), in)
	if r := finish(t, send); r.code != 0 || !strings.HasPrefix(r.stdout, hex.EncodeToString(in.Sum(nil))) {
		t.Errorf("into the guest: exit %d, %q; stderr %q", r.code, r.stdout, r.stderr)
	}

	vmm, err := measure.NonGuest(vmmPID(t, sb), 512<<10)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak: CLI receiving %d KiB, CLI sending %d KiB; VMM beside guest memory %+v KiB", maxRSS(receive), maxRSS(send), vmm)
	for what, kib := range map[string]int{"CLI receiving": maxRSS(receive), "CLI sending": maxRSS(send), "VMM": vmm.RSS} {
		if kib > boundKiB {
			t.Errorf("%s used %d KiB, more than %d", what, kib, boundKiB)
		}
	}
}
