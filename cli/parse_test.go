package main

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzParse: no command line makes the parser panic, and what it takes for the
// words of a command are words of that command line, unchanged and in order.
func FuzzParse(f *testing.F) {
	for _, args := range [][]string{
		{"exec", "box", "-e", "A=1", "--", "ls", "-la"},
		{"run", "--cpus", "2", "--", "--", "x"},
		{"exec", "-u", "a:b", "-ieA=", "box", "x", "--help"},
		{"create", "--memory=2G", "box"},
		{"list", "--json", "-q"},
		{"rm", "-f", "a", "b"},
	} {
		f.Add(strings.Join(args, "\x00"))
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\x00")
		var out, errs bytes.Buffer
		var op string
		cmd, helped, err := parse(args, Streams{Out: &out, Err: &errs}, &op)
		if helped || err != nil {
			return
		}
		var words []string
		switch c := cmd.(type) {
		case *execCmd:
			words = c.Command
		case *runCmd:
			words = c.Command
		}
		if n := len(words); n > len(args) || strings.Join(words, "\x00") != strings.Join(args[len(args)-n:], "\x00") {
			t.Errorf("%q gave the command %q", args, words)
		}
	})
}
