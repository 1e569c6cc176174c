package main

import (
	"errors"
	"flag"
	"slices"
	"testing"
	"time"
)

func TestOptionsEndAtTheCommand(t *testing.T) {
	o, console, err := parse([]string{"--env", "A=1", "--env", "B=", "--tty", "--console", "log", "--", "ls", "--intel"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.Args, []string{"ls", "--intel"}) || o.Intel || !o.TTY || console != "log" {
		t.Errorf("%+v", o)
	}
	if !slices.Equal(o.Env, []string{"A=1", "B="}) {
		t.Errorf("environment %q", o.Env)
	}
	if o.MemoryMiB != 2048 || o.CPUs != 1 || o.Timeout != 10*time.Minute {
		t.Errorf("defaults %d MiB, %d CPUs, %v", o.MemoryMiB, o.CPUs, o.Timeout)
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"--"},
		{"--no-such", "ls"},
		{"--intel", "--clock", "ls"},
		{"--intel", "--cpus", "2", "ls"},
		{"--cpus", "0", "ls"},
		{"--timeout", "-1s", "ls"},
		{"--memory", "x", "ls"},
	} {
		if _, _, err := parse(args); err == nil || errors.Is(err, flag.ErrHelp) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
