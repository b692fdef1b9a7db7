package e2e_test

import "syscall"

// dieWithParent makes the kernel kill the process when the thread that started
// it ends, be it that the test binary was killed. The process gets a group of
// its own, so that what it has started can be reached.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
