package main

import (
	"io"
	"testing"
)

// BenchmarkParse is what a command line costs before it does anything.
func BenchmarkParse(b *testing.B) {
	for _, args := range [][]string{
		{"exec", "sb", "-e", "A=1", "--", "ls", "-la"},
		{"run", "--", "true"},
		{"version"},
	} {
		b.Run(args[0], func(b *testing.B) {
			for b.Loop() {
				var op string
				if _, _, err := parse(args, Streams{Out: io.Discard, Err: io.Discard}, &op); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
