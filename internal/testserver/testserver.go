// Package testserver runs real servers for tests: on free loopback ports, with
// throw-away directories, stopped when the test ends and never outliving the
// test binary, however that dies.
//
// A test that needs a server of its own asks for one:
//
//	srv := testserver.Redis(t, testserver.RedisOptions{AppendOnly: true})
//	open(srv.Addr())
//	srv.Kill()
//	srv.Restart() // the same port, the same data
//
// Tests that can share one (each with its own keys, database or stream) share
// it per package. It starts with the first test that asks for it:
//
//	var redis = testserver.Share(func(tb testserver.TB) *testserver.RedisServer {
//		return testserver.Redis(tb, testserver.RedisOptions{})
//	})
//
//	func TestMain(m *testing.M) { testserver.Main(m, redis) }
//
//	func TestSomething(t *testing.T) { open(redis.Get(t).Addr()) }
//
// A program that is not installed skips the test with a word on how to install
// it, and fails the test where the environment variable CI is set. With
// `go test -short` no server is started and none is installed: its tests are
// skipped (package fastloop).
//
// Each technology is one file; process.go holds what they share. Only tests and
// packages made for tests import this package.
package testserver

import (
	"os"
	"slices"
	"strings"
)

// TB is the part of testing.TB that servers need. *testing.T, *testing.B and
// *testing.F are TBs, and so is what [Share] passes on.
type TB interface {
	Helper()
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// missing ends a test whose server program is not there.
func missing(tb TB, program, problem string) {
	tb.Helper()
	const text = "%s: %s; `make test-deps` installs what the tests need (test/deps.sh)"
	if mustRun() {
		tb.Fatalf(text, program, problem)
	}
	tb.Skipf(text, program, problem)
}

// mustRun reports whether a missing program is a failure and not a reason to
// skip: in continuous integration a skipped driver is an untested driver.
func mustRun() bool {
	ci := strings.ToLower(os.Getenv("CI"))
	return !slices.Contains([]string{"", "0", "false", "no"}, ci)
}
