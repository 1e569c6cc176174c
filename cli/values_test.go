package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMemory(t *testing.T) {
	for text, want := range map[string]memory{
		"512": 512, "512M": 512, "512m": 512, "512MiB": 512, "512MB": 512, "2G": 2048, "2g": 2048, "2GiB": 2048, "64": 64, "64G": 65536, "65536": 65536,
		"": 0, "G": 0, "63": 0, "65G": 0, "65537": 0, "-1": 0, "1.5G": 0, "512K": 0, "512 M": 0, "0x200": 0, "5 12": 0, "99999999999999999999G": 0, "1GG": 0, "1MiBi": 0,
	} {
		var m memory
		if err := m.UnmarshalText([]byte(text)); m != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d %v, want %d", text, m, err, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90": 90 * time.Second, "90s": 90 * time.Second, "1m30s": 90 * time.Second, "250ms": 250 * time.Millisecond, "0": 0, "0.5": time.Second / 2,
		"": -1, ".": -1, "1.2.3": -1, "-1": -1, "-1s": -1, "soon": -1, "1d": -1, "99999999999999999999": -1,
	} {
		d := span(-1)
		err := d.UnmarshalText([]byte(text))
		if time.Duration(d) != want || (err == nil) != (want >= 0) {
			t.Errorf("%q: %d %v, want %d", text, d, err, want)
		}
	}
}

func lookupIn(env map[string]string) func(string) (string, bool) {
	return func(key string) (string, bool) { v, ok := env[key]; return v, ok }
}

func TestEnvFile(t *testing.T) {
	here := lookupIn(map[string]string{"SET": "here", "EMPTY": ""})
	for _, c := range []struct {
		file string
		want []string // nil: an error
	}{
		{"", []string{}},
		{"A=1\nB=2\n", []string{"A=1", "B=2"}},
		{"A=1\nB=2", []string{"A=1", "B=2"}},
		{"\xef\xbb\xbfA=1\r\nB=2\r\n", []string{"A=1", "B=2"}},
		{"# comment\n  # comment\n\n \t\nA=1\n", []string{"A=1"}},
		{"  A=1\n", []string{"A=1"}},
		{"A= 1 # kept \n", []string{"A= 1 # kept "}},
		{"A='1'\n", []string{"A='1'"}},
		{"A=\"1\n", []string{"A=\"1"}},
		{"A=b=c\n", []string{"A=b=c"}},
		{"A=\n", []string{"A="}},
		{"A=\xff\xfe\n", []string{"A=\xff\xfe"}},
		{"SET\nEMPTY\n", []string{"SET=here", "EMPTY="}},
		{"A=1\nB=2\nA=3\n", []string{"A=3", "B=2"}},
		{"A=1\rB\n", []string{"A=1\rB"}},
		{"UNSET\n", nil},
		{"=1\n", nil},
		{"A =1\n", nil},
		{"export A=1\n", nil},
		{"A=1\x002\n", nil},
	} {
		var e envList
		err := e.addFile([]byte(c.file), here)
		if (err == nil) != (c.want != nil) || err == nil && !slices.Equal(e.list, c.want) {
			t.Errorf("%q: %q %v, want %q", c.file, e.list, err, c.want)
		}
	}
}

func FuzzEnvFile(f *testing.F) {
	f.Add([]byte("A=1\n#\nB"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var e envList
		if e.addFile(data, lookupIn(map[string]string{"B": "b"})) != nil {
			return
		}
		seen := make(map[string]bool)
		for _, entry := range e.list {
			key, _, ok := strings.Cut(entry, "=")
			if !ok || key == "" || seen[key] || strings.ContainsAny(entry, "\x00\n") {
				t.Errorf("%q gave %q", data, entry)
			}
			seen[key] = true
		}
	})
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"plain text, ünïcode 漢": "plain text, ünïcode 漢",
		"\x1b[2J":               `\x1b[2J`,
		"a\nb\r\tc":             `a\x0ab\x0d\x09c`,
		"\xff\xfe":              `\xff\xfe`,
		"\u009b31m":             `\u009b31m`,
		"\u202eevil":            `\u202eevil`,
		"\u200b":                `\u200b`,
		"\x7f\x00":              `\x7f\x00`,
		"\ufffd":                "\ufffd",
	} {
		if got := printable(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
	if got := escapeLine("a\tb\x1b\r"); got != "a\tb\\x1b" {
		t.Errorf("%q", got)
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b]0;title\x07")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range printable(s) {
			if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x202e {
				t.Errorf("%q: %q", s, printable(s))
			}
		}
	})
}
