package host_test

import (
	"strconv"

	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

func getsid(pid int) (int, error) { return unix.Getsid(pid) }
