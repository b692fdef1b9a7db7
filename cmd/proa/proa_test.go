package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// execute runs the program with arguments, as the given name.
func execute(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	root := rootCommand()
	var out, errOut bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errOut)
	root.SetArgs(arguments(args))
	err = root.ExecuteContext(t.Context())
	return out.String(), errOut.String(), err
}

func TestTheNameDaprdMeansSidecar(t *testing.T) {
	for _, c := range []struct{ in, want []string }{
		{[]string{"/usr/bin/daprd", "-app-id", "x", "--app-port", "1"}, []string{"sidecar", "--daprd", "--app-id", "x", "--app-port", "1"}},
		{[]string{"daprd.exe", "--version"}, []string{"sidecar", "--daprd", "--version"}},
		{[]string{"proa", "run", "-f", "x"}, []string{"run", "-f", "x"}},
	} {
		if got := arguments(c.in); !slices.Equal(got, c.want) {
			t.Errorf("arguments(%q) = %q, want %q", c.in, got, c.want)
		}
	}
	if out, _, err := execute(t, "daprd", "-version"); err != nil || out != "dev\n" {
		t.Errorf("daprd -version prints %q, %v", out, err)
	}
}

func TestWrongFlagsSayWhatIsRight(t *testing.T) {
	for want, args := range map[string][]string{
		`--dapr-http-port "x" is no port; ports are 1 to 65535, or 0 for any`: {"proa", "sidecar", "--app-id", "a", "--dapr-http-port", "x"},
		`--max-body-size wants a size such as "64Ki", "4Mi" or a number of bytes, not "big"`: {
			"proa", "sidecar", "--app-id", "a", "--max-body-size", "big"},
		`log level "loud" is not known; there is debug, info, warn, error`:        {"proa", "sidecar", "--app-id", "a", "--log-level", "loud"},
		`the application has no id: give --app-id`:                                {"proa", "sidecar"},
		`app id "a.b" cannot be used`:                                             {"proa", "sidecar", "--app-id", "a.b"},
		`mode "kubernetes" is not supported`:                                      {"proa", "sidecar", "--app-id", "a", "--mode", "kubernetes"},
		`app protocol "ftp" is not known; there is http, https, h2c, grpc, grpcs`: {"proa", "sidecar", "--app-id", "a", "--app-protocol", "ftp"},
		`unknown command "gett" for "proa state"; did you mean "get"?`:            {"proa", "state", "gett", "x"},
		`unknown flag: --app-idd`:                                                 {"proa", "sidecar", "--app-idd", "a"},
		`no sidecar is running; start one with`:                                   {"proa", "state", "get", "x", "--home", t.TempDir()},
		`--metadata wants key=value, not "x"`:                                     {"proa", "publish", "--topic", "t", "--address", "127.0.0.1:1", "--metadata", "x"},
	} {
		if _, _, err := execute(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", args, err, want)
		}
	}
}

func TestValidatePrintsOneLinePerProblem(t *testing.T) {
	_, stderr, err := execute(t, "proa", "validate", "../../runtime/testdata/broken/unknown-setting.yaml")
	if err == nil || err.Error() != "2 problems" || strings.Count(stderr, "\n") != 2 ||
		!strings.Contains(stderr, `unknown-setting.yaml:9: Component store: spec.metadata: "redisHots": there is no such setting; did you mean "redisHost"?`) {
		t.Errorf("%v:\n%s", err, stderr)
	}
}

func TestComponentsAreListedAndDescribed(t *testing.T) {
	out, _, err := execute(t, "proa", "components", "list")
	if err != nil || !strings.Contains(out, "state.redis") || !strings.Contains(out, "secretstores.local.env") {
		t.Errorf("list prints %s, %v", out, err)
	}
	out, _, err = execute(t, "proa", "components", "describe", "state.redis")
	if err != nil || !strings.Contains(out, "| `redisHost` | text |") {
		t.Errorf("describe prints %s, %v", out, err)
	}
	if _, _, err := execute(t, "proa", "components", "describe", "state.rediss"); err == nil || !strings.Contains(err.Error(), `did you mean "state.redis"?`) {
		t.Errorf("describe of a slip: %v", err)
	}
}

func TestCompletionIsThere(t *testing.T) {
	out, _, err := execute(t, "proa", "completion", "bash")
	if err != nil || !strings.Contains(out, "__start_proa") {
		t.Errorf("completion: %v", err)
	}
}

func TestOutputIsPrefixedLineByLine(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out}
	long, short := s.writer("catalog", false), s.writer("a", true)
	var also bytes.Buffer
	short.also = &also
	fmt.Fprint(long, "one\ntw")
	fmt.Fprint(short, "x\r\n")
	fmt.Fprint(long, "o\nrest")
	long.flush()
	want := "catalog | one\na       | x\ncatalog | two\ncatalog | rest\n"
	if out.String() != want || also.String() != "x\r\n" {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestAnEndlessLineIsBrokenUp(t *testing.T) {
	var out bytes.Buffer
	l := (&screen{out: &out}).writer("a", false)
	_, _ = io.WriteString(l, strings.Repeat("x", maxLine+10))
	if len(l.rest) > maxLine || !strings.Contains(out.String(), "\n") {
		t.Errorf("%d bytes are held back", len(l.rest))
	}
}

func TestTheExitCodeOfTheApplicationIsKept(t *testing.T) {
	p := &process{command: []string{"sh", "-c", "exit 7"}, out: io.Discard}
	err := p.run(t.Context())
	var exit exitError
	if !errors.Is(err, errExited) || !errors.As(err, &exit) || exit.code != 7 {
		t.Errorf("run = %v", err)
	}
	p.command = []string{"true"}
	if err := p.run(t.Context()); !errors.Is(err, errExited) || errors.As(err, &exit) && exit.code == 0 {
		t.Errorf("run = %v", err)
	}
	p.command = []string{"/does/not/exist"}
	if err := p.run(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be started") {
		t.Errorf("run = %v", err)
	}
}
