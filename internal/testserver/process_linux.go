package testserver

import (
	"os"
	"syscall"
)

// dieWithParent makes the kernel kill the server when the thread that started
// it ends, be it that the test binary was killed. The server gets a process
// group so that its own children can be reached.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// signalGroup sends sig to p and all of its process group.
func signalGroup(p *os.Process, sig syscall.Signal) { _ = syscall.Kill(-p.Pid, sig) }
