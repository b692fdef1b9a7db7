// Package fastloop says what `go test -short` leaves out, the fast loop: servers
// and other programs, and whatever takes seconds. `make test` never passes
// -short and runs everything.
//
// Servers say it themselves (package testserver), as do the functions that start
// a sidecar or an engine, and the bad-network parts of the conformance suites.
// Only tests and packages made for tests import this package.
package fastloop

import "flag"

// TB is the part of testing.TB that is needed.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
}

// Skip skips a test under -short. What says why: "starts a server", "takes
// seconds".
func Skip(tb TB, what string) {
	tb.Helper()
	// Not testing.Short, which panics in a program that is not a test.
	if f := flag.Lookup("test.short"); f != nil && f.Value.String() == "true" {
		tb.Skipf("left out with -short: %s", what)
	}
}
