package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/host/store"
)

// memory is a size in MiB.
type memory int

// UnmarshalText reads 512, 512M, 512MiB, 2G or 2GiB.
func (m *memory) UnmarshalText(text []byte) error {
	s := strings.ToLower(string(text))
	digits := strings.TrimRight(s, "gmib")
	factor := 1
	switch s[len(digits):] {
	case "", "m", "mb", "mib":
	case "g", "gb", "gib":
		factor = 1 << 10
	default:
		digits = ""
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return fmt.Errorf("%q is not a size such as 512, 512M or 2G", text)
	}
	if n > store.MaxMemoryMiB || n*uint64(factor) > store.MaxMemoryMiB || n*uint64(factor) < store.MinMemoryMiB {
		return fmt.Errorf("%s is not within 64M to 64G", text)
	}
	*m = memory(n * uint64(factor))
	return nil
}

// span is a length of time.
type span time.Duration

// UnmarshalText reads seconds (90, 0.5) or a Go duration (90s, 1m30s, 250ms).
func (d *span) UnmarshalText(text []byte) error {
	s := string(text)
	if s != "" && strings.Trim(s, "0123456789.") == "" {
		s += "s"
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a time such as 90, 90s or 1m30s", text)
	}
	*d = span(v)
	return nil
}
