package harness

import (
	"os"
	"syscall"
)

// endWithParent makes the kernel ask the program to stop when the test binary
// ends, however that dies, so that a sidecar can still stop its application.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

func signalGroup(p *os.Process, s syscall.Signal) { _ = syscall.Kill(-p.Pid, s) }
