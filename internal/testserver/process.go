package testserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/freeport"
)

const (
	// readyWithin bounds how long a server may take to answer. It is long
	// because it only costs time when something is broken, and test machines
	// are slow at the worst moments.
	readyWithin = 2 * time.Minute
	// stopWithin bounds an orderly stop, after which the server is killed.
	stopWithin = 15 * time.Second
	// probeWithin bounds one question of a probe.
	probeWithin = 5 * time.Second
	// pollEvery is the pause between two probes.
	pollEvery = 10 * time.Millisecond
	// portAttempts is how many ports are tried when others keep taking them.
	portAttempts = 8
	// restartAttempts is how often a server is started again on its own port.
	restartAttempts = 50
	// outputLimit is how much of a server's output failures show.
	outputLimit = 16 << 10
)

// spec describes how one kind of server is run.
type spec struct {
	// program is the path of the executable.
	program string
	// setUp fills p.Dir before the first start; nil when there is nothing to do.
	setUp func(p *Process) error
	// args returns the arguments to listen on 127.0.0.1:port and keep
	// everything in dir, writing a configuration file there if need be. It is
	// called once per port tried.
	args func(dir string, port int) ([]string, error)
	// env returns what is added to the environment; nil for nothing. It is
	// called after args, once per start.
	env func(dir string, port int) []string
	// probe returns the server's version when it answers at p.Addr and says, as
	// far as its protocol can, that it is the very process p runs: another one
	// may have taken the port.
	probe func(p *Process) (version string, err error)
	// unprivileged is for servers that refuse to run as root: tests that do are
	// to start them as another user.
	unprivileged bool
	// lingers is what the server prints when something of the process before it
	// is not gone yet, and it should be tried again; "" for nothing.
	lingers string
	// pickPort replaces freeport.Pick in this package's own tests.
	pickPort func() (int, error)
}

// Process is a running server. Its methods are safe for concurrent use, except
// that Kill, Stop and Restart must not overlap.
type Process struct {
	tb   TB
	spec spec
	dir  string
	port int
	args []string
	user *account // nil for our own

	mu      sync.Mutex
	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has ended
	version string
}

// start runs a server until the test ends and returns when it answers.
func start(tb TB, s spec) *Process {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	if s.pickPort == nil {
		s.pickPort = freeport.Pick
	}
	// Not tb.TempDir: Unix sockets go there, and their paths must be short.
	dir, err := os.MkdirTemp("", "proa-*")
	if err != nil {
		tb.Fatalf("testserver: %v", err)
	}
	p := &Process{tb: tb, spec: s, dir: dir}
	tb.Cleanup(p.cleanup)
	if s.unprivileged {
		if p.user, err = otherUser(dir); err != nil {
			tb.Fatalf("testserver: %s: %v", p.name(), err)
		}
	}
	if s.setUp != nil {
		if err := s.setUp(p); err != nil {
			tb.Fatalf("testserver: %v", err)
		}
	}
	for attempt := 1; ; attempt++ {
		if p.port, err = s.pickPort(); err != nil {
			tb.Fatalf("testserver: %v", err)
		}
		if p.args, err = s.args(dir, p.port); err != nil {
			tb.Fatalf("testserver: %s: %v", p.name(), err)
		}
		err = p.run()
		if err == nil {
			return p
		}
		if attempt == portAttempts || !p.portWasTaken(err) {
			tb.Fatalf("%v", err)
		}
	}
}

// Addr returns the server's address, "127.0.0.1:port". It stays the same over
// Kill, Stop and Restart.
func (p *Process) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

// Port returns the server's port.
func (p *Process) Port() int { return p.port }

// Dir returns the directory of the server's files. It is removed when the test
// ends.
func (p *Process) Dir() string { return p.dir }

// Pid returns the process id of the server, or of the last one when it is down.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Running reports whether the server's process is there.
func (p *Process) Running() bool {
	select {
	case <-p.done():
		return false
	default:
		return true
	}
}

// Version returns what the server calls itself, "7.0.15".
func (p *Process) Version() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.version
}

// Kill ends the server with SIGKILL and waits until it is gone, with the
// processes it has started. Nothing is flushed; open connections are reset or
// closed by the kernel.
func (p *Process) Kill() {
	var left []int
	if p.Running() {
		left = children(p.Pid())
	}
	p.signal(syscall.SIGKILL)
	<-p.done()
	endAll(left)
}

// Stop asks the server to end with SIGTERM and waits until it is gone. One that
// takes too long is killed.
func (p *Process) Stop() {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done():
	case <-time.After(stopWithin):
		p.tb.Logf("%s did not stop within %v and was killed", p.name(), stopWithin)
		p.Kill()
	}
}

// Restart stops the server if it runs, starts it again with the same port,
// directory and options, and returns when it answers. It ends the test when it
// does not.
func (p *Process) Restart() {
	p.tb.Helper()
	if p.Running() {
		p.Stop()
	}
	for attempt := 1; ; attempt++ {
		err := p.run()
		if err == nil {
			return
		}
		if attempt == restartAttempts || !p.portWasTaken(err) && !p.lingering(err) {
			p.tb.Fatalf("restart: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Output returns the end of what the server has printed, over all its starts.
func (p *Process) Output() string {
	text, err := os.ReadFile(p.outputFile())
	if err != nil {
		return err.Error()
	}
	if over := len(text) - outputLimit; over > 0 {
		return "..." + string(text[over:])
	}
	return string(text)
}

// run launches the process and waits until it answers. When it does not, no
// process is left.
func (p *Process) run() error {
	if err := p.launch(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name(), err)
	}
	if err := p.awaitReady(); err != nil {
		p.Kill()
		return fmt.Errorf("%w\nargs: %q\nit printed:\n%s", err, p.args, p.Output())
	}
	return nil
}

// launch starts the process and one goroutine that stays with it until it ends.
// That goroutine keeps its thread, because Linux ties a child's death signal to
// the thread, not the process, that started it.
func (p *Process) launch() error {
	out, err := os.OpenFile(p.outputFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(p.spec.program, p.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, out, out
	cmd.Env = p.environ()
	if p.spec.env != nil {
		cmd.Env = append(cmd.Env, p.spec.env(p.dir, p.port)...)
	}
	cmd.SysProcAttr = dieWithParent()
	p.user.apply(cmd)

	started, exited := make(chan error), make(chan struct{})
	go func() {
		defer close(exited)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended does not matter: it is down
		}
	}()
	if err := <-started; err != nil {
		<-exited
		return err
	}
	p.mu.Lock()
	p.cmd, p.exited = cmd, exited
	p.mu.Unlock()
	return nil
}

var errExited = errors.New("it ended before it answered")

func (p *Process) awaitReady() error {
	deadline := time.Now().Add(readyWithin)
	for {
		version, err := p.spec.probe(p)
		if !p.Running() {
			return fmt.Errorf("%s on %s: %w", p.name(), p.Addr(), errExited)
		}
		if err == nil {
			p.mu.Lock()
			p.version = version
			p.mu.Unlock()
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s on %s did not answer within %v: %w", p.name(), p.Addr(), readyWithin, err)
		}
		select {
		case <-p.done():
		case <-time.After(pollEvery):
		}
	}
}

// portWasTaken tells a server that lost the race for its port from one that
// could not start at all.
func (p *Process) portWasTaken(err error) bool {
	if !errors.Is(err, errExited) {
		return false
	}
	if strings.Contains(err.Error(), "ddress already in use") {
		return true
	}
	l, err := net.Listen("tcp", p.Addr())
	if err != nil {
		return true
	}
	_ = l.Close()
	return false
}

// lingering tells a server that found remains of the one before it from one
// that could not start at all.
func (p *Process) lingering(err error) bool {
	return p.spec.lingers != "" && errors.Is(err, errExited) && strings.Contains(err.Error(), p.spec.lingers)
}

// environ is the environment of all that is run for the server. Its folder for
// temporary files is its own: a MariaDB that starts removes those of every other one
// in the same folder, which then fails.
func (p *Process) environ() []string { return append(os.Environ(), "TMPDIR="+p.dir) }

// runToEnd runs a program as the user that the server will run as.
func (p *Process) runToEnd(program string, args ...string) error { return p.feed("", program, args...) }

// feed is runToEnd for a program that reads text.
func (p *Process) feed(text, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(text)
	cmd.Dir, cmd.Env = p.dir, append(p.environ(), "LC_ALL=C", "HOME="+p.dir)
	p.user.apply(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w; it printed:\n%s", filepath.Base(program), err, out)
	}
	return nil
}

// cleanup ends the server and removes its directory. It does not ask nicely:
// what is kept is thrown away in the next line.
func (p *Process) cleanup() {
	if p.exited == nil {
		_ = os.RemoveAll(p.dir)
		return
	}
	p.Kill()
	if p.tb.Failed() {
		p.tb.Logf("%s on %s printed:\n%s", p.name(), p.Addr(), p.Output())
	}
	if err := os.RemoveAll(p.dir); err != nil {
		p.tb.Logf("testserver: %v", err)
	}
}

// signal reaches the server and whatever it has forked. A process that is gone
// needs none.
func (p *Process) signal(sig syscall.Signal) {
	if !p.Running() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	signalGroup(p.cmd.Process, sig)
}

func (p *Process) done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

func (p *Process) name() string { return filepath.Base(p.spec.program) }

func (p *Process) outputFile() string { return filepath.Join(p.dir, "output.log") }

// ask opens a connection to the server for one probe.
func (p *Process) ask(exchange func(net.Conn) (version string, err error)) (string, error) {
	conn, err := net.DialTimeout("tcp", p.Addr(), probeWithin)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(probeWithin)); err != nil {
		return "", err
	}
	return exchange(conn)
}

// lookPath finds a program in PATH and in the folders where distributions put
// servers, which are not in everybody's PATH.
func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/usr/local/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", err
}
