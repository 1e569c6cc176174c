// Command probe prints what the kernel under it offers a program: one fact a
// line, "<kind> <name>: <answer>", sorted within a kind and free of anything
// that differs between two runs. The answer is "yes" or says how it is refused.
//
// It runs as an unprivileged user, on a host and in a sandbox, so that the two
// can be compared; see TestProbe in tests/e2e. It changes nothing outside
// itself. Dangerous questions are asked by a child process.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sort"

	"golang.org/x/sys/unix"
)

func main() {
	switch {
	case len(os.Args) == 1:
		probe()
	case len(os.Args) == 3 && os.Args[1] == "-child":
		child(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: probe")
		os.Exit(2)
	}
}

// output is written at the end: the answers of a slow machine are many lines.
var output = bufio.NewWriter(os.Stdout)

func probe() {
	probeSystemCalls()
	probeSockets()
	probeNetlink()
	probeCrypto()
	probeNamespaces()
	probeFeatures()
	probeClocks()
	probeFiles()
	if err := output.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// fact prints one.
func fact(kind, name, answer string) { fmt.Fprintf(output, "%s %s: %s\n", kind, name, answer) }

// answer is "yes", or the name of the error.
func answer(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "yes"
	case errors.As(err, &errno) && unix.ErrnoName(errno) != "":
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// facts prints the answers of a table in the order of its names.
func facts(kind string, table map[string]func() error) {
	names := make([]string, 0, len(table))
	for name := range table {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fact(kind, name, answer(table[name]()))
	}
}

// self prepares this program as a child with a question of its own.
func self(question string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-child", question)
	cmd.Stderr = os.Stderr
	return cmd
}

// inChild asks the question in a child, which exits with the errno.
func inChild(question string) func() error {
	return func() error { return exitAnswer(self(question).Run()) }
}

// exitAnswer turns a child's exit code back into an errno.
func exitAnswer(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return unix.Errno(exit.ExitCode())
	}
	return err
}

// child answers one question and exits with its errno.
func child(question string) {
	var from int
	if n, _ := fmt.Sscanf(question, "calls-from-%d", &from); n == 1 {
		walkCalls(from)
		return
	}
	err := childQuestions[question]()
	var errno unix.Errno
	if errors.As(err, &errno) {
		os.Exit(int(errno))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(255)
	}
}

// closing is the answer of a call that makes a descriptor.
func closing(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return err
}
