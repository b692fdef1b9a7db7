//go:build !linux

package harness

import (
	"os"
	"syscall"
)

// endWithParent has nothing to ask of other kernels: a program ends with its
// test unless that is killed.
func endWithParent() *syscall.SysProcAttr { return nil }

func signalGroup(p *os.Process, s syscall.Signal) { _ = p.Signal(s) }
