//go:build !embedded

package images

// Kernel returns ErrNotEmbedded.
func Kernel() ([]byte, error) { return nil, ErrNotEmbedded }

// Initramfs returns ErrNotEmbedded.
func Initramfs() ([]byte, error) { return nil, ErrNotEmbedded }
