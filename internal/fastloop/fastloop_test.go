package fastloop_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proa-io/proa/internal/fastloop"
)

// recorder is a test that only notes why it was skipped.
type recorder struct{ skipped string }

func (*recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) { r.skipped = fmt.Sprintf(format, args...) }

// setShort sets -short until the test ends.
func setShort(t *testing.T, value string) {
	t.Helper()
	f := flag.Lookup("test.short")
	before := f.Value.String()
	t.Cleanup(func() { _ = f.Value.Set(before) })
	if err := f.Value.Set(value); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyTheFastLoopLeavesTestsOut(t *testing.T) {
	for value, want := range map[string]string{"false": "", "true": "left out with -short: starts a server"} {
		setShort(t, value)
		var r recorder
		fastloop.Skip(&r, "starts a server")
		if r.skipped != want {
			t.Errorf("-short=%s: skipped with %q, want %q", value, r.skipped, want)
		}
	}
}

func TestMakeTestLeavesNothingOut(t *testing.T) {
	for file, short := range map[string]bool{"run.sh": false, "check.sh": true} {
		text, err := os.ReadFile(filepath.Join("..", "..", "test", file))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text), "-short"); got != short {
			t.Errorf("test/%s passes -short: %v, want %v", file, got, short)
		}
	}
}
