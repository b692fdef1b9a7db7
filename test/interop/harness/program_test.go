package harness

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary itself is the program that is run: see TestMain.
const mode = "HARNESS_TEST_MODE"

func TestMain(m *testing.M) {
	switch os.Getenv(mode) {
	case "":
		os.Exit(m.Run())
	case "say":
		os.Stdout.WriteString("one\ntwo\nno end")
		os.Exit(3)
	case "stay":
		os.Stdout.WriteString("here\n")
		time.Sleep(time.Minute)
	}
}

// self runs this test binary.
func self(t *testing.T, what string, onLine func(string)) *Program {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Start(t, Command{Name: what, Args: []string{path}, Env: []string{mode + "=" + what}, OnLine: onLine})
}

func TestAProgramsLinesAndExitCodeAreKnown(t *testing.T) {
	var lines []string
	p := self(t, "say", func(line string) { lines = append(lines, line) })
	if code := p.Wait(time.Minute); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if want := []string{"one", "two", "no end"}; !slices.Equal(lines, want) {
		t.Errorf("lines %q, want %q", lines, want)
	}
	if got, want := p.Output(), "one\ntwo\nno end"; got != want {
		t.Errorf("output %q, want %q", got, want)
	}
}

func TestAProgramCanBeStoppedAndKilled(t *testing.T) {
	for _, end := range []func(*Program){func(p *Program) { p.Stop() }, (*Program).Kill} {
		started := make(chan struct{})
		p := self(t, "stay", func(string) { close(started) })
		<-started
		end(p)
		if err := p.cmd.Process.Signal(syscall.Signal(0)); err == nil {
			t.Error("the process is still there")
		}
	}
}

func TestTheEndOfALongOutputIsKept(t *testing.T) {
	o := &output{}
	for range 3 * outputLimit / 100 {
		if _, err := o.Write([]byte(strings.Repeat("x", 99) + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	got := o.String()
	if len(got) < outputLimit || len(got) > 2*outputLimit || !strings.HasSuffix(got, "\nthe end") || !strings.HasPrefix(got, "(the last ") {
		t.Errorf("kept %d bytes, from %.40q to %q", len(got), got, got[max(0, len(got)-20):])
	}
}

func TestTheNameInFrontOfALineIsRemoved(t *testing.T) {
	for line, want := range map[string]string{
		`main | {"check":"a | b"}`: `{"check":"a | b"}`,
		"proa | text":              "text",
		"no name":                  "no name",
	} {
		withoutName(func(got string) {
			if got != want {
				t.Errorf("%q becomes %q, want %q", line, got, want)
			}
		})(line)
	}
}

func TestOtherLinesThanResultsPassBy(t *testing.T) {
	r := NewResults()
	for _, line := range []string{"waiting", `{"level":"info"}`, `{"check":"one","error":"bad"}`, `{"done":1}`, `{"check":broken`} {
		r.Line(line)
	}
	close(r.lines)
	var got []string
	for one := range r.lines {
		switch {
		case one.Done != nil:
			got = append(got, "done")
		default:
			got = append(got, one.Check+": "+strings.SplitN(one.Error, ":", 2)[0])
		}
	}
	want := []string{"one: bad", "done", "a line of results: invalid character 'b' looking for beginning of value"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
