// Package account resolves USER[:GROUP] by the guest's /etc/passwd and
// /etc/group, which belong to the guest's users: everything read is bounded.
package account

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// maxFile bounds what is read of passwd and group.
const maxFile = 1 << 20

// maxGroups bounds the supplementary groups of a user, well below NGROUPS_MAX.
const maxGroups = 1024

// User is a resolved user.
type User struct {
	Name   string // "" for a number that passwd does not list
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Home   string
	Shell  string
}

// DB looks users up in a directory's passwd and group, which it reads again
// only when they change.
type DB struct {
	dir string

	mu     sync.Mutex
	passwd file
	group  file
}

// New returns a database of the files in dir (/etc).
func New(dir string) *DB { return &DB{dir: dir} }

// Lookup resolves USER[:GROUP], each a name or a number. A number that passwd
// does not list is taken as it is, with a group of the same number, home / and
// shell /bin/sh. With an explicit group there are no supplementary ones.
func (d *DB) Lookup(spec string) (User, error) {
	name, group, explicit := strings.Cut(spec, ":")
	if name == "" || explicit && group == "" {
		return User{}, fmt.Errorf("user %q: want USER or USER:GROUP", spec)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	u, err := d.user(name)
	if err != nil {
		return User{}, err
	}
	if explicit {
		u.GID, err = d.groupID(group)
		return u, err
	}
	if u.Name != "" {
		u.Groups, err = d.groupsOf(u.Name, u.GID)
	}
	return u, err
}

// user finds a passwd line: by name, else by number.
func (d *DB) user(name string) (User, error) {
	lines, err := d.passwd.read(filepath.Join(d.dir, "passwd"))
	if err != nil {
		return User{}, err
	}
	id, numeric := parseID(name)
	var found *User
	for _, line := range lines {
		u, ok := parsePasswd(line)
		if ok && u.Name == name {
			return u, nil
		}
		if ok && numeric && u.UID == id && found == nil {
			found = &u
		}
	}
	switch {
	case found != nil:
		return *found, nil
	case numeric:
		return User{UID: id, GID: id, Home: "/", Shell: "/bin/sh"}, nil
	}
	return User{}, fmt.Errorf("user %q does not exist in the sandbox", name)
}

// parsePasswd reads a line of passwd(5): name:password:uid:gid:gecos:home:shell.
func parsePasswd(line string) (User, bool) {
	f := strings.Split(line, ":")
	if len(f) != 7 || f[0] == "" {
		return User{}, false
	}
	uid, ok := parseID(f[2])
	gid, ok2 := parseID(f[3])
	if !ok || !ok2 {
		return User{}, false
	}
	u := User{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6]}
	if u.Home == "" {
		u.Home = "/"
	}
	if u.Shell == "" {
		u.Shell = "/bin/sh"
	}
	return u, true
}

// groupID finds a group by name, else takes a number.
func (d *DB) groupID(name string) (uint32, error) {
	lines, err := d.group.read(filepath.Join(d.dir, "group"))
	if err != nil {
		return 0, err
	}
	for _, line := range lines {
		if n, id, _, ok := parseGroup(line); ok && n == name {
			return id, nil
		}
	}
	if id, ok := parseID(name); ok {
		return id, nil
	}
	return 0, fmt.Errorf("group %q does not exist in the sandbox", name)
}

// groupsOf lists the groups that name a user, the primary one included.
func (d *DB) groupsOf(user string, primary uint32) ([]uint32, error) {
	lines, err := d.group.read(filepath.Join(d.dir, "group"))
	if err != nil {
		return nil, err
	}
	groups := []uint32{primary}
	for _, line := range lines {
		_, id, members, ok := parseGroup(line)
		if !ok || slices.Contains(groups, id) || !slices.Contains(strings.Split(members, ","), user) {
			continue
		}
		if len(groups) == maxGroups {
			return nil, fmt.Errorf("user %q is in more than %d groups", user, maxGroups)
		}
		groups = append(groups, id)
	}
	return groups, nil
}

// parseGroup reads a line of group(5): name:password:gid:members.
func parseGroup(line string) (name string, id uint32, members string, ok bool) {
	f := strings.Split(line, ":")
	if len(f) != 4 || f[0] == "" {
		return "", 0, "", false
	}
	id, ok = parseID(f[2])
	return f[0], id, f[3], ok
}

// parseID reads a user or group number. 2³²-1 means "none" to the kernel.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != math.MaxUint32 && s[0] != '+'
}

// file is a cached file, split into lines.
type file struct {
	stamp stamp
	lines []string
}

// stamp tells one state of a file from another.
type stamp struct {
	ino          uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// read returns the file's lines. A missing file has none.
func (f *file) read(path string) ([]string, error) {
	var st syscall.Stat_t
	err := syscall.Stat(path, &st)
	if err == syscall.ENOENT {
		*f = file{}
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	now := stamp{st.Ino, st.Size, st.Mtim, st.Ctim}
	if now == f.stamp {
		return f.lines, nil
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	*f = file{stamp: now, lines: strings.Split(data, "\n")}
	return f.lines, nil
}

func readBounded(path string) (string, error) {
	h, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer h.Close()
	data, err := io.ReadAll(io.LimitReader(h, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return string(data), err
}
