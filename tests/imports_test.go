// Package tests holds what concerns the whole tree: the lab, the end-to-end
// tests, and the rules below.
package tests

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/agentkernel/agentkernel/"

// rules say which of the module's packages a package may import: everything
// below its own folder, and these. The first rule whose folder holds the
// package counts. Test files are free.
var rules = []struct {
	folder string
	may    []string
}{
	{"kvm/guestmem", nil},
	{"kvm", []string{"kvm/guestmem"}},
	{"virtio", []string{"virtio", "kvm/guestmem"}},
	{"guest-init", nil},
	{"images", nil},
	{"host/boot", []string{"kvm/guestmem"}},
	{"host/guest", []string{"guest-init/wire"}},
	{"host/store", nil},
	{"host/doctor", []string{"kvm"}},
	{"host/vmm", []string{"kvm", "virtio", "host/boot", "images", "guest-init/wire"}},
	{"host", []string{"host", "kvm", "guest-init/wire"}},
	{"cli", []string{"host"}},
	{"tests", []string{"tests", "images", "kvm", "virtio", "host", "guest-init"}},
}

// only names the one folder that may import a library.
var only = map[string]string{
	"github.com/alecthomas/kong": "cli",
	"github.com/mdlayher/vsock":  "guest-init",
}

func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

// TestImportsGoDown keeps the rooms apart, as ARCHITECTURE.md draws them.
func TestImportsGoDown(t *testing.T) {
	files := 0
	walk(t, func(path string, imports []string) {
		files++
		folder := filepath.ToSlash(filepath.Dir(path))
		for _, imported := range imports {
			if imported == "unsafe" && !strings.HasSuffix(path, "_unsafe.go") && !strings.HasSuffix(path, "_unsafe_test.go") {
				t.Errorf("%s imports unsafe, and is not named *_unsafe.go", path)
			}
			if home, ok := only[imported]; ok && !within(folder, home) {
				t.Errorf("%s imports %s, which belongs in %s", path, imported, home)
			}
			if inner, ok := strings.CutPrefix(imported, module); ok && !strings.HasSuffix(path, "_test.go") {
				checkInner(t, folder, inner)
			}
		}
	})
	if files < 20 {
		t.Errorf("only %d Go files were found", files)
	}
}

func checkInner(t *testing.T, folder, imported string) {
	t.Helper()
	if strings.HasSuffix(imported, "/queuetest") && !strings.HasSuffix(folder, "test") {
		t.Errorf("%s imports %s outside a test", folder, imported)
	}
	for _, rule := range rules {
		if !within(folder, rule.folder) {
			continue
		}
		for _, allowed := range append(rule.may, rule.folder) {
			if within(imported, allowed) {
				return
			}
		}
		t.Errorf("%s may not import %s", folder, imported)
		return
	}
	t.Errorf("no rule for the folder %s", folder)
}

// walk calls visit for every Go file of the module, with what it imports.
func walk(t *testing.T, visit func(path string, imports []string)) {
	t.Helper()
	root := ".."
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range file.Imports {
			imports = append(imports, strings.Trim(i.Path.Value, `"`))
		}
		rel, err := filepath.Rel(root, path)
		visit(rel, imports)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
