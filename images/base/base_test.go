package base

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/images/initramfs"
)

var update = flag.Bool("update", false, "write the golden file")

func entries(t *testing.T, applets ...string) map[string]initramfs.Entry {
	t.Helper()
	list, err := Entries(Parts{Init: []byte("init"), Busybox: []byte("busybox"), Applets: applets})
	if err != nil {
		t.Fatal(err)
	}
	if err := initramfs.Write(&bytes.Buffer{}, list); err != nil {
		t.Fatal(err)
	}
	byName := map[string]initramfs.Entry{}
	for _, e := range list {
		byName[e.Name] = e
	}
	return byName
}

// TestListing holds the whole file system against a listing, so that a change of
// a mode or an owner is seen.
func TestListing(t *testing.T) {
	list, err := Entries(Parts{Applets: []string{"bin/sh", "usr/bin/env", "sbin/ip"}})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, e := range list {
		fmt.Fprintf(&got, "%06o %d:%d %s", uint32(e.Type)|e.Perm, e.UID, e.GID, e.Name)
		switch e.Type {
		case initramfs.Symlink:
			fmt.Fprintf(&got, " -> %s", e.Data)
		case initramfs.CharDevice:
			fmt.Fprintf(&got, " c %d %d", e.Major, e.Minor)
		}
		got.WriteByte('\n')
	}
	if *update {
		if err := os.WriteFile("testdata/listing.golden", []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/listing.golden")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the file system is\n%s\nwant\n%s", got.String(), want)
	}
}

func TestApplets(t *testing.T) {
	got := entries(t, "bin/sh", "usr/bin/sh", "sbin/ip", "usr/sbin/crond", "bin/busybox", "linuxrc", "")
	for name, target := range map[string]string{
		"usr/bin/sh":     "busybox",
		"usr/sbin/ip":    "../bin/busybox",
		"usr/sbin/crond": "../bin/busybox",
	} {
		if e := got[name]; string(e.Data) != target {
			t.Errorf("%s is %+v, want a link to %s", name, e, target)
		}
	}
	if e := got["usr/bin/busybox"]; e.Type != initramfs.Regular {
		t.Errorf("busybox became a link to itself")
	}
	for _, bad := range []string{"opt/x", "/bin/x", "usr/share/x/y"} {
		if _, err := Entries(Parts{Applets: []string{bad}}); err == nil {
			t.Errorf("applet %q was taken", bad)
		}
	}
}

// TestUsers reads what programs read: the fields of passwd, group and shadow.
func TestUsers(t *testing.T) {
	all := entries(t)
	for _, line := range strings.Split(strings.TrimSpace(passwd), "\n") {
		if n := strings.Count(line, ":"); n != 6 {
			t.Errorf("passwd line %q has %d fields", line, n+1)
		}
		name, _, _ := strings.Cut(line, ":")
		if !strings.Contains("\n"+shadow, "\n"+name+":*:") {
			t.Errorf("%s is not locked in shadow", name)
		}
	}
	want := fmt.Sprintf("%s:x:%d:%d:%[1]s:/home/%[1]s:/bin/sh\n", User, UserID, UserID)
	if !strings.Contains(passwd, want) || !strings.Contains(group, fmt.Sprintf("%s:x:%d:\n", User, UserID)) {
		t.Errorf("no user %q", want)
	}
	for _, dir := range []string{"home/" + User, "workspace"} {
		if e := all[dir]; e.UID != UserID || e.GID != UserID || e.Type != initramfs.Directory {
			t.Errorf("%s is %+v", dir, e)
		}
	}
}
