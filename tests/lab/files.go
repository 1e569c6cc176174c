package lab

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/agentkernel/agentkernel/images/initramfs"
)

// files collects the entries of an initramfs. Names are relative to the root;
// missing directories above a name are made.
type files struct {
	entries []initramfs.Entry
	dirs    map[string]bool
}

func newFiles() *files { return &files{dirs: map[string]bool{}} }

func (f *files) dir(name string, perm uint32) {
	if f.dirs[name] {
		return
	}
	f.dirs[name] = true
	f.add(initramfs.Entry{Name: name, Type: initramfs.Directory, Perm: perm})
}

func (f *files) data(name string, perm uint32, data []byte) {
	f.add(initramfs.Entry{Name: name, Type: initramfs.Regular, Perm: perm, Data: data})
}

func (f *files) symlink(name, target string) {
	f.add(initramfs.Entry{Name: name, Type: initramfs.Symlink, Perm: 0o777, Data: []byte(target)})
}

func (f *files) add(e initramfs.Entry) {
	if i := strings.LastIndexByte(e.Name, '/'); i > 0 {
		f.dir(e.Name[:i], 0o755)
	}
	f.entries = append(f.entries, e)
}

// file adds a copy of a regular file.
func (f *files) file(name, path string, perm uint32) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f.data(name, perm, data)
	return nil
}

// tree adds the folder dir as name; what is neither folder, file nor symbolic
// link is left out.
func (f *files) tree(name, dir string) error {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return f.entry(filepath.Join(name, rel), path, d)
	})
}

func (f *files) entry(name, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	perm := uint32(info.Mode().Perm())
	switch info.Mode().Type() {
	case fs.ModeDir:
		f.dir(name, perm)
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		f.symlink(name, target)
	case 0:
		return f.file(name, path, perm)
	}
	return nil
}
