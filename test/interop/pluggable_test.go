package interop_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/test/interop/harness"
)

// TestAComponentInPython follows the README of the example: a component in
// Python, and an application on it. Everything is kept when both have been
// started anew.
func TestAComponentInPython(t *testing.T) {
	t.Parallel()
	python := filepath.Join(harness.SDK(t, "component"), "bin", "python")
	root := harness.Repository(t)
	example := filepath.Join(root, "examples", "pluggable-python")
	dir, err := os.MkdirTemp("", "plug") // short, for that of a socket may have no more than a hundred bytes or so
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	generate(t, python, filepath.Join(root, "api"), dir)
	resources := componentResources(t, filepath.Join(example, "resources"), dir)
	sockets := filepath.Join(dir, "sockets")
	for visit := 1; visit <= 2; visit++ {
		stop := startComponent(t, python, filepath.Join(example, "component.py"), dir, sockets)
		out := runApplication(t, filepath.Join(example, "app.py"), resources, sockets)
		for _, line := range []string{
			fmt.Sprintf("app: visit %d", visit), "app: with a stale etag: 409", "app: which has happened",
			"app: not now: ", "app: heard: ", "app: done",
		} {
			if !strings.Contains(out, line) {
				t.Errorf("visit %d did not print %q:\n%s", visit, line, out)
			}
		}
		stop()
	}
}

// generate makes the Python code of the protocol.
func generate(t *testing.T, python, api, out string) {
	t.Helper()
	protos, err := filepath.Glob(filepath.Join(api, "dapr/proto/components/v1/*.proto"))
	if err != nil || len(protos) == 0 {
		t.Fatalf("the protocol of components: %q, %v", protos, err)
	}
	args := append([]string{"-m", "grpc_tools.protoc", "-I", api, "--python_out=" + out, "--grpc_python_out=" + out}, protos...)
	if text, err := exec.CommandContext(t.Context(), python, args...).CombinedOutput(); err != nil { //nolint:gosec // what we have installed
		t.Fatalf("protoc: %v\n%s", err, text)
	}
}

// componentResources returns a folder with the resources of the example, which
// keep what they keep in dir.
func componentResources(t *testing.T, from, dir string) string {
	t.Helper()
	to := filepath.Join(dir, "resources")
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	if err != nil || len(files) != 2 {
		t.Fatalf("resources %q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // our own
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.ReplaceAll(string(text), "/tmp/", dir+"/"))
		if err := os.WriteFile(filepath.Join(to, filepath.Base(file)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// startComponent runs the component until the test ends or stop is called, which
// is an orderly end.
func startComponent(t *testing.T, python, program, code, sockets string) (stop func()) {
	t.Helper()
	cmd := exec.Command(python, "-u", program, sockets) //nolint:gosec,noctx // ours; it is stopped below
	cmd.Env = append(os.Environ(), "PYTHONPATH="+code)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the component has not come up: %q, %v", line, err)
	}
	return func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the component ended with %v", err)
		}
	}
}

// runApplication runs the application beside a sidecar and returns what it
// printed.
func runApplication(t *testing.T, program, resources, sockets string) string {
	t.Helper()
	sidecar := proa.Get(t).Path() // it may have to be built first
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	port, err := freeport.Pick()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, sidecar, "run", "--app-id", "notes", "--app-port", fmt.Sprint(port), //nolint:gosec // ours
		"--resources-path", resources, "--", "python3", "-u", program)
	cmd.Env = append(os.Environ(), "DAPR_COMPONENTS_SOCKETS_FOLDER="+sockets, "PROA_HOME="+t.TempDir())
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("proa run: %v\n%s", err, out)
	}
	return string(out)
}
