// Package e2e_test tests the program as a user meets it: the real binary,
// started as a process of its own, with a home folder of its own.
//
// What can be told as a story of commands is a script in testdata, run by
// testscript; script_test.go says which commands scripts have beside the usual
// ones. What needs load, a kill at the right moment or malformed bytes is a Go
// test.
package e2e_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/testserver"
)

// version is what the program under test says it is.
const version = "v0.0.0-e2e"

func TestMain(m *testing.M) {
	testscript.Main(stopping{m}, map[string]func(){"app": appMain})
}

// stopping runs the tests and removes what they shared.
type stopping struct{ *testing.M }

// Run implements testscript.TestingM.
func (s stopping) Run() int {
	defer binaries.Stop()
	defer examples.Stop()
	return s.M.Run()
}

// binaries is the folder with the program, as `make build` makes it, once for
// all tests. It is there under the name daprd too.
var binaries = testserver.Share(func(tb testserver.TB) string {
	fastloop.Skip(tb, "builds the program")
	dir, err := os.MkdirTemp("", "proa-e2e-*")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	make := exec.Command("make", "--no-print-directory", "build", "BIN="+filepath.Join(dir, "proa"), "VERSION="+version)
	make.Dir = root
	make.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -buildvcs=false")
	if out, err := make.CombinedOutput(); err != nil {
		tb.Fatalf("make build: %v\n%s", err, bytes.TrimSpace(out))
	}
	if err := os.Symlink("proa", filepath.Join(dir, "daprd")); err != nil {
		tb.Fatalf("%v", err)
	}
	// Scripts and tests start programs by their names.
	if err := os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH")); err != nil {
		tb.Fatalf("%v", err)
	}
	return dir
})

// proa returns the path of the program under test.
func proa(tb testing.TB) string {
	tb.Helper()
	return filepath.Join(binaries.Get(tb), "proa")
}

// long skips a test that `go test -short` has no time for.
func long(tb testing.TB) {
	tb.Helper()
	fastloop.Skip(tb, "runs for seconds")
}
