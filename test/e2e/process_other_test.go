//go:build !linux

package e2e_test

import "syscall"

// dieWithParent only gives the process a group of its own: there is no death
// signal here.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
