package store

import "fmt"

// MaxName is the longest sandbox name, in bytes.
const MaxName = 63

// CheckName reports whether name may name a sandbox: 1 to 63 of A-Z, a-z,
// 0-9, '_' and '-', with a letter or a digit at both ends. It is the only
// judge of names: whatever passes is one path component that is neither "."
// nor "..", hides nothing, and can't be taken for an option.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("%w: it is empty", ErrName)
	}
	if len(name) > MaxName {
		return fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrName, len(name), MaxName)
	}
	for i := 0; i < len(name); i++ {
		if !alphanumeric(name[i]) && name[i] != '_' && name[i] != '-' {
			return fmt.Errorf("%w: %q (allowed are A-Z a-z 0-9 _ -)", ErrName, name)
		}
	}
	if !alphanumeric(name[0]) || !alphanumeric(name[len(name)-1]) {
		return fmt.Errorf("%w: %q must begin and end with a letter or a digit", ErrName, name)
	}
	return nil
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}
