//go:build lab

package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/tests/lab/l1"
)

// The lab's own test: go test -tags lab ./tests/lab -run Lab [-intel].
var onIntel = flag.Bool("intel", false, "test the Intel lab")

// TestMain makes the test binary, too, the init of the hosts that it boots. It
// must be static for that: CGO_ENABLED=0.
func TestMain(m *testing.M) {
	if l1.Wanted() {
		l1.Main()
	}
	os.Exit(m.Run())
}

// sh runs a script in a lab that change has adapted.
func sh(t *testing.T, script string, change func(*Options)) (code int, stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	o := Options{
		Args: []string{"sh", "-c", script}, Intel: *onIntel, MemoryMiB: 1024, CPUs: 1,
		Timeout: 30 * time.Minute, Stdout: &out, Stderr: &errs, Log: os.Stderr,
	}
	if change != nil {
		change(&o)
	}
	code, err = Run(context.Background(), o)
	return code, out.String(), errs.String(), err
}

func TestLabRunsACommandWithKVM(t *testing.T) {
	code, out, errs, err := sh(t, "echo out; echo err >&2; test -c /dev/kvm && exit 7", nil)
	if err != nil || code != 7 || out != "out\n" || errs != "err\n" {
		t.Errorf("code %d, stdout %q, stderr %q, %v", code, out, errs, err)
	}
}

func TestLabStreamsAreByteExact(t *testing.T) {
	size := 20 << 20
	if *onIntel {
		size = 4 << 10 // through a UART
	}
	data := make([]byte, size)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	code, out, errs, err := sh(t, "cat; echo done >&2", func(o *Options) { o.Stdin = bytes.NewReader(data) })
	if err != nil || code != 0 || errs != "done\n" {
		t.Fatalf("code %d, stderr %q, %v", code, errs, err)
	}
	if sha256.Sum256([]byte(out)) != sha256.Sum256(data) {
		t.Errorf("%d bytes came back of %d, or others", len(out), len(data))
	}
}

func TestLabTellsTheSignal(t *testing.T) {
	code, _, _, err := sh(t, "sleep 1000 & kill -9 $$", nil)
	if err != nil || code != 137 {
		t.Errorf("code %d, %v", code, err)
	}
}

func TestLabForwardsSignals(t *testing.T) {
	signals := make(chan byte, 1)
	r, w := io.Pipe()
	go func() { // the trap is set once the script has said so
		io.ReadFull(r, make([]byte, 1))
		signals <- 15
		io.Copy(io.Discard, r)
	}()
	code, _, _, err := sh(t, "trap 'exit 3' TERM; echo; while :; do sleep 0.1; done", func(o *Options) {
		o.Stdout, o.Signals = w, signals
	})
	w.Close()
	if err != nil || code != 3 {
		t.Errorf("code %d, %v", code, err)
	}
}

func TestLabEndsOnTime(t *testing.T) {
	_, _, _, err := sh(t, "sleep 100000000", func(o *Options) { o.Timeout = time.Second })
	if !errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
}

func TestLabTellsAPanicOfTheHost(t *testing.T) {
	_, _, _, err := sh(t, "echo c > /proc/sysrq-trigger; sleep 1000", nil)
	if err == nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Error(err)
	}
}

func TestLabAddsAFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/prog", []byte("#!/bin/sh\necho ran $0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, out, _, err := sh(t, "/mnt/prog", func(o *Options) { o.Add = dir })
	if err != nil || out != "ran /mnt/prog\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestLabGivesATerminal(t *testing.T) {
	_, out, _, err := sh(t, "stty size; test -t 0 && test -t 1 && test -t 2 && echo yes", func(o *Options) {
		o.TTY, o.Rows, o.Cols = true, 33, 101
	})
	if err != nil || out != "33 101\r\nyes\r\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestLabApplianceHasAReadOnlyRoot(t *testing.T) {
	// The test binary is the program: it fails, for it can't write its results.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs, err := sh(t, "", func(o *Options) {
		o.Appliance, o.Binary = true, self
		o.Args = []string{"agentkernel", "-test.run", "NoSuchTest", "-test.coverprofile=/x"}
	})
	if err != nil || code == 0 || code >= 126 || strings.Contains(out+errs, "lab:") {
		t.Errorf("code %d, %q, %q, %v", code, out, errs, err)
	}
}
