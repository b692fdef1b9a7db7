//go:build !unix

package testserver

// askToSave cannot be done where there are no signals.
func askToSave(p *Process) { p.tb.Skipf("this system has no way to make mosquitto save") }
