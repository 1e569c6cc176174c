package store

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// Exit is what a VMM left behind at its end: one line, "kind\tsentence\n".
// The sentence may quote the guest: print it escaped.
type Exit struct {
	Kind   string // poweroff, stopped, panic, …
	Reason string
}

// The kinds that are an orderly end. Every other kind means that the sandbox
// died.
const (
	ExitPoweroff = "poweroff" // the guest powered off
	ExitStopped  = "stopped"  // the user stopped it
	exitKilled   = "killed"   // derived: nothing was left behind
)

// Orderly reports whether the sandbox ended as it was asked to.
func (e Exit) Orderly() bool { return e.Kind == ExitPoweroff || e.Kind == ExitStopped }

// maxExit bounds what is read of an exit file. The file gets this many bytes of
// disk when a sandbox starts, so that its VMM can write into it on a full disk.
const maxExit = 4096

// parseExit reads an exit file. Only a whole line counts: a VMM that was killed
// while writing it was killed.
func parseExit(data []byte) (e Exit, recorded bool) {
	line, _, whole := bytes.Cut(data, []byte{'\n'})
	kind, reason, tab := strings.Cut(string(line), "\t")
	if !whole || !tab || !plainWord(kind) {
		return Exit{Kind: exitKilled, Reason: "its VMM was killed, or the host went down"}, false
	}
	return Exit{Kind: kind, Reason: strings.ToValidUTF8(reason, string(utf8.RuneError))}, true
}

func plainWord(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !alphanumeric(c) && c != '-' {
			return false
		}
	}
	return s != ""
}
