// Package images holds what the program boots: a Linux kernel and the file
// system it starts with, both put into the binary at build time.
//
// build.sh makes them in images/build and sets the build tag "embedded".
// Without the tag the package compiles all the same, so that unit tests need
// neither, and Kernel and Initramfs return ErrNotEmbedded.
package images

import "errors"

// ErrNotEmbedded says that the program was built without the artefacts.
var ErrNotEmbedded = errors.New("this binary was built without guest kernel and base file system: build it with ./build.sh")
