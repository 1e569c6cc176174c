package lab

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/tests/lab/proto"
)

// metaPackage depends on Debian's current kernel for clouds, which has KVM's
// modules and few others.
const metaPackage = "linux-image-cloud-amd64"

// hostKernel is Debian's kernel package, unpacked in the cache.
type hostKernel struct {
	image   string            // vmlinuz
	modules map[string]string // path by name, with '_' for '-'
}

// cacheDir returns the lab's folder in the user's cache.
func cacheDir() (string, error) {
	dir := os.Getenv("AGENTKERNEL_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no place for the cache: %w; set AGENTKERNEL_CACHE", err)
		}
		dir = filepath.Join(base, "agentkernel")
	}
	dir = filepath.Join(dir, "lab")
	return dir, os.MkdirAll(dir, 0o755)
}

// findKernel returns the newest kernel of the cache, or fetches Debian's.
func findKernel(log io.Writer) (*hostKernel, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(cache, "lock"))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	dir, err := newest(cache)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		fmt.Fprintln(log, "lab: fetching the kernel of the emulated host (once, 27 MB)")
		if dir, err = fetchKernel(cache); err != nil {
			return nil, fmt.Errorf("fetch the kernel of the emulated host: %w", err)
		}
	}
	return openKernel(dir)
}

// lockFile waits for the exclusive lock of a file; closing it gives it free.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return f, nil
		}
		if err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// newest returns the last unpacked kernel, "" if there is none. A folder gets
// its final name only when it is whole.
func newest(cache string) (string, error) {
	dirs, err := filepath.Glob(filepath.Join(cache, "linux-image-*"))
	if err != nil || len(dirs) == 0 {
		return "", err
	}
	sort.Slice(dirs, func(i, j int) bool { return modified(dirs[i]) < modified(dirs[j]) })
	return dirs[len(dirs)-1], nil
}

func modified(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.ModTime().UnixNano()
}

var dependsPattern = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-\S+)`)

// fetchKernel downloads the package, which needs no root, and unpacks it. The
// cache is locked.
func fetchKernel(cache string) (string, error) {
	stale, err := filepath.Glob(filepath.Join(cache, "new-*")) // left by a killed lab: the lock is ours
	if err != nil {
		return "", err
	}
	for _, dir := range stale {
		os.RemoveAll(dir)
	}
	out, err := output("", "apt-cache", "depends", metaPackage)
	if err != nil {
		return "", fmt.Errorf("%w; run apt-get update", err)
	}
	found := dependsPattern.FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("apt knows no %s: run apt-get update", metaPackage)
	}
	work, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if _, err := output(work, "apt-get", "-q", "download", string(found[1])); err != nil {
		return "", fmt.Errorf("%w; run apt-get update", err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", errors.Join(fmt.Errorf("apt-get download left %d packages", len(debs)), err)
	}
	tree := filepath.Join(work, "tree")
	if _, err := output(work, "dpkg-deb", "-x", debs[0], tree); err != nil {
		return "", err
	}
	dir := filepath.Join(cache, strings.TrimSuffix(filepath.Base(debs[0]), ".deb"))
	return dir, os.Rename(tree, dir)
}

// output runs a program and puts its last error line into the error.
func output(dir, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		text := strings.TrimSpace(stderr.String())
		text = text[strings.LastIndexByte(text, '\n')+1:]
		return nil, fmt.Errorf("%s: %w: %s", name, err, text)
	}
	return out, nil
}

func openKernel(dir string) (*hostKernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("%s holds no kernel: remove it and try again", dir)
	}
	k := &hostKernel{image: images[0], modules: map[string]string{}}
	err = filepath.WalkDir(filepath.Join(dir, "lib", "modules"), func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			k.modules[moduleName(name)] = path
		}
		return err
	})
	return k, err
}

func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// resolve returns the module files that names need, each after what it depends on.
func (k *hostKernel) resolve(names []string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(string) error
	visit = func(name string) error {
		name = moduleName(name)
		if seen[name] {
			return nil
		}
		seen[name] = true
		path, ok := k.modules[name]
		if !ok {
			return fmt.Errorf("the host's kernel has no module %s", name)
		}
		deps, err := dependencies(path)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		for _, dep := range deps {
			if err := visit(dep); err != nil {
				return err
			}
		}
		order = append(order, path)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// dependencies reads the names after "depends=" in a module's .modinfo section.
func dependencies(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("not a kernel module")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for _, entry := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

// add puts the modules into the initramfs and returns how to load them.
func (k *hostKernel) add(f *files, names []string, params map[string]string) ([]proto.Module, error) {
	paths, err := k.resolve(names)
	if err != nil {
		return nil, err
	}
	var list []proto.Module
	for _, path := range paths {
		base := filepath.Base(path)
		if err := f.file("lab/modules/"+base, path, 0o644); err != nil {
			return nil, err
		}
		list = append(list, proto.Module{
			Path:   "/lab/modules/" + base,
			Params: params[moduleName(strings.TrimSuffix(base, ".ko"))],
		})
	}
	return list, nil
}
