package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxEnvFile bounds an --env-file; more would not fit a start request.
const maxEnvFile = 16 << 20

// environment gathers the variables for a command: from the files, in their
// order, then from -e in its order. Of several for one key the last one wins
// and is the only one passed on.
func environment(files, flags []string, lookup func(string) (string, bool)) ([]string, error) {
	var e envList
	for _, file := range files {
		data, err := readEnvFile(file)
		if err != nil {
			return nil, fmt.Errorf("--env-file: %w", err)
		}
		if err := e.addFile(data, lookup); err != nil {
			return nil, fmt.Errorf("--env-file %s: %w", file, err)
		}
	}
	for _, flag := range flags {
		if err := e.add(flag, lookup); err != nil {
			return nil, fmt.Errorf("-e: %w", err)
		}
	}
	return e.list, nil
}

func readEnvFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err == nil && len(data) > maxEnvFile {
		err = fmt.Errorf("%s is larger than %d MiB", name, maxEnvFile>>20)
	}
	return data, err
}

// envList holds K=V entries, one a key.
type envList struct {
	list  []string
	index map[string]int
}

// add adds "K=V", or "K", whose value lookup knows.
func (e *envList) add(entry string, lookup func(string) (string, bool)) error {
	key, _, assigned := strings.Cut(entry, "=")
	if key == "" {
		return fmt.Errorf("%q has no key (want K=V)", entry)
	}
	if !assigned {
		value, ok := lookup(key)
		if !ok {
			return fmt.Errorf("%q is not set here, so it has no value to pass on (for an empty one: %s=)", key, key)
		}
		entry = key + "=" + value
	}
	if strings.ContainsRune(entry, 0) {
		return fmt.Errorf("%q contains a zero byte", key)
	}
	if i, ok := e.index[key]; ok {
		e.list[i] = entry
		return nil
	}
	if e.index == nil {
		e.index = make(map[string]int)
	}
	e.index[key] = len(e.list)
	e.list = append(e.list, entry)
	return nil
}

// addFile adds the variables of an env file. Its grammar is Docker's, which is
// literal: a line "K=V" sets K to V, every byte of it, quotes, blanks and '#'
// included; blanks before K are skipped; a line "K" takes K from here. Empty
// lines and lines whose first character is '#' are skipped, as are a byte
// order mark and the carriage return of a CR LF.
func (e *envList) addFile(data []byte, lookup func(string) (string, bool)) error {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	for n, line := range strings.Split(string(data), "\n") {
		line = strings.TrimLeft(strings.TrimSuffix(line, "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		key, _, _ := strings.Cut(line, "=")
		if strings.ContainsAny(key, " \t") {
			return fmt.Errorf("line %d: the key %q contains blanks", n+1, key)
		}
		if err := e.add(line, lookup); err != nil {
			return fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	return nil
}
