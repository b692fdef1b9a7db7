package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/proa-io/proa/internal/testserver"
)

const (
	// stopWithin bounds an orderly stop, after which a program is killed.
	stopWithin = 20 * time.Second
	// outputLimit is how much of a program's output is kept.
	outputLimit = 256 << 10
	// longestLine bounds a line of output.
	longestLine = 64 << 10
)

// Command says what to run.
type Command struct {
	// Name stands for the program in messages.
	Name string
	// Args are the path of the program and its arguments.
	Args []string
	// Dir is its working directory; that of the test when empty.
	Dir string
	// Env is added to the environment of the test, of which everything is left
	// out that sidecars, applications and SDKs look at.
	Env []string
	// OnLine, unless nil, gets every line of output, one at a time.
	OnLine func(string)
}

// Program is a process that belongs to a test.
type Program struct {
	tb   testserver.TB
	name string
	cmd  *exec.Cmd
	out  *output

	exited chan struct{}
	code   int // valid once exited is closed
}

// Start runs a program until the test ends. When the test has failed, the end of
// the program's output is in the log.
func Start(tb testserver.TB, c Command) *Program {
	tb.Helper()
	cmd := exec.Command(c.Args[0], c.Args[1:]...) //nolint:gosec // what a test asks for
	cmd.Dir, cmd.Env = c.Dir, append(cleanEnvironment(), c.Env...)
	cmd.WaitDelay = 2 * time.Second // for what holds the output without being in our group
	cmd.SysProcAttr = endWithParent()
	p := &Program{tb: tb, name: c.Name, cmd: cmd, out: &output{onLine: c.OnLine}, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		tb.Fatalf("starting %s: %v", c.Name, err)
	}
	tb.Cleanup(p.cleanup)
	return p
}

// run stays with the process until it ends. It keeps its thread, because Linux
// ties a child's death signal to the thread, not the process, that started it.
func (p *Program) run(started chan<- error) {
	defer close(p.exited)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	err = p.cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		p.code = exit.ExitCode()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		p.code = -1
	}
	p.out.flush()
}

// Done is closed when the program has ended.
func (p *Program) Done() <-chan struct{} { return p.exited }

// Wait returns the program's exit code when it ends within the time, and ends
// the test otherwise.
func (p *Program) Wait(within time.Duration) int {
	p.tb.Helper()
	select {
	case <-p.exited:
	case <-time.After(within):
		p.tb.Fatalf("%s did not end within %v", p.name, within)
	}
	return p.code
}

// Stop asks the program to end and waits until it has, with the exit code. One
// that takes too long is killed, which fails the test.
func (p *Program) Stop() int {
	p.tb.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopWithin):
		p.Kill()
		p.tb.Fatalf("%s did not stop within %v and was killed", p.name, stopWithin)
	}
	return p.code
}

// Kill ends the program and its process group at once.
func (p *Program) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// Output returns the end of what the program has printed.
func (p *Program) Output() string { return p.out.String() }

// String returns the program's name.
func (p *Program) String() string { return p.name }

func (p *Program) cleanup() {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopWithin):
		p.Kill()
		p.tb.Logf("%s did not stop within %v and was killed", p.name, stopWithin)
	}
	if p.tb.Failed() {
		p.tb.Logf("%s printed:\n%s", p.name, p.Output())
	}
}

func (p *Program) signal(s syscall.Signal) {
	select {
	case <-p.exited:
	default:
		signalGroup(p.cmd.Process, s)
	}
}

// cleanEnvironment is the test's environment without what would lead a sidecar,
// an application or an SDK elsewhere.
func cleanEnvironment() []string {
	out := []string{"NO_COLOR=1"}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		switch {
		case name == "NAMESPACE", name == "POD_NAME":
		case strings.HasPrefix(name, "DAPR_"), strings.HasPrefix(name, "APP_"), strings.HasPrefix(name, "PROA_"),
			strings.HasPrefix(name, "OTEL_"), strings.HasSuffix(strings.ToUpper(name), "_PROXY"):
		default:
			out = append(out, entry)
		}
	}
	return out
}

// output keeps the end of what is written and passes whole lines on.
type output struct {
	onLine func(string)

	mu   sync.Mutex
	kept []byte
	line []byte
	cut  bool
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, p...)
	if over := len(o.kept) - outputLimit; over > outputLimit/2 {
		o.kept, o.cut = append(o.kept[:0], o.kept[over:]...), true
	}
	o.line = append(o.line, p...)
	for {
		end := bytes.IndexByte(o.line, '\n')
		if end < 0 {
			break
		}
		o.pass(o.line[:end])
		o.line = o.line[end+1:]
	}
	if len(o.line) > longestLine {
		o.pass(o.line)
		o.line = nil
	}
	return len(p), nil
}

func (o *output) pass(line []byte) {
	if o.onLine != nil {
		o.onLine(string(line))
	}
}

// flush passes on a last line without an end.
func (o *output) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.line) > 0 {
		o.pass(o.line)
		o.line = nil
	}
}

// String returns what was kept.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cut {
		return fmt.Sprintf("(the last %d bytes)\n%s", len(o.kept), o.kept)
	}
	return string(o.kept)
}
