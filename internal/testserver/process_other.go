//go:build !linux

package testserver

import (
	"os"
	"os/exec"
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

// account is the user that a server runs as which does not want to be root.
// Where this is not Linux tests are not expected to run as root.
type account struct{}

func otherUser(string) (*account, error) { return nil, nil }

func (*account) apply(*exec.Cmd) {}

// children has no answer where the system has no /proc: what a server has
// started is to end by itself.
func children(int) []int { return nil }

func endAll([]int) {}
