//go:build unix

package runtime

import "syscall"

// fileLimit returns how many files the process may have open, and whether that
// is known. Package os has raised the soft limit to the hard one.
func fileLimit() (uint64, bool) {
	var l syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	return uint64(l.Cur), err == nil //nolint:gosec,unconvert // signed on some systems
}
