package account

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const (
	passwd = `root:x:0:0:root:/root:/bin/sh
developer:x:1000:1000:developer:/home/developer:/bin/bash
bare:x:7:8::: 
empty:x:9:9:::
12:x:500:500:a number for a name:/n:/bin/sh
broken line
short:x:1
huge:x:99999999999:1::/:/bin/sh
none:x:4294967295:1::/:/bin/sh
`
	group = `root:x:0:
developer:x:1000:
docker:x:44:someone,developer
audio:x:45:developers
dup:x:44:developer
own:x:1000:developer
broken
`
)

func newDB(t *testing.T, passwd, group string) (*DB, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return New(dir), dir
}

func TestLookup(t *testing.T) {
	db, _ := newDB(t, passwd, group)
	dev := User{Name: "developer", UID: 1000, GID: 1000, Groups: []uint32{1000, 44}, Home: "/home/developer", Shell: "/bin/bash"}
	devDocker := dev
	devDocker.GID, devDocker.Groups = 44, nil
	for spec, want := range map[string]User{
		"root":             {Name: "root", Home: "/root", Shell: "/bin/sh", Groups: []uint32{0}},
		"0":                {Name: "root", Home: "/root", Shell: "/bin/sh", Groups: []uint32{0}},
		"developer":        dev,
		"1000":             dev,
		"developer:docker": devDocker,
		"1000:44":          devDocker,
		"empty":            {Name: "empty", UID: 9, GID: 9, Groups: []uint32{9}, Home: "/", Shell: "/bin/sh"},
		"12":               {Name: "12", UID: 500, GID: 500, Groups: []uint32{500}, Home: "/n", Shell: "/bin/sh"},
		"4711":             {UID: 4711, GID: 4711, Home: "/", Shell: "/bin/sh"},
		"4711:5":           {UID: 4711, GID: 5, Home: "/", Shell: "/bin/sh"},
	} {
		got, err := db.Lookup(spec)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v %v, want %+v", spec, got, err, want)
		}
	}
	for _, spec := range []string{"", ":", "root:", ":root", "nobody-here", "root:nobody-here", "-1", "+5",
		"4294967295", "99999999999", "huge", "none", "short", "broken line", "root:0:0", "developer\n"} {
		if u, err := db.Lookup(spec); err == nil {
			t.Errorf("%q: %+v", spec, u)
		}
	}
}

func TestMissingFiles(t *testing.T) {
	db := New(t.TempDir())
	if u, err := db.Lookup("0"); err != nil || u.UID != 0 || u.Home != "/" {
		t.Errorf("%+v %v", u, err)
	}
	if _, err := db.Lookup("root"); err == nil {
		t.Error("a name was found nowhere")
	}
}

// The files are the guest's to change, at any time.
func TestChangedFile(t *testing.T) {
	db, dir := newDB(t, passwd, group)
	if _, err := db.Lookup("late"); err == nil {
		t.Fatal("found early")
	}
	f, err := os.OpenFile(filepath.Join(dir, "passwd"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("late:x:2000:2000::/home/late:/bin/sh\n")
	f.Close()
	if u, err := db.Lookup("late"); err != nil || u.UID != 2000 {
		t.Errorf("%+v %v", u, err)
	}
}

func TestHostileFiles(t *testing.T) {
	db, dir := newDB(t, strings.Repeat("x", maxFile+1), group)
	if _, err := db.Lookup("root"); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("too large: %v", err)
	}
	path := filepath.Join(dir, "passwd")
	os.Remove(path)
	os.Mkdir(path, 0o755)
	if _, err := db.Lookup("root"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("directory: %v", err)
	}
	var many strings.Builder
	for i := range 2 * maxGroups {
		many.WriteString("g:x:" + strings.Repeat("1", 1+i%3) + "0" + string(rune('0'+i%10)) + ":developer\n")
	}
	db, _ = newDB(t, passwd, many.String())
	if u, err := db.Lookup("developer"); err != nil || len(u.Groups) > maxGroups {
		t.Errorf("%d groups, %v", len(u.Groups), err)
	}
}

func FuzzLookup(f *testing.F) {
	f.Add(passwd, group, "developer")
	f.Add(passwd, group, "1000:44")
	f.Fuzz(func(t *testing.T, passwd, group, spec string) {
		db, _ := newDB(t, passwd, group)
		u, err := db.Lookup(spec)
		if err == nil && (u.Home == "" || u.Shell == "" || len(u.Groups) > maxGroups) {
			t.Errorf("%+v", u)
		}
	})
}
