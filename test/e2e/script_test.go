package e2e_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/internal/testserver"
)

// TestScripts runs the stories in testdata. Each has an empty home folder of its
// own, and `proa`, `daprd` and `app` (see app_test.go) in its PATH. Beside the
// commands of testscript there are:
//
//	freeport NAME...            sets variables to ports that are free
//	expand FILE...              puts variables in place of ${NAME} in files
//	start NAME PROGRAM ARG...   starts a program; its output goes to NAME.log
//	await NAME PATTERN          waits until that output matches
//	signal SIGNAL NAME          sends HUP, INT, TERM or KILL
//	ended NAME CODE             waits for the end and wants an exit code
//	quit NAME                   signal TERM and ended with code 0
//	http [flags] METHOD URL     makes a request; the answer is the stdout
//	poll http ...               the same, again and again until it is as wanted
//	redis NAME up|down          has a redis-server, its address in $NAME
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"freeport": cmdFreeport, "expand": cmdExpand, "start": cmdStart, "await": cmdAwait, "signal": cmdSignal, "ended": cmdEnded, "quit": cmdQuit,
			"http": cmdHTTP, "poll": cmdPoll, "redis": cmdRedis,
		},
	})
}

// story is what the commands of one script share.
type story struct {
	tb        testing.TB
	env       []string // of all programs
	processes map[string]*process
	redis     map[string]*testserver.RedisServer
}

type storyKey struct{}

// passedOn are the variables that programs get from a script that sets them.
var passedOn = []string{"APP_API_TOKEN", "DAPR_API_TOKEN", "NAMESPACE", "PROA_HOME"}

func setup(env *testscript.Env) error {
	tb, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("the script does not run in a test")
	}
	env.Setenv("PATH", filepath.Dir(proa(tb))+string(filepath.ListSeparator)+env.Getenv("PATH"))
	env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("NO_PROXY", "*")
	s := &story{tb: tb, env: slices.Clone(env.Vars), processes: map[string]*process{}, redis: map[string]*testserver.RedisServer{}}
	env.Values[storyKey{}] = s
	env.Defer(func() {
		for _, p := range s.processes {
			p.kill()
			if tb.Failed() {
				tb.Logf("%s printed:\n%s", p.name, p.output())
			}
		}
	})
	return nil
}

func of(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

// process returns the process with a name.
func (s *story) process(ts *testscript.TestScript, name string) *process {
	p := s.processes[name]
	if p == nil {
		ts.Fatalf("nothing was started as %s", name)
	}
	return p
}

func usage(ts *testscript.TestScript, neg, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func cmdFreeport(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "freeport NAME...")
	var all []net.Listener // held together, so that no port comes twice
	for _, name := range args {
		l, err := freeport.Listen()
		ts.Check(err)
		all = append(all, l)
		ts.Setenv(name, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	for _, l := range all {
		ts.Check(l.Close())
	}
}

func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "expand FILE...")
	for _, file := range args {
		text := braced.ReplaceAllStringFunc(ts.ReadFile(file), func(name string) string { return ts.Getenv(name[2 : len(name)-1]) })
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

var braced = regexp.MustCompile(`\$\{\w+\}`)

func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "start NAME PROGRAM ARG...")
	s := of(ts)
	if old := s.processes[args[0]]; old != nil && !old.ended() {
		ts.Fatalf("%s still runs", args[0])
	}
	env := slices.Clone(s.env)
	for _, name := range passedOn {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	p, err := start(launch{name: args[0], dir: ts.MkAbs("."), logs: ts.Getenv("WORK"), env: env, args: args[1:]})
	ts.Check(err)
	s.processes[args[0]] = p
}

func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "await NAME PATTERN")
	ts.Check(of(ts).process(ts, args[0]).await(args[1]))
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	usage(ts, neg, len(args) == 2 && signals[args[0]] != 0, "signal HUP|INT|TERM|KILL NAME")
	of(ts).process(ts, args[1]).signal(signals[args[0]])
}

func cmdEnded(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "ended NAME CODE")
	code, err := of(ts).process(ts, args[0]).code()
	ts.Check(err)
	if strconv.Itoa(code) != args[1] {
		ts.Fatalf("%s ended with exit code %d", args[0], code)
	}
}

func cmdQuit(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "quit NAME")
	ts.Check(of(ts).process(ts, args[0]).stop())
}

func cmdRedis(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2 && (args[1] == "up" || args[1] == "down"), "redis NAME up|down")
	s, up := of(ts), args[1] == "up"
	r := s.redis[args[0]]
	if r == nil {
		r = testserver.Redis(s.tb, testserver.RedisOptions{})
		s.redis[args[0]] = r
		ts.Setenv(args[0], r.Addr())
	}
	switch {
	case up && !r.Running():
		r.Restart()
	case !up:
		r.Stop()
	}
}
