//go:build !linux

package testserver

import (
	"os"
	"syscall"
)

// dieWithParent has nothing to set where the kernel offers no death signal:
// servers are stopped by the test's cleanup alone.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// signalGroup sends sig to p, and kills p where the system has no such signal.
func signalGroup(p *os.Process, sig syscall.Signal) {
	if err := p.Signal(sig); err != nil {
		_ = p.Kill()
	}
}
