package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

const (
	// within bounds everything that is waited for. It is long because it costs
	// time only where something is broken.
	within = 30 * time.Second
	// pollEvery is the pause between two looks at something that gives no
	// signal.
	pollEvery = 10 * time.Millisecond
)

// eventually calls f until it returns nil, and returns what it said last when
// it does not for too long.
func eventually(f func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", within, err)
		}
		time.Sleep(pollEvery)
	}
}

// process is a program that runs beside the test. Its methods are safe for
// concurrent use.
type process struct {
	name   string
	log    string // file with all output
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended and all output is there
}

// launch says what to start.
type launch struct {
	name string   // what messages call it; its output goes to <name>.log
	dir  string   // where it runs
	logs string   // folder of the output; dir when empty
	env  []string // the whole environment
	args []string // program and arguments
}

// start starts a program. The output of an earlier process of the same name is
// kept apart, in <name>.log.before. The program does not outlive the test binary
// where the kernel can see to that; apart from that the caller kills it.
func start(l launch) (*process, error) {
	if l.logs == "" {
		l.logs = l.dir
	}
	p := &process{name: l.name, log: filepath.Join(l.logs, l.name+".log"), exited: make(chan struct{})}
	if err := os.Rename(p.log, p.log+".before"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command(l.args[0], l.args[1:]...)
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = l.dir, l.env, out, out
	p.cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	go func() {
		defer close(p.exited)
		runtime.LockOSThread() // the death signal is tied to the thread that starts
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // the code is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		<-p.exited
		return nil, err
	}
	return p, nil
}

// signal sends a signal to the process, not to what it has started.
func (p *process) signal(s syscall.Signal) {
	if !p.ended() {
		_ = p.cmd.Process.Signal(s)
	}
}

// kill ends the process and all of its group, and waits until it is gone.
func (p *process) kill() {
	if !p.ended() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-p.exited
}

// code waits until the process has ended and returns its exit code, -1 for one
// that a signal has ended.
func (p *process) code() (int, error) {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(within):
		return 0, fmt.Errorf("%s has not ended within %v; it printed:\n%s", p.name, within, p.output())
	}
}

// stop asks the process to end with SIGTERM and wants exit code 0.
func (p *process) stop() error {
	p.signal(syscall.SIGTERM)
	code, err := p.code()
	if err == nil && code != 0 {
		err = fmt.Errorf("%s ended with exit code %d; it printed:\n%s", p.name, code, p.output())
	}
	return err
}

// output returns all that was printed so far.
func (p *process) output() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// await waits until the output matches a regular expression, in which ^ and $
// are the ends of lines.
func (p *process) await(pattern string) error {
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(within)
	for {
		ended := p.ended() // asked first: all output is there then
		text := p.output()
		switch {
		case re.MatchString(text):
			return nil
		case ended:
			return fmt.Errorf("%s has ended and not printed %q, but:\n%s", p.name, pattern, text)
		case time.Now().After(deadline):
			return fmt.Errorf("%s has not printed %q within %v, but:\n%s", p.name, pattern, within, text)
		}
		time.Sleep(pollEvery)
	}
}

// ended reports whether the process is gone.
func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}
