package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// printable returns s with everything that a terminal might obey made visible:
// control characters, bytes that are no UTF-8, and invisible or reordering
// characters. Whatever the guest, or a broken state file, may have chosen goes
// through it on its way to standard error, a table or a terminal. It has no
// line breaks.
func printable(s string) string {
	var b strings.Builder
	escapeTo(&b, s, "")
	return b.String()
}

// escapeTo writes s escaped, except for the characters in keep.
func escapeTo(b *strings.Builder, s, keep string) {
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case strings.ContainsRune(keep, r) && r != utf8.RuneError:
			b.WriteRune(r)
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(b, `\x%02x`, s[0])
		case r == ' ' || unicode.IsPrint(r):
			b.WriteString(s[:n])
		case r < 0x80:
			fmt.Fprintf(b, `\x%02x`, r)
		default:
			fmt.Fprintf(b, `\u%04x`, r)
		}
		s = s[n:]
	}
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
