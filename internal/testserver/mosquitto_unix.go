//go:build unix

package testserver

import "syscall"

// askToSave makes a mosquitto write its file.
func askToSave(p *Process) { p.signal(syscall.SIGUSR1) }
