package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/testserver"
)

// Proa is the program under test.
type Proa struct {
	path string
}

// Path returns where the program is.
func (p *Proa) Path() string { return p.path }

// Build compiles the program from this repository. Let the tests of a package
// share it, see [testserver.Share]. PROA_BINARY in the environment names one
// that is built already.
func Build(tb testserver.TB) *Proa {
	tb.Helper()
	fastloop.Skip(tb, "builds a program")
	if path := os.Getenv("PROA_BINARY"); path != "" {
		return &Proa{path: path}
	}
	return &Proa{path: GoBuild(tb, Repository(tb), "./cmd/proa")}
}

// GoBuild compiles the command in pkg of the module in dir and returns the path
// of the program, which is removed when the test ends.
func GoBuild(tb testserver.TB, dir, pkg string) string {
	tb.Helper()
	fastloop.Skip(tb, "builds a program")
	program := filepath.Join(TempDir(tb), "program")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", program, pkg) //nolint:gosec // our own sources
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("go build %s in %s: %v\n%s", pkg, dir, err, out)
	}
	return program
}

// JavaBuild compiles the Java sources of the package in dir against the jars in a
// folder, and returns the class path of the program, which is removed when the
// test ends.
func JavaBuild(tb testserver.TB, dir, jars string) string {
	tb.Helper()
	fastloop.Skip(tb, "builds a program")
	sources, err := filepath.Glob(filepath.Join(dir, "*.java"))
	if err != nil || len(sources) == 0 {
		tb.Fatalf("no Java sources in %s (%v)", dir, err)
	}
	classes, path := TempDir(tb), filepath.Join(jars, "*")
	args := append([]string{"-d", classes, "-classpath", path, "-encoding", "UTF-8", "-nowarn"}, sources...)
	if out, err := exec.Command("javac", args...).CombinedOutput(); err != nil { //nolint:gosec // our own sources
		tb.Fatalf("javac in %s: %v\n%s", dir, err, out)
	}
	return classes + string(filepath.ListSeparator) + path
}

// Repository returns the root of this repository.
func Repository(tb testserver.TB) string {
	tb.Helper()
	_, file, _, ok := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "..", "..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); !ok || err != nil {
		tb.Fatalf("the sources are not where they were compiled: %v", err)
	}
	return root
}

// TempDir makes a folder with a short path, which Unix sockets need, and removes
// it when the test ends.
func TempDir(tb testserver.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "proa-*")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Logf("%v", err)
		}
	})
	return dir
}
