package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const firstLater = 424 // the number of laterCalls[0]

// unasked are calls that do not come back, or come back twice. Every kernel has
// them.
var unasked = map[string]bool{
	"exit": true, "exit_group": true, "fork": true, "vfork": true, "pause": true, "rt_sigreturn": true,
}

// harmless are the arguments of calls for which the usual ones, all bits set,
// would do something or be answered by ENOSYS although the call is there.
var harmless = map[string][6]uintptr{
	"futex":      {0, 1 /* FUTEX_WAKE */},
	"kill":       {0, 0},
	"msgget":     {0x7ffffff0, 0},
	"semget":     {0x7ffffff0, 0, 0},
	"shmget":     {0x7ffffff0, 0, 0},
	"alarm":      {0},
	"umask":      {0o22},
	"io_destroy": {0},
}

func callName(n int) string {
	switch {
	case n < len(systemCalls):
		return systemCalls[n]
	case n >= firstLater && n < firstLater+len(laterCalls):
		return laterCalls[n-firstLater]
	}
	return ""
}

// probeSystemCalls says of every system call whether the kernel has it: any
// answer but ENOSYS means so, the death of the child that called it too.
func probeSystemCalls() {
	answers := map[int]string{}
	for from := 0; from < firstLater+len(laterCalls); {
		from = askCalls(from, answers)
	}
	for n := range firstLater + len(laterCalls) {
		if name := callName(n); name != "" && !unasked[name] {
			fact("call", fmt.Sprintf("%d %s", n, name), answers[n])
		}
	}
}

// askCalls has a child walk from a number on. It returns where to go on: past
// the call that ended the child, or past the last one.
func askCalls(from int, answers map[int]string) int {
	began := from
	cmd := self(fmt.Sprint("calls-from-", from))
	cmd.Stderr = nil // of a Go program that dies
	out, err := cmd.StdoutPipe()
	if err != nil {
		return firstLater + len(laterCalls)
	}
	if err := cmd.Start(); err != nil {
		fact("call", "all", answer(err))
		return firstLater + len(laterCalls)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var n int
		var word string
		fmt.Sscan(lines.Text(), &n, &word)
		answers[n] = strings.TrimSuffix(word, "?") // "yes?" before the call: it stays if the child dies
		from = n + 1
	}
	if cmd.Wait() == nil || from == began { // all asked; or a child that can't even begin
		return firstLater + len(laterCalls)
	}
	return from
}

// walkCalls calls every system call from a number on with invalid arguments.
// It writes a line before each and another after it.
func walkCalls(from int) {
	runtime.LockOSThread()
	unix.Dup2(1, 200)   // calls that close what they can find don't find it
	for fd := range 3 { // none of them reads or writes anything of the caller's
		if null, err := unix.Open("/dev/null", unix.O_RDWR, 0); err == nil && null != fd {
			unix.Dup2(null, fd)
			unix.Close(null)
		}
	}
	out := os.NewFile(200, "out")
	for n := from; n < firstLater+len(laterCalls); n++ {
		name := callName(n)
		if name == "" || unasked[name] {
			continue
		}
		args, ok := harmless[name]
		if !ok {
			args = [6]uintptr{^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0)}
		}
		fmt.Fprintln(out, n, "yes?")
		word := "yes"
		_, _, errno := unix.RawSyscall6(uintptr(n), args[0], args[1], args[2], args[3], args[4], args[5])
		if errno == unix.ENOSYS {
			word = "ENOSYS"
		}
		fmt.Fprintln(out, n, word)
	}
}
