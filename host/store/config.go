package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// configVersion is the version of config.json that this program writes and the
// only one it reads.
const configVersion = 1

// maxConfig bounds what is read of a config.json.
const maxConfig = 64 << 10

// Limits of a sandbox.
const (
	MinCPUs      = 1
	MaxCPUs      = 32
	MinMemoryMiB = 64
	MaxMemoryMiB = 64 << 10
)

// Config is what a sandbox was created with. It is written once.
type Config struct {
	Name      string
	Created   time.Time // of the wall clock; only shown
	CPUs      int
	MemoryMiB int
	Kernel    string // absolute path; empty for the embedded one
	// Ephemeral sandboxes belong to one `run`; a leftover whose VMM is gone is
	// swept away. The mark is a file of its own, not a key of config.json.
	Ephemeral bool
}

// Check says what is wrong with a configuration.
func (c Config) Check() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if c.CPUs < MinCPUs || c.CPUs > MaxCPUs {
		return fmt.Errorf("cpus: %d is not within %d to %d", c.CPUs, MinCPUs, MaxCPUs)
	}
	if c.MemoryMiB < MinMemoryMiB || c.MemoryMiB > MaxMemoryMiB {
		return fmt.Errorf("memory: %d MiB is not within %d MiB to %d GiB", c.MemoryMiB, MinMemoryMiB, MaxMemoryMiB>>10)
	}
	if c.Kernel == "" {
		return nil
	}
	if !filepath.IsAbs(c.Kernel) || !utf8.ValidString(c.Kernel) || strings.ContainsRune(c.Kernel, 0) {
		return fmt.Errorf("kernel: %q is not an absolute path of valid UTF-8", c.Kernel)
	}
	return nil
}

// configFile is config.json.
type configFile struct {
	Version   int       `json:"version"`
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	CPUs      int       `json:"cpus"`
	MemoryMiB int       `json:"memory_mib"`
	Kernel    string    `json:"kernel,omitempty"`
}

func encodeConfig(c Config) ([]byte, error) {
	data, err := json.MarshalIndent(configFile{
		Version: configVersion, Name: c.Name, Created: c.Created.UTC(),
		CPUs: c.CPUs, MemoryMiB: c.MemoryMiB, Kernel: c.Kernel,
	}, "", "  ")
	return append(data, '\n'), err
}

// decodeConfig reads a config.json. It takes nothing that encodeConfig would
// not write: no unknown, repeated or differently spelt key, no missing one, no
// value out of range, nothing behind the object.
func decodeConfig(data []byte) (Config, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return Config{}, errors.New("it is not a JSON object")
	}
	var f configFile
	fields := map[string]any{
		"version": &f.Version, "name": &f.Name, "created": &f.Created,
		"cpus": &f.CPUs, "memory_mib": &f.MemoryMiB, "kernel": &f.Kernel,
	}
	for d.More() {
		if err := decodeField(d, fields); err != nil {
			return Config{}, err
		}
	}
	if _, err := d.Token(); err != nil {
		return Config{}, errors.New("it is cut short")
	}
	if _, err := d.Token(); err != io.EOF {
		return Config{}, errors.New("something follows the object")
	}
	delete(fields, "kernel") // the one that may be absent
	for key := range fields {
		return Config{}, fmt.Errorf("the key %q is missing", key)
	}
	return f.config()
}

// decodeField reads one key and its value, and strikes the key off the list of
// those that may still come.
func decodeField(d *json.Decoder, fields map[string]any) error {
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("it is not valid JSON: %w", err)
	}
	key, _ := t.(string)
	field, ok := fields[key]
	if !ok {
		return fmt.Errorf("the key %q is unknown or repeated", key)
	}
	delete(fields, key)
	if err := d.Decode(field); err != nil {
		return fmt.Errorf("the value of %q is wrong: %w", key, err)
	}
	return nil
}

func (f configFile) config() (Config, error) {
	if f.Version != configVersion {
		return Config{}, fmt.Errorf("its version is %d, this agentkernel reads version %d", f.Version, configVersion)
	}
	c := Config{Name: f.Name, Created: f.Created, CPUs: f.CPUs, MemoryMiB: f.MemoryMiB, Kernel: f.Kernel}
	return c, c.Check()
}
