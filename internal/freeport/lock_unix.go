//go:build unix

package freeport

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// reserve makes a port this process's own among all that use this package, for
// as long as the process lives: the kernel gives the lock of a file back when
// its holder ends, however it does.
func reserve(port int) (release func(), ok bool) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("proa-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return func() {}, true // better a port that may be taken than none
	}
	fd, err := syscall.Open(filepath.Join(dir, fmt.Sprint(port)), syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return func() {}, true
	}
	if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = syscall.Close(fd)
		return nil, false
	}
	return func() { _ = syscall.Close(fd) }, true
}
