//go:build !linux

package appchannel

// listenerFinder returns nil: who listens cannot be seen here without
// connecting.
func listenerFinder(string) func() ([]uint64, error) { return nil }
