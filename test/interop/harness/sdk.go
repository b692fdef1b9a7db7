package harness

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/testserver"
)

// SDK returns the folder of an SDK that test/interop/deps.sh has installed: "js",
// "python" or "java". A test without it is skipped, with a word on what to install, and
// fails where CI is set.
func SDK(tb testserver.TB, name string) string {
	tb.Helper()
	fastloop.Skip(tb, "installs an SDK")
	cmd := exec.Command(filepath.Join(Repository(tb), "test", "interop", "deps.sh"), "where", name) //nolint:gosec // our own script
	out, err := cmd.Output()
	if err == nil {
		return strings.TrimSpace(string(out))
	}
	why := err.Error()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		why = strings.TrimSpace(string(exit.Stderr))
	}
	if ci := strings.ToLower(os.Getenv("CI")); !slices.Contains([]string{"", "0", "false", "no"}, ci) {
		tb.Fatalf("%s", why)
	}
	tb.Skipf("%s", why)
	return ""
}
