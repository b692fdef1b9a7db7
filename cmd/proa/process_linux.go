package main

import (
	"os/exec"
	"syscall"
)

// ownGroup puts the process into a group of its own, so that a Ctrl-C on the
// terminal reaches the sidecar only: it stops the application in good order.
// When the sidecar is killed the kernel asks the application to stop.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
